//! Memory of joint solves: a space of directions for each block of queries, and tangents of a few of them at a time.

use crate::attribution::{MatrixFree, Subspace};
use crate::curvature::LayerSpec;
use crate::job::brief::answers::Joint;
use crate::job::brief::{Brief, DRAWS_OF_DIRECTION};
use crate::job::budget::limits::{GRADIENT_BYTES, TANGENTS};
use crate::job::budget::memory::Memory;
use crate::job::budget::sizes::{Sizes, SolveSize};
use crate::job::budget::stage_memory::{MemoryCount, PassSetting};
use crate::job::request::{Fisher, SPANNING, Solve, SolveLayers};
use crate::nn::head;

impl Memory {
    /// Writes the block that fits into the job, and returns what a person should know of joint solves.
    pub(in crate::job) fn take_solve_block(&self, brief: &mut Brief) -> Vec<String> {
        let solve = brief.job.method.solve;
        if !solve.is_joint() {
            return vec![];
        }
        let mut notes = vec![];
        let rows = brief.query_rows();
        if rows > 0 {
            brief.job.method.solve_block = Some(self.solve_block);
            if self.solve_block < rows && solve == Solve::GaussNewton {
                let done =
                    if brief.job.source.is_some() { "queries are carried jointly" } else { "joint systems are solved" };
                notes.push(format!(
                    "{done} for {} of {rows} queries at a time; more share a larger space and leave smaller residuals, if \
                     `--memory` allows",
                    self.solve_block
                ));
            }
        }
        if solve == Solve::Subspace {
            let directions = Subspace::<f32>::directions(brief.training.layers().len(), SPANNING.len());
            let examples = brief.training.last_stage().solve_data().len();
            let draws = brief.form_draws();
            if brief.job.method.fisher == Fisher::Empirical && examples < DRAWS_OF_DIRECTION * directions {
                notes.push(format!(
                    "joint systems of {directions} directions are known from the gradients of {examples} examples, which \
                     is few: with `--fisher true` labels are drawn as often as it takes"
                ));
            } else if brief.job.method.fisher == Fisher::True
                && brief.job.method.solve_label_draws.is_none()
                && draws > brief.job.method.label_draws
            {
                notes.push(format!(
                    "joint systems of {directions} directions are many for {examples} examples: {draws} labels are drawn \
                     for each"
                ));
            }
        }
        if solve == Solve::MFac && rows > 0 {
            let beside = match brief.sample_share() {
                1.0 => "",
                _ => ", beside the approximate curvature; each counts half",
            };
            notes.push(format!(
                "joint systems are of the Fisher matrix of {} sampled gradients{beside}; they take {} MiB of the run folder \
                 until the queries' vectors are there",
                brief.sampled_gradients(),
                brief.sample_bytes().div_ceil(1 << 20)
            ));
        }
        let is_damped = (0..brief.answers.len()).any(|answer| brief.joint(answer) == Some(Joint::Systems));
        let is_relative = brief.job.method.damping.0.iter().any(|damping| damping.is_relative());
        let is_one = brief.job.method.solve_layers == SolveLayers::Together;
        if solve == Solve::GaussNewton && is_one && is_damped && is_relative {
            notes.push(
                "joint systems have one curvature for all layers: an absolute damping, such as `--damping 0.03`, is what \
                 they were validated with; a number with `x` adds another amount to every layer"
                    .into(),
            );
        }
        notes
    }
}

impl MemoryCount<'_> {
    /// Bytes of a block of so many queries that are solved for in subspaces, beside every pass's own.
    fn subspace_solve(&self, setting: PassSetting, block: usize, mapped: u64) -> u64 {
        let Sizes { layers, number, threads, positions, .. } = *self.0;
        let spanning = SPANNING.len() as u64;
        let block = block as u64;
        let tracked: u64 = layers.iter().map(|layer| layer.parameters() as u64).sum();
        // gradients as they are prepared and in the eigenbasis, functions of the eigenvalues, and one layer of what spans
        // the spaces or of solutions on their way out
        let largest = layers.iter().map(|layer| layer.parameters() as u64).max().unwrap_or(0);
        let vectors = block.saturating_mul(2 * tracked + (spanning + 2) * largest).saturating_mul(number)
            + spanning * tracked * number;
        let directions = Subspace::<f32>::directions(layers.len(), SPANNING.len()) as u64;
        let forms = 8 * (2 * block + 6 * threads) * directions * directions;
        let squares = 8 * block * spanning * (spanning * layers.len() as u64 + directions);
        // products of a batch's examples: of each group of layers, and of all
        let length = (positions as u64 / self.0.queries.as_ref().map_or(1, |queries| queries.examples).max(1)).max(1);
        let examples = (self.rows(setting.batch) / length).max(1);
        let products = 8 * examples * block * (directions + spanning);
        // a batch's rows, rotated
        let turned = |layer: &LayerSpec| (layer.outputs + layer.columns()) as u64;
        let turned = number * self.rows(setting.batch) * layers.iter().map(turned).max().unwrap_or(0);
        let beside = self.pass(setting, setting.batch) + self.packed(setting.batch) + turned + self.factors(mapped);
        beside.saturating_add(vectors).saturating_add(forms + squares + products)
    }

    /// Bytes of a block of so many queries that are solved for with sampled gradients: the small matrices, one layer of the
    /// gradients, products of a part of it, and queries, their gradients and solutions.
    fn matrix_free_solve(&self, setting: PassSetting, solve: SolveSize, block: usize, mapped: u64) -> u64 {
        let Sizes { layers, number, .. } = *self.0;
        let (block, gradients) = (block as u64, solve.gradients as u64);
        let parameters = |layer: &LayerSpec| layer.parameters() as u64;
        let tracked: u64 = layers.iter().map(parameters).sum();
        let largest = layers.iter().map(parameters).max().unwrap_or(0);
        let vectors = block.saturating_mul(3 * tracked + 3 * largest).saturating_mul(number) + 16 * largest;
        let small = 8 * (solve.dampings as u64 + 1).saturating_mul(gradients.saturating_mul(gradients));
        let of_queries = (4 * 8 + number) * gradients.saturating_mul(block);
        let part = number * MatrixFree::<f32>::part(solve.gradients, largest as usize) as u64;
        // pages of the gradients' file: those of the layer in use, and what stays between two uses
        let of_file = |parameters: u64| number * gradients.saturating_mul(parameters);
        let rows = of_file(tracked).min(mapped.saturating_add(of_file(largest)));
        let at_once = 2 * (GRADIENT_BYTES as u64).max(number * largest);
        let beside = self.pass(setting, setting.batch) + at_once + self.factors(mapped);
        beside.saturating_add(vectors).saturating_add(small).saturating_add(of_queries + part).saturating_add(rows)
    }

    /// Bytes of a block of so many queries, beside every pass's own.
    pub(in crate::job) fn joint_solve(
        &self,
        setting: PassSetting,
        solve: SolveSize,
        block: usize,
        tangents: usize,
        mapped: u64,
    ) -> u64 {
        if solve.solve == Solve::Subspace {
            return self.subspace_solve(setting, block, mapped);
        }
        if solve.solve == Solve::MFac {
            return self.matrix_free_solve(setting, solve, block, mapped);
        }
        let Sizes { layers, model, number, .. } = self.0;
        let tracked: u64 = layers.iter().map(|layer| layer.parameters() as u64).sum();
        let (products, dampings) = (solve.products as u64, solve.dampings as u64);
        // the space and its products; the queries, their gradients and residuals; a copy that moves, or solutions
        let vectors = ((2 * products + 6 + dampings) * block as u64).saturating_mul(tracked * number);
        let space = products * block as u64;
        let small = (8 * (dampings + 3)).saturating_mul(space.saturating_mul(space));
        let rows = self.rows(setting.batch);
        let widest = model.widest(layers);
        let together = (tangents as u64 / (rows * widest).max(1)).clamp(1, (block as u64).max(1));
        // tangents of a section on their way forwards, and gradients on their way back
        let moving = 2 * together * rows * self.kept(model.activations, 1).max(2 * widest) * number;
        let vocabulary = model.vocabulary;
        let tile =
            (together * (head::ROWS as u64).min(rows) * vocabulary).min(crate::nn::hessian::TILE as u64 + vocabulary);
        let head = number * (4 * tile + if model.tracked_head { 2 * together * rows * vocabulary } else { 0 });
        let beside = self.pass(setting, setting.batch) + moving + head + self.factors(mapped);
        beside.saturating_add(vectors).saturating_add(small)
    }

    /// The most queries of a block, and the most tangents beside them, that fit; none if the least do not.
    pub(in crate::job) fn solve_block(
        &self,
        setting: PassSetting,
        solve: SolveSize,
        limit: Option<u64>,
        mapped: u64,
    ) -> Option<(usize, usize)> {
        let Some(limit) = limit else { return Some((solve.block.unwrap_or(solve.rows).min(solve.rows), TANGENTS[0])) };
        let fits = |block: usize, tangents: usize| self.joint_solve(setting, solve, block, tangents, mapped) <= limit;
        let tangents = TANGENTS.into_iter().find(|&tangents| fits(solve.least(), tangents))?;
        let (mut least, mut most) = (solve.least(), solve.block.unwrap_or(solve.rows).min(solve.rows));
        while least < most {
            let middle = (least + most).div_ceil(2);
            if fits(middle, tangents) { least = middle } else { most = middle - 1 }
        }
        Some((least, tangents))
    }
}
