//! How sure a ranking is: the variants of its scores, read beside them.

use crate::attribution::ranking::{Ranking, ScorePlace, ScoreRows};
use crate::attribution::stability;
use crate::attribution::store::TensorFile;
use crate::job::brief::copies::{Copies, ranked};
use crate::job::error::JobError;
use crate::job::folder::intervals::StoredIntervals;
use crate::job::folder::rankings::{Compared, SideStability, Stability, VariantShare};
use crate::job::folder::{output, places};
use crate::job::plan::Plan;

/// Scores of the first answer's variants.
pub(in crate::job) struct Variants {
    /// The variants' scores of each query's strongest examples and of a sample, with the rankings that name these
    /// strongest examples; `None` where variants score all examples.
    shortlist: Option<(StoredIntervals, Vec<Ranking>)>,
    /// The variants' scores of all examples; empty where they score some alone.
    whole: Vec<Scores>,
    /// Examples that are scored.
    examples: usize,
}

/// The score matrix of one variant.
struct Scores {
    name: String,
    file: TensorFile,
    examples: usize,
    /// The best and the worst of every query.
    rankings: Vec<Ranking>,
}

impl Variants {
    /// The variants of an answer; none for answers other than the first, and where a job asks for no intervals.
    ///
    /// # Errors
    /// [`JobError::MissingStep`] if scores of one are not there.
    pub(in crate::job) fn of(plan: &Plan, answer: usize) -> Result<Option<Self>, JobError> {
        let missing = || {
            let folder = plan.job.output.path.clone();
            JobError::MissingStep { folder, what: "the scores of the variants", step: "score" }
        };
        let shortlisted = plan.shortlisted();
        let mut found = vec![];
        let is_whole = |variant: usize| plan.answers[variant].variant.is_some() && !shortlisted.contains(&variant);
        for variant in (0..plan.answers.len()).filter(|&variant| answer == 0 && is_whole(variant)) {
            let file = places::scores_file(plan, variant);
            if !crate::presence::is_file(&file) {
                return Err(missing());
            }
            let file = TensorFile::open_checked(&file)?;
            let shape = &file.spec("scores")?.shape;
            let (queries, examples) = (shape[0], shape[1]);
            let rows = ScoreRows::new(file.f32("scores")?, queries, examples).map_err(output::ranking_error)?;
            let rankings = ranked(plan.copies.as_ref(), rows, plan.job.output.top).map_err(output::ranking_error)?;
            let rankings = rankings.into_iter().map(|ranking| by_first_copies(ranking, plan.copies.as_ref())).collect();
            found.push(Scores { name: plan.answers[variant].name.clone(), file, examples, rankings });
        }
        let shortlist = match plan.shortlist_key().filter(|_| answer == 0) {
            None => None,
            Some(key) => {
                let stored = StoredIntervals::read(plan, &key)?.ok_or_else(missing)?;
                let strongest = strongest_of(plan, stored.depth)?;
                Some((stored, strongest))
            }
        };
        let is_empty = shortlist.is_none() && found.is_empty();
        let examples = plan.training.columns.len();
        Ok((!is_empty).then_some(Self { shortlist, whole: found, examples }))
    }

    /// The lowest and the highest of an example's score and its variants; none if some variant has no score of it.
    pub(in crate::job) fn interval(&self, at: ScorePlace, score: f32) -> Option<[f32; 2]> {
        let of_variant = |scores: &Scores| {
            let values = scores.file.f32("scores").expect("`of` looked it up");
            values[at.query * scores.examples + at.column]
        };
        let shortlisted = match &self.shortlist {
            None => &[],
            Some((stored, _)) => stored.of(at)?,
        };
        Some(stability::interval(score, shortlisted.iter().copied().chain(self.whole.iter().map(of_variant))))
    }

    /// How much of a ranking its variants have too; none if some variant has no score of a listed example.
    pub(in crate::job) fn stability(&self, ranking: &Ranking, copies: Option<&Copies>) -> Option<Stability> {
        let ranking = &by_first_copies(ranking.clone(), copies);
        let side = |of: fn(&Ranking) -> &[(usize, f32)], sign: f32| {
            let listed = of(ranking);
            let (mut names, mut kept) = (vec![], vec![]);
            if let Some((stored, strongest)) = &self.shortlist {
                names.extend(stored.names.iter().cloned());
                kept.extend(stored.kept(ranking.query, listed, sign, strongest.get(ranking.query)?)?);
            }
            for scores in &self.whole {
                names.push(scores.name.clone());
                kept.push(stability::is_kept(listed, of(&scores.rankings[ranking.query])));
            }
            let found = stability::of_kept(&kept);
            let kept = names.into_iter().zip(found.kept).map(|(variant, share)| VariantShare { variant, share });
            Some(SideStability { listed: listed.len(), stable: found.stable, kept: kept.collect() })
        };
        let compared = self.shortlist.as_ref().map(|(stored, _)| Compared {
            strongest: stored.depth,
            sample: stored.control.len(),
            of: self.examples,
        });
        Some(Stability {
            compared,
            proponents: side(|ranking| &ranking.proponents, 1.0)?,
            opponents: side(|ranking| &ranking.opponents, -1.0)?,
        })
    }
}

/// Each query's strongest examples of either side by the first answer's scores.
pub(in crate::job) fn strongest_of(plan: &Plan, depth: usize) -> Result<Vec<Ranking>, JobError> {
    let file = TensorFile::open_checked(&places::scores_file(plan, 0))?;
    let shape = &file.spec("scores")?.shape;
    let rows = ScoreRows::new(file.f32("scores")?, shape[0], shape[1]).map_err(output::ranking_error)?;
    ranked(None, rows, depth).map_err(output::ranking_error)
}

/// A ranking in which each entry stands under the first of its copies: which copy is the strongest may differ by rounding.
fn by_first_copies(mut ranking: Ranking, copies: Option<&Copies>) -> Ranking {
    if let Some(copies) = copies {
        let sides = ranking.proponents.iter_mut().chain(&mut ranking.opponents);
        sides.for_each(|(column, _)| *column = copies.first(*column));
    }
    ranking
}
