//! Scores of a run: computed part by part, joined into one file at a fixed place.

use std::ops::Range;
use std::path::PathBuf;

use super::output::{self, SCORES};
use super::queries::StoredVectors;
use super::run::{Number, Run};
use super::{JobError, Normalize, ScoreScale, StoreScores};
use crate::attribution::ranking::{Ranking, TopK};
use crate::attribution::store::{
    Dtype, Key, Metadata, Part, TensorData, TensorSpec, TensorWriter, check_cover, gaps, list_parts,
};
use crate::attribution::{ChunkEnd, Event, Pass, ScoreColumns, VectorSource, Walk, score};
use crate::curvature::{Network, QuadraticForm};

impl Run<'_> {
    /// Scores what is missing of this process's range; one that has the whole range joins the parts.
    pub(super) fn score<T: Number>(&self) -> Result<Option<String>, JobError> {
        let missing = || JobError::MissingStep {
            folder: self.store.folder().to_owned(),
            what: "the queries' vectors",
            step: "query",
        };
        let key = self.plan.score_key().ok_or(JobError::NoQueries)?;
        if output::results_of(self.store.folder(), &key)? {
            self.observer().event(Event::Reused { pass: Pass::Scores });
            return Ok(None);
        }
        let vectors = self.find_vectors()?.ok_or_else(missing)?;
        let range = self.range();
        let done = self.store.parts(SCORES, &key)?;
        for gap in gaps(&done, range.start as u64..range.end as u64) {
            self.score_gap::<T>(&key, gap.start as usize..gap.end as usize, &vectors)?;
        }
        let folder = self.store.folder().display();
        match self.shard {
            Some(shard) => {
                Ok(Some(format!("when all {} shards are done: `ascribe merge --out {folder}`", shard.count())))
            }
            None => {
                let parts = self.store.parts(SCORES, &key)?;
                self.join(&key, &parts, &vectors)?;
                self.store.remove_parts(SCORES, &key)?;
                Ok(None)
            }
        }
    }

    /// Joins the shards' sums or score parts, whichever are there.
    pub(super) fn merge<T: Number>(&self, from: &[PathBuf]) -> Result<Option<String>, JobError> {
        if let Some(next) = self.merge_fit::<T>(from)? {
            return Ok(Some(next));
        }
        let key = self.plan.score_key().ok_or(JobError::NoQueries)?;
        let next = format!("next: `ascribe rank --out {}`", self.store.folder().display());
        if output::results_of(self.store.folder(), &key)? {
            // joined before: by a merge that was killed before it tidied up, or asked for twice
            self.observer().event(Event::Reused { pass: Pass::Scores });
            self.store.remove_parts(SCORES, &key)?;
            return Ok(Some(next));
        }
        let Some(vectors) = self.find_vectors()? else {
            return Ok(Some(format!(
                "the curvature is complete; next: `ascribe query --out {}`",
                self.store.folder().display()
            )));
        };
        let folders: Vec<_> = std::iter::once(self.store.folder().to_owned()).chain(from.iter().cloned()).collect();
        let mut parts = list_parts(&folders, SCORES)?;
        parts.sort_by_key(|part| part.range.start);
        self.join(&key, &parts, &vectors)?;
        self.store.remove_parts(SCORES, &key)?;
        Ok(Some(format!("scores joined; {next}")))
    }

    fn score_gap<T: Number>(&self, key: &Key, gap: Range<usize>, vectors: &StoredVectors) -> Result<(), JobError> {
        let plan = self.plan;
        let scale = match plan.job.output.scale {
            ScoreScale::PerExample => 1.0 / plan.train_size() as f64,
            ScoreScale::Kronfluence => 1.0,
        };
        let wants_own = plan.job.method.self_influence || plan.job.method.normalize == Normalize::Cosine;
        let factors = if wants_own { Some(self.fitted::<T>()?) } else { None };
        let form = factors.as_ref().map(|factors| {
            let walk = Walk::influence(factors, plan.job.method.damping.0);
            QuadraticForm::new(plan.model.layers(), factors, |l| walk.legs[0].response.for_layer(&factors.layers[l]))
        });
        let examples = plan.in_batches(&plan.train);
        let sweep = self.sweep(&examples, gap.clone(), Pass::Scores);
        let mut pending = ScoreColumns { examples: gap.start..gap.start, scores: vec![], self_influence: vec![] };
        let take = |columns: ScoreColumns, chunk: ChunkEnd| {
            pending.examples.end = columns.examples.end;
            pending.scores.extend(columns.scores);
            pending.self_influence.extend(columns.self_influence);
            // parts are written when it is time, or when they have grown large
            if chunk.save || pending.scores.len() > 1 << 24 {
                self.keep_part(key, &pending, VectorSource::<T>::queries(vectors))?;
                pending = ScoreColumns {
                    examples: pending.examples.end..pending.examples.end,
                    scores: vec![],
                    self_influence: vec![],
                };
            }
            Ok(())
        };
        Ok(score::<_, T>(&sweep, gap.start, vectors, 0, scale, form, take)?)
    }

    fn keep_part(&self, key: &Key, columns: &ScoreColumns, queries: usize) -> Result<(), crate::attribution::Error> {
        let range = columns.examples.start as u64..columns.examples.end as u64;
        let metadata = Metadata::new();
        let own = [columns.self_influence.len()];
        let self_influence = TensorData::new("self_influence", &own, &columns.self_influence);
        match self.plan.job.output.store_scores {
            StoreScores::Full => {
                let shape = [columns.examples.len(), queries];
                let scores = TensorData::new("scores", &shape, &columns.scores);
                self.store.write_part(SCORES, key, range, &[scores, self_influence], &metadata)?;
            }
            StoreScores::Top => {
                let mut top = TopK::new(queries, self.plan.job.output.top);
                for (column, scores) in columns.scores.chunks_exact(queries).enumerate() {
                    top.add_column(columns.examples.start + column, scores)
                        .map_err(|_| crate::attribution::Error::NonFiniteScore(columns.examples.clone()))?;
                }
                let rankings =
                    top.finish().map_err(|_| crate::attribution::Error::NonFiniteScore(columns.examples.clone()))?;
                let (entries, values) = flatten(&rankings);
                let shapes = [[entries.len() / 2, 2], [values.len(), 1]];
                let tensors = [
                    TensorData::new("entries", &shapes[0], &entries),
                    TensorData::new("values", &shapes[1], &values),
                    self_influence,
                ];
                self.store.write_part(SCORES, key, range, &tensors, &metadata)?;
            }
        }
        Ok(())
    }

    /// Writes the results at their fixed places from parts that cover all training examples.
    fn join(&self, key: &Key, parts: &[Part], vectors: &StoredVectors) -> Result<(), JobError> {
        let plan = self.plan;
        let n = plan.train.len();
        check_cover(parts, SCORES, key, n as u64)?;
        let queries = VectorSource::<f32>::queries(vectors);
        let mut own = Vec::with_capacity(n);
        for part in parts {
            own.extend_from_slice(part.open()?.f32("self_influence")?);
        }
        if plan.job.method.self_influence {
            output::write_self_influence(plan, key, &own)?;
        }
        if plan.job.output.store_scores == StoreScores::Top {
            let mut top = TopK::new(queries, plan.job.output.top);
            for part in parts {
                let part = part.open()?;
                let (entries, values) = (part.i64("entries")?, part.f32("values")?);
                for (entry, value) in entries.chunks_exact(2).zip(values) {
                    top.add(entry[0] as usize, entry[1] as usize, *value).map_err(output::ranking_error)?;
                }
            }
            let rankings = top.finish().map_err(output::ranking_error)?;
            return output::write_top(plan, key, &rankings, vectors.values()?);
        }
        let file = plan.job.output.path.join(output::SCORES_FILE);
        let specs = [
            TensorSpec::new("scores", Dtype::F32, [queries, n]),
            TensorSpec::new("measurements", Dtype::F64, [vectors.values()?.len()]),
        ];
        let writer = TensorWriter::create(&file, &specs, &output::score_metadata(plan, key))?;
        for part in parts {
            let range = part.range.clone();
            let part = part.open()?;
            let columns = part.f32("scores")?;
            for q in 0..queries {
                let mut row: Vec<f32> = columns.iter().skip(q).step_by(queries).copied().collect();
                if plan.job.method.normalize == Normalize::Cosine {
                    let norm = vectors.norms()?[q] / self.scale_of_self();
                    let own = &own[range.start as usize..range.end as usize];
                    for (score, own) in row.iter_mut().zip(own) {
                        let denominator = (norm * f64::from(*own)).sqrt();
                        *score = if denominator > 0.0 { (f64::from(*score) / denominator) as f32 } else { 0.0 };
                    }
                }
                writer.write_values_at("scores", (q * n) as u64 + range.start, &row)?;
            }
        }
        writer.write_values_at("measurements", 0, vectors.values()?)?;
        writer.finish()?;
        Ok(())
    }

    /// What self-influence was divided by, so that a cosine has none of it.
    fn scale_of_self(&self) -> f64 {
        match self.plan.job.output.scale {
            ScoreScale::PerExample => self.plan.train_size() as f64,
            ScoreScale::Kronfluence => 1.0,
        }
    }
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
