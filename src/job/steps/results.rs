//! The score matrix, written from the parts that passes left: a block of rows at a time, so that no more of it than that
//! is in memory.

use std::ops::Range;

use crate::attribution::ranking::{Ranking, ScoreRows, rank};
use crate::attribution::store::{Key, Part, TensorWriter};
use crate::job::brief::Brief;
use crate::job::brief::answers::{Answer, ScorePass};
use crate::job::brief::summary::Summary;
use crate::job::error::JobError;
use crate::job::folder::metadata::{part_metadata, score_metadata};
use crate::job::folder::output::{CAPTURED, OfQueries, ranking_error, score_specs, solved_name, write_top};
use crate::job::folder::places::{Apart, part_file, scores_file};
use crate::job::request::StoreScores;
use crate::job::steps::context::Run;
use crate::job::steps::spread::SpreadMean;
use crate::job::training::StageExample;

/// The rows of one answer, added up over its passes.
pub(in crate::job) struct Sums<'a> {
    pub run: &'a Run<'a>,
    pub answer: usize,
    pub passes: &'a [ScorePass],
    pub parts: &'a [Vec<Part>],
    pub rows: usize,
    /// What this part contributes alone.
    pub part: Option<Apart>,
}

impl Sums<'_> {
    /// How many rows there are.
    pub(in crate::job) fn rows(&self) -> usize {
        self.rows
    }

    /// Rows of all columns, `[rows, columns]`, added up in `f64` and rounded once.
    pub(in crate::job) fn read(&mut self, rows: Range<usize>) -> Result<Vec<f32>, JobError> {
        let plan = self.run.plan;
        let answer = &plan.answers[self.answer];
        let mut sums = vec![0.0f64; rows.len() * plan.training.columns.len()];
        if plan.spreads(self.answer) {
            // parts over some layers are divided by the spread over all layers, so that they still add up
            let whole = &plan.answers[answer.vectors];
            let mut mean = SpreadMean::new(rows.len());
            for (pass, parts) in self.passes.iter().zip(self.parts) {
                let share = plan.share_at(answer, pass.site.network);
                if share == 0.0 {
                    continue;
                }
                let mut of_pass = vec![0.0; sums.len()];
                self.add((pass, parts), whole, share, &rows, &mut of_pass)?;
                let weight = plan.training.averaged.iter().find(|at| at.network == pass.site.network);
                let spreads = mean.add(&of_pass, weight.map_or(0.0, |at| share * at.weight));
                if answer.layer_set.is_some() {
                    of_pass.fill(0.0);
                    self.add((pass, parts), answer, share, &rows, &mut of_pass)?;
                }
                spreads.add_divided(&of_pass, &mut sums);
            }
            mean.scale(&mut sums);
        } else {
            for (pass, parts) in self.passes.iter().zip(self.parts) {
                let share = plan.share_at(answer, pass.site.network);
                self.add((pass, parts), answer, share, &rows, &mut sums)?;
            }
        }
        Ok(sums.into_iter().map(|sum| sum as f32).collect())
    }

    /// Adds what a pass contributes to rows of an answer, times `share`.
    fn add(
        &self,
        (pass, parts): (&ScorePass, &[Part]),
        answer: &Answer,
        share: f64,
        rows: &Range<usize>,
        sums: &mut [f64],
    ) -> Result<(), JobError> {
        let columns = &self.run.plan.training.columns;
        let n = columns.len();
        // every contribution has as many rows
        let width = pass.width(self.rows);
        let mut places = pass.places(answer, self.rows);
        match self.part {
            Some(Apart::Stage(stage)) if stage != pass.site.stage => places.clear(),
            Some(Apart::Segment(leg)) => {
                let own = pass.contributions.iter().filter(|of| of.set.answer == answer.vectors);
                let legs: Vec<usize> = own.map(|of| of.leg).collect();
                let mut of_places = legs.iter();
                places.retain(|_| of_places.next() == Some(&leg));
            }
            _ => {}
        }
        if places.is_empty() || share == 0.0 {
            return Ok(());
        }
        for part in parts {
            let artifact = part.open()?;
            let scores = artifact.f32("scores")?;
            for (m, column) in part.range.clone().zip(scores.chunks_exact(width)) {
                let to = columns.column(StageExample { stage: pass.site.stage, example: m as usize });
                for &place in &places {
                    for (k, q) in rows.clone().enumerate() {
                        sums[k * n + to] += share * f64::from(column[place + q]);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Numbers of the score matrix that are in memory at a time.
const BLOCK: usize = 1 << 24;

/// `scores.safetensors` from sums that are read a block of rows at a time; `finish(q, row)` has the last word on a
/// row. With a part they are what it contributes. If the matrix is not to be kept, its best and worst are, as in
/// [`write_top`].
pub(in crate::job) fn write_scores(
    brief: &Brief,
    summary: &Summary,
    (answer, part): (usize, Option<Apart>),
    key: &Key,
    of_queries: OfQueries<'_>,
    sums: &mut Sums<'_>,
    finish: impl Fn(usize, &mut [f32]),
) -> Result<(), JobError> {
    let (rows, n) = (sums.rows(), brief.training.columns.len());
    let full = brief.job.output.store_scores == StoreScores::Full;
    let (file, metadata) = match part {
        None => (scores_file(brief, answer), score_metadata(brief, summary, answer, key)),
        Some(part) => (part_file(brief, part), part_metadata(brief, summary, (answer, part), key)),
    };
    let specs = score_specs(brief, answer);
    let writer = if full { Some(TensorWriter::create(&file, &specs, &metadata)?) } else { None };
    let mut rankings = vec![];
    let at_once = (BLOCK / n.max(1)).max(1);
    for start in (0..rows).step_by(at_once) {
        let block = start..(start + at_once).min(rows);
        let mut scores = sums.read(block.clone())?;
        block.clone().zip(scores.chunks_exact_mut(n)).for_each(|(q, row)| finish(q, row));
        match &writer {
            Some(writer) => writer.write_values_at("scores", (start * n) as u64, &scores)?,
            None => {
                let matrix = ScoreRows::new(&scores, block.len(), n).map_err(ranking_error)?;
                let found = rank(matrix, brief.job.output.top).map_err(ranking_error)?;
                rankings.extend(found.into_iter().map(|found| Ranking { query: start + found.query, ..found }));
            }
        }
    }
    match writer {
        None => write_top(brief, summary, answer, key, &rankings, of_queries),
        Some(writer) => {
            writer.write_values_at("measurements", 0, of_queries.measurements)?;
            if let Some(captured) = of_queries.captured {
                writer.write_values_at(CAPTURED, 0, captured)?;
            }
            if let Some(solved) = of_queries.solved {
                writer.write_values_at(solved_name(brief), 0, solved)?;
            }
            writer.finish()?;
            Ok(())
        }
    }
}
