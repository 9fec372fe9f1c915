//! What a job's numbers depend on: its data, answers, passes, sets and groups, and the keys that say all of it.

pub(in crate::job) mod answers;
pub(in crate::job) mod artifacts;
pub(in crate::job) mod candidates;
pub(in crate::job) mod checkpoints;
pub(in crate::job) mod copies;
pub(in crate::job) mod data;
pub(in crate::job) mod example_groups;
#[cfg(test)]
pub(in crate::job) mod in_memory;
pub(in crate::job) mod intervals;
pub(in crate::job) mod keys;
pub(in crate::job) mod layer_sets;
pub(in crate::job) mod loss_check;
pub(in crate::job) mod options;
pub(in crate::job) mod passes;
pub(in crate::job) mod query_weights;
pub(in crate::job) mod rank_by;

pub(in crate::job) mod recorded_texts;
pub(in crate::job) mod reuse;
pub(in crate::job) mod run_damping;
pub(in crate::job) mod shortlist;
pub(in crate::job) mod summary;
#[cfg(test)]
mod tests;

use crate::attribution::{LabelMode, Subspace};
use crate::data::Dataset;
use crate::job::brief::answers::Answer;
use crate::job::brief::copies::Copies;
use crate::job::brief::data::InBatches;
use crate::job::brief::example_groups::Groups;
use crate::job::brief::layer_sets::LayerSet;
use crate::job::brief::recorded_texts::RecordedTexts;
use crate::job::brief::reuse::Reused;
use crate::job::request::{Curvature, Fisher, Job, Measure, SAMPLE_SHARE, SPANNING};
use crate::job::training::{Sample, Training};

/// Labels that are drawn for one position in one pass at most.
pub(in crate::job) const MOST_DRAWS: usize = (1 << 12) - 1;

/// Draws of labels for each direction of a subspace that its form is known well from: with fewer, noise decides.
pub(in crate::job) const DRAWS_OF_DIRECTION: usize = 8;

/// What a job's numbers depend on: what was asked, with every default resolved, and what was read of its inputs. No
/// field is about the machine but the size of batches, which rounds sums another way.
#[derive(Debug)]
pub struct Brief {
    /// The job with defaults resolved: what `run` replays.
    pub job: Job,
    pub(in crate::job) training: Training,
    pub(in crate::job) answers: Vec<Answer>,
    pub(in crate::job) layer_sets: Vec<LayerSet>,
    /// Groups of training examples whose scores are added up.
    pub(in crate::job) groups: Option<Groups>,
    /// Training examples that are one entry of a ranking.
    pub(in crate::job) copies: Option<Copies>,
    pub(in crate::job) queries: Option<Dataset>,
    /// What each query counts in the sum or mean of all, `[Q]`; empty if all count alike.
    pub(in crate::job) query_weights: Vec<f64>,
    /// The evaluation set whose loss is compared with the log. No number depends on it.
    pub(in crate::job) evaluation: Option<Dataset>,
    /// What training recorded of its texts, beside what was read of them. No number depends on it.
    pub(in crate::job) texts: RecordedTexts,
    /// Another run whose curvature and query vectors are used.
    pub(in crate::job) reused: Option<Reused>,
}

impl Brief {
    /// The training examples of the last stage of training that are scored.
    pub fn train(&self) -> &Dataset {
        &self.training.last_stage().train
    }

    /// The queries, if the job names any.
    pub fn queries(&self) -> Option<&Dataset> {
        self.queries.as_ref()
    }

    /// Labels for the curvature.
    pub(in crate::job) fn label_mode(&self) -> LabelMode {
        self.label_mode_of(Sample::Whole)
    }

    /// Labels for the curvature that is taken on some examples.
    pub(in crate::job) fn label_mode_of(&self, sample: Sample) -> LabelMode {
        match self.job.method.fisher {
            Fisher::Empirical => LabelMode::Empirical,
            Fisher::True => LabelMode::Sampled { seed: self.label_seed(sample), draws: self.job.method.label_draws },
        }
    }

    /// The seed of the labels that are drawn for a curvature on some examples.
    fn label_seed(&self, sample: Sample) -> u64 {
        match sample {
            Sample::Whole | Sample::Half(_) => self.job.method.seed,
            Sample::Redrawn => self.job.method.next_seed(),
        }
    }

    /// Labels that are drawn for each example for the forms of joint systems in a subspace: what is asked for, or what
    /// the curvature takes, and more if the examples are few beside the directions of a space.
    pub(in crate::job) fn form_draws(&self) -> u32 {
        if let Some(draws) = self.job.method.solve_label_draws {
            return draws;
        }
        let examples = self.training.last_stage().solve_data().len().max(1);
        let directions = Subspace::<f32>::directions(self.training.layers().len(), SPANNING.len());
        let enough = (DRAWS_OF_DIRECTION * directions).div_ceil(examples).min(MOST_DRAWS) as u32;
        self.job.method.label_draws.max(enough)
    }

    /// Labels for the forms of joint systems in a subspace.
    pub(in crate::job) fn form_label_mode(&self) -> LabelMode {
        match self.label_mode() {
            LabelMode::Sampled { seed, .. } => LabelMode::Sampled { seed, draws: self.form_draws() },
            other => other,
        }
    }

    /// Gradients of the sample of matrix-free solves for each of its examples.
    fn sample_draws(&self) -> u32 {
        match self.job.method.fisher {
            Fisher::Empirical => 1,
            Fisher::True => self.job.method.solve_label_draws.unwrap_or(1),
        }
    }

    /// Gradients of the sample of matrix-free solves.
    pub(in crate::job) fn sampled_gradients(&self) -> usize {
        self.training.last_stage().solve_data().len() * self.sample_draws() as usize
    }

    /// Labels for the sample of matrix-free solves.
    pub(in crate::job) fn sample_label_mode(&self) -> LabelMode {
        match self.label_mode() {
            LabelMode::Sampled { seed, .. } => LabelMode::Sampled { seed, draws: self.sample_draws() },
            other => other,
        }
    }

    /// What the sample of matrix-free solves counts; the approximate curvature counts the rest.
    pub(in crate::job) fn sample_share(&self) -> f64 {
        if self.job.method.curvature == Curvature::Identity { 1.0 } else { SAMPLE_SHARE }
    }

    /// The measurement, resolved.
    pub(in crate::job) fn measure(&self) -> Measure {
        self.job.method.measure.expect("`resolve` sets it")
    }

    /// A dataset cut into batches of the resolved size.
    pub(in crate::job) fn in_batches<'a>(&self, dataset: &'a Dataset) -> InBatches<'a> {
        InBatches { dataset, batch_tokens: self.job.resources.batch_tokens.expect("`resolve` sets it") }
    }
}
