//! Scores of a run: computed pass by pass and part by part, joined into a file for each answer at a fixed place.

use std::ops::Range;
use std::path::PathBuf;

use crate::attribution::ranking::{Ranking, ScorePlace, TopK};
use crate::attribution::store::{Key, Metadata, Part, TensorData, check_cover, gaps, list_parts};
use crate::attribution::{ChunkEnd, Event, LegFn, Pass, QueryRows, ScoreColumns, score_in_sets};
use crate::curvature::QuadraticForm;
use crate::job::brief::answers::{OwnForm, ScorePass};
use crate::job::budget::limits::PENDING;
use crate::job::error::JobError;
use crate::job::folder::places::SCORES;
use crate::job::folder::{output, places, present};
use crate::job::number::Number;
use crate::job::request::Normalize;
use crate::job::request::StoreScores;
use crate::job::steps::context::Run;
use crate::job::steps::query_vectors::{StoredVectors, rows_of};
use crate::job::steps::results::{Sums, write_scores};
use crate::job::training::StageExample;

impl Run<'_> {
    /// Answers whose results are not there yet.
    pub(in crate::job) fn open_answers(&self) -> Result<Vec<usize>, JobError> {
        let mut open = vec![];
        for answer in self.plan.scored_answers() {
            let key = self.plan.answer_key(answer).ok_or(JobError::NoQueries)?;
            if !present::has_results(self.plan, answer, &key)? {
                open.push(answer);
            }
        }
        Ok(open)
    }

    /// Scores what is missing of this process's range; one that has the whole range joins the parts.
    pub(in crate::job) fn score<T: Number>(&self) -> Result<Option<String>, JobError> {
        let open = self.open_answers()?;
        if open.is_empty() {
            self.observer().event(Event::Reused { pass: Pass::Scores });
        }
        // all answers share their passes, so that what is scored does not depend on what was joined before
        let passes = if open.is_empty() { vec![] } else { self.plan.score_passes(&self.plan.scored_answers()) };
        for pass in &passes {
            let key = self.plan.pass_key(pass).ok_or(JobError::NoQueries)?;
            let range = self.range(pass.site.stage);
            let done = self.store.parts(SCORES, &key)?;
            for gap in gaps(&done, range.start as u64..range.end as u64) {
                self.score_gap::<T>(pass, &key, gap.start as usize..gap.end as usize)?;
            }
        }
        if self.walks_to_itself() {
            self.self_influence::<T>()?;
        }
        let folder = self.store.folder().display();
        if let Some(shard) = self.shard {
            return Ok(Some(format!("when all {} shards are done: `ascribe merge --out {folder}`", shard.count())));
        }
        let mut parts = Vec::with_capacity(passes.len());
        for pass in &passes {
            let key = self.plan.pass_key(pass).ok_or(JobError::NoQueries)?;
            parts.push(self.store.parts(SCORES, &key)?);
        }
        self.join_all(&open, &passes, &parts)?;
        if open.is_empty() {
            // a process that was killed right after it wrote the scores left them
            self.remove_parts()?;
        }
        if self.walks_to_itself() {
            self.join_self_influence(&[])?;
        }
        Ok(None)
    }

    /// Joins the shards' sums or score parts, whichever are there.
    pub(in crate::job) fn merge<T: Number>(&self, from: &[PathBuf]) -> Result<Option<String>, JobError> {
        if let Some(next) = self.merge_fit::<T>(from)? {
            return Ok(Some(next));
        }
        let query =
            || format!("the curvature is complete; next: `ascribe query --out {}`", self.store.folder().display());
        if self.plan.queries.is_none() {
            // joined before: by a merge that was killed before it could say so, or asked for twice
            return Ok(Some(query()));
        }
        let next = format!("next: `ascribe rank --out {}`", self.store.folder().display());
        let open = self.open_answers()?;
        let passes = self.plan.score_passes(&self.plan.scored_answers());
        if open.is_empty() {
            // joined before: by a merge that was killed before it tidied up, or asked for twice
            self.observer().event(Event::Reused { pass: Pass::Scores });
            self.remove_parts()?;
            self.shortlist::<T>()?;
            self.tokens::<T>()?;
            return Ok(Some(format!("the scores are joined; {next}")));
        }
        for set in self.plan.vector_sets(&self.plan.all_answers()) {
            if self.find_vectors(set)?.is_none() {
                return Ok(Some(query()));
            }
        }
        let folders: Vec<_> = std::iter::once(self.store.folder().to_owned()).chain(from.iter().cloned()).collect();
        let found = list_parts(&folders, SCORES)?;
        let keys = passes.iter().map(|pass| self.plan.pass_key(pass).ok_or(JobError::NoQueries));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let parts = keys.iter().map(|key| {
            // a stranger's part stays in, and is refused by name
            let of_this = |part: &&Part| part.key == *key || !keys.contains(&part.key);
            let mut parts: Vec<Part> = found.iter().filter(of_this).cloned().collect();
            parts.sort_by_key(|part| part.range.start);
            parts
        });
        let parts: Vec<_> = parts.collect();
        self.join_all(&open, &passes, &parts)?;
        if self.walks_to_itself() {
            self.join_self_influence(&folders)?;
        }
        self.shortlist::<T>()?;
        self.tokens::<T>()?;
        Ok(Some(format!("scores joined; {next}")))
    }

    fn remove_parts(&self) -> Result<(), JobError> {
        for pass in self.plan.score_passes(&self.plan.scored_answers()) {
            if let Some(key) = self.plan.pass_key(&pass) {
                self.store.remove_parts(SCORES, &key)?;
            }
        }
        Ok(())
    }

    fn score_gap<T: Number>(&self, pass: &ScorePass, key: &Key, gap: Range<usize>) -> Result<(), JobError> {
        let plan = self.plan;
        let sources = self.vectors_of(pass)?;
        let rows: Vec<QueryRows<'_, T>> = rows_of(pass, &sources);
        let layers = plan.training.layers();
        let form = plan.forms_with_scores(pass);
        let factors = match form {
            Some(OwnForm { fit, damping, weight }) => {
                Some((self.factors::<T>(&plan.training.fits[fit])?, LegFn::Inverse(damping), weight))
            }
            None => None,
        };
        let form = factors.as_ref().map(|(factors, inverse, weight)| {
            let form = QuadraticForm::new(layers, factors, |l| inverse.for_layer(&factors.layers[l]));
            (form, *weight)
        });
        let network = self.network(pass.site.network)?;
        let examples = plan.in_batches(&plan.training.stages[pass.site.stage].train);
        let sweep = self.sweep(&*network, &examples, gap.clone(), Pass::Scores);
        let width = pass.sums() * sources.iter().map(StoredVectors::rows).sum::<usize>();
        let sets: Vec<_> = pass.layer_sets.iter().map(|&set| plan.layer_sets[set].part()).collect();
        let mut pending = Pending { start: gap.start, end: gap.start, scores: vec![], self_influence: vec![] };
        let at = |m: usize| StageExample { stage: pass.site.stage, example: m };
        let take = |columns: ScoreColumns, chunk: ChunkEnd| {
            pending.end = columns.examples.end;
            let counts = columns.examples.clone().map(|m| plan.training.counts(at(m)));
            for (count, scores) in counts.clone().zip(columns.scores.chunks_exact(width.max(1))) {
                pending.scores.extend(scores.iter().map(|score| (count * score) as f32));
            }
            let own = counts.zip(&columns.self_influence).map(|(count, value)| (count * value) as f32);
            pending.self_influence.extend(own);
            // parts are written when it is time, or when they have grown large
            if chunk.save || pending.scores.len() > PENDING {
                self.keep_part(key, &pending, width)?;
                pending = Pending { start: pending.end, end: pending.end, scores: vec![], self_influence: vec![] };
            }
            Ok(())
        };
        Ok(score_in_sets::<_, T>(&sweep, gap.start, &rows, &sets, form, take)?)
    }

    /// Whether a part may hold each query's best and worst alone: scores that other passes add to are kept whole.
    fn keeps_top_alone(&self) -> bool {
        self.plan.job.output.store_scores == StoreScores::Top && self.plan.training.is_one_checkpoint()
    }

    fn keep_part(&self, key: &Key, pending: &Pending, width: usize) -> Result<(), crate::attribution::Error> {
        let range = pending.start as u64..pending.end as u64;
        let metadata = Metadata::new();
        let own = [pending.self_influence.len()];
        let self_influence = TensorData::new("self_influence", &own, &pending.self_influence);
        if !self.keeps_top_alone() {
            let shape = [pending.end - pending.start, width];
            let scores = TensorData::new("scores", &shape, &pending.scores);
            self.store.write_part(SCORES, key, range, &[scores, self_influence], &metadata)?;
            return Ok(());
        }
        let bad = |_| crate::attribution::Error::NonFiniteScore(pending.start..pending.end);
        let mut top = TopK::new(width, self.plan.job.output.top);
        for (column, scores) in pending.scores.chunks_exact(width).enumerate() {
            top.add_column(pending.start + column, scores).map_err(bad)?;
        }
        let (entries, values) = flatten(&top.finish().map_err(bad)?);
        let shapes = [[entries.len() / 2, 2], [values.len(), 1]];
        let tensors = [
            TensorData::new("entries", &shapes[0], &entries),
            TensorData::new("values", &shapes[1], &values),
            self_influence,
        ];
        self.store.write_part(SCORES, key, range, &tensors, &metadata)?;
        Ok(())
    }

    /// Writes the results of these answers at their fixed places from parts that cover all training examples; the
    /// first answer last, so that a folder with its results has all.
    fn join_all(&self, open: &[usize], passes: &[ScorePass], parts: &[Vec<Part>]) -> Result<(), JobError> {
        for (pass, parts) in passes.iter().zip(parts) {
            let key = self.plan.pass_key(pass).ok_or(JobError::NoQueries)?;
            let n = self.plan.training.stages[pass.site.stage].train.len();
            check_cover(parts, SCORES, &key, n as u64)?;
        }
        for &answer in open.iter().rev() {
            self.join(answer, passes, parts)?;
        }
        for pass in passes {
            self.store.remove_parts(SCORES, &self.plan.pass_key(pass).ok_or(JobError::NoQueries)?)?;
        }
        Ok(())
    }

    fn join(&self, answer: usize, passes: &[ScorePass], parts: &[Vec<Part>]) -> Result<(), JobError> {
        let plan = self.plan;
        let key = plan.answer_key(answer).ok_or(JobError::NoQueries)?;
        let sets = plan.vector_sets(&[answer]);
        // the measurement is that of the last network, whichever others were asked
        let at_last = sets.last().ok_or(JobError::NoQueries)?;
        let vectors = self.find_vectors(*at_last)?.ok_or(JobError::NoQueries)?;
        let captured = self.captured(answer)?;
        let solved = self.solved(answer)?;
        let (captured, solved) = (captured.as_deref(), solved.as_deref());
        let values = output::OfQueries { measurements: vectors.values()?, captured, solved };
        let own = self.own_values(answer, passes, parts)?;
        if plan.job.method.self_influence && !own.is_empty() {
            output::write_self_influence(plan, plan.summary(), &key, &own)?;
        }
        if self.keeps_top_alone() {
            let rankings = self.top_of_parts(answer, passes, parts, vectors.rows())?;
            return output::write_top(plan, plan.summary(), answer, &key, &rankings, values);
        }
        let sums = |part| Sums { run: self, answer, passes, parts, rows: vectors.rows(), part };
        for part in places::parts_apart(plan, answer) {
            write_scores(plan, plan.summary(), (answer, Some(part)), &key, values, &mut sums(Some(part)), |_, _| ())?;
        }
        let norms = match plan.job.method.normalize {
            Normalize::None => vec![],
            Normalize::Cosine => vectors.norms()?.to_vec(),
        };
        let cosine = |q: usize, row: &mut [f32]| {
            let Some(norm) = norms.get(q) else { return };
            // the form was weighted as scores are; a cosine has none of it
            let norm = norm * plan.example_weight();
            for (score, own) in row.iter_mut().zip(&own) {
                let denominator = (norm * f64::from(*own)).sqrt();
                *score = if denominator > 0.0 { (f64::from(*score) / denominator) as f32 } else { 0.0 };
            }
        };
        write_scores(plan, plan.summary(), (answer, None), &key, values, &mut sums(None), cosine)
    }

    /// Self-influence of every column, as the passes of influence functions left it, added up; empty if none did.
    fn own_values(&self, answer: usize, passes: &[ScorePass], parts: &[Vec<Part>]) -> Result<Vec<f32>, JobError> {
        let mut own = vec![];
        if answer == 0 {
            let has_form = |pass: &ScorePass| self.plan.forms_with_scores(pass).is_some();
            for (pass, parts) in passes.iter().zip(parts).filter(|(pass, _)| has_form(pass)) {
                own.resize(self.plan.training.columns.len(), 0.0);
                for part in parts {
                    let artifact = part.open()?;
                    for (m, value) in part.range.clone().zip(artifact.f32("self_influence")?) {
                        let at = StageExample { stage: pass.site.stage, example: m as usize };
                        own[self.plan.training.columns.column(at)] += *value;
                    }
                }
            }
        }
        Ok(own)
    }

    /// The best and worst of parts that hold nothing else.
    fn top_of_parts(
        &self,
        answer: usize,
        passes: &[ScorePass],
        parts: &[Vec<Part>],
        rows: usize,
    ) -> Result<Vec<Ranking>, JobError> {
        let mut top = TopK::new(rows, self.plan.job.output.top);
        for (pass, parts) in passes.iter().zip(parts) {
            let Some(&place) = pass.places(&self.plan.answers[answer], rows).first() else { continue };
            let wanted = place..place + rows;
            for part in parts {
                let part = part.open()?;
                let (entries, values) = (part.i64("entries")?, part.f32("values")?);
                for (entry, value) in entries.chunks_exact(2).zip(values) {
                    let row = entry[0] as usize;
                    if wanted.contains(&row) {
                        let at = ScorePlace { query: row - wanted.start, column: entry[1] as usize };
                        top.add(at, *value).map_err(output::ranking_error)?;
                    }
                }
            }
        }
        top.finish().map_err(output::ranking_error)
    }
}

/// Scores that wait to be written.
struct Pending {
    start: usize,
    end: usize,
    scores: Vec<f32>,
    self_influence: Vec<f32>,
}

/// `(query, example)` pairs and their scores; an example that is among the highest and the lowest of a
/// query (few examples) stands once.
fn flatten(rankings: &[Ranking]) -> (Vec<i64>, Vec<f32>) {
    let (mut entries, mut values) = (vec![], vec![]);
    for ranking in rankings {
        let mut both: Vec<_> = ranking.proponents.iter().chain(&ranking.opponents).copied().collect();
        both.sort_by_key(|(example, _)| *example);
        both.dedup_by_key(|(example, _)| *example);
        for (example, score) in both {
            entries.extend([ranking.query as i64, example as i64]);
            values.push(score);
        }
    }
    (entries, values)
}
