//! How sure a ranking is: the variants of its scores, read beside them.

use crate::attribution::ranking::{Ranking, ScoreRows};
use crate::attribution::stability;
use crate::attribution::store::TensorFile;
use crate::job::brief::copies::{Copies, ranked};
use crate::job::error::JobError;
use crate::job::folder::rankings::{SideStability, Stability, VariantShare};
use crate::job::folder::{output, places};
use crate::job::plan::Plan;

/// Score matrices of the first answer's variants.
pub(in crate::job) struct Variants(Vec<Scores>);

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
        let mut found = vec![];
        for (variant, of) in plan.answers.iter().enumerate().filter(|(_, of)| answer == 0 && of.variant.is_some()) {
            let file = places::scores_file(plan, variant);
            if !crate::presence::is_file(&file) {
                let folder = plan.job.output.path.clone();
                return Err(JobError::MissingStep { folder, what: "the scores of the variants", step: "score" });
            }
            let file = TensorFile::open_checked(&file)?;
            let shape = &file.spec("scores")?.shape;
            let (queries, examples) = (shape[0], shape[1]);
            let rows = ScoreRows::new(file.f32("scores")?, queries, examples).map_err(output::ranking_error)?;
            let rankings = ranked(plan.copies.as_ref(), rows, plan.job.output.top).map_err(output::ranking_error)?;
            let rankings = rankings.into_iter().map(|ranking| by_first_copies(ranking, plan.copies.as_ref())).collect();
            found.push(Scores { name: of.name.clone(), file, examples, rankings });
        }
        Ok(Some(Self(found)).filter(|variants| !variants.0.is_empty()))
    }

    /// The lowest and the highest of an example's score and its variants.
    pub(in crate::job) fn interval(&self, query: usize, column: usize, score: f32) -> [f32; 2] {
        let of_variant = |scores: &Scores| {
            let values = scores.file.f32("scores").expect("`of` looked it up");
            values[query * scores.examples + column]
        };
        stability::interval(score, self.0.iter().map(of_variant))
    }

    /// How much of a ranking its variants have too.
    pub(in crate::job) fn stability(&self, ranking: &Ranking, copies: Option<&Copies>) -> Stability {
        let ranking = &by_first_copies(ranking.clone(), copies);
        let side = |of: fn(&Ranking) -> &[(usize, f32)]| {
            let variants = self.0.iter().map(|scores| of(&scores.rankings[ranking.query]));
            let found = stability::of_side(of(ranking), &variants.collect::<Vec<_>>());
            let names = self.0.iter().map(|scores| scores.name.clone());
            let kept = names.zip(found.kept).map(|(variant, share)| VariantShare { variant, share }).collect();
            SideStability { listed: of(ranking).len(), stable: found.stable, kept }
        };
        Stability { proponents: side(|ranking| &ranking.proponents), opponents: side(|ranking| &ranking.opponents) }
    }
}

/// A ranking in which each entry stands under the first of its copies: which copy is the strongest may differ by rounding.
fn by_first_copies(mut ranking: Ranking, copies: Option<&Copies>) -> Ranking {
    if let Some(copies) = copies {
        let sides = ranking.proponents.iter_mut().chain(&mut ranking.opponents);
        sides.for_each(|(column, _)| *column = copies.first(*column));
    }
    ranking
}
