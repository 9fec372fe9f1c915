//! What a person should see before the work begins.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::curvature::{LayerSpec, Side};
use crate::data::ReadReport;
use crate::job::brief::Brief;
use crate::job::brief::artifacts::{CurvatureFiles, KeptInBlocks};
use crate::job::brief::layer_sets::{LayerSet, overlap_notes};
use crate::job::brief::loss_check::LossCheck;
use crate::job::request::Precision;
use crate::job::training::moments::Moments;
use crate::job::training::{Averaged, Training};

/// What a person should see before the work begins.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Summary {
    /// `model_type`.
    pub architecture: String,
    /// Tracked layers and their shapes.
    pub layers: Vec<LayerSummary>,
    /// Numbers in all tracked gradients of one example.
    pub tracked_parameters: usize,
    /// The stages of training, each with its data; one for a checkpoint alone.
    pub stages: Vec<StageSummary>,
    /// What was read of the queries.
    pub queries: Option<DataSummary>,
    /// The checkpoints that influence is averaged over, first trained first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<CheckpointSummary>,
    /// Source's segments, in the order of training.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<LegSummary>,
    /// Names of what is scored; rankings are made of the first.
    pub answers: Vec<String>,
    /// Names of the variants of the first of them that its intervals are made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<String>,
    /// Sets of layers that scores are also summed over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layer_sets: Vec<LayerSetSummary>,
    /// Bytes of curvature factors on disk.
    pub factor_bytes: u64,
    /// Bytes of the queries' vectors on disk.
    pub query_bytes: u64,
    /// What they would be if none were of low rank.
    pub full_query_bytes: u64,
    /// Examples that are differentiated in all passes over training data together.
    pub differentiations: u64,
    /// Guesses and oddities that change numbers.
    pub notes: Vec<String>,
    /// What this machine's memory and disk have to do with the job. No number depends on it, and no result holds it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub machine_notes: Vec<String>,
    /// The loss of training examples beside the training log, once it was computed.
    #[serde(skip)]
    pub(in crate::job) loss_check: OnceLock<LossCheck>,
}

/// A stage of training.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StageSummary {
    /// Its name.
    pub name: String,
    /// What was read of its file.
    pub train: DataSummary,
    /// N of `docs/method.md`, Score: examples that its objective averaged over.
    pub train_size: usize,
}

/// A checkpoint that influence is averaged over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointSummary {
    /// The name of its folder.
    pub name: String,
    /// What its scores count in the mean; the weights of all checkpoints sum to 1.
    pub weight: f64,
}

/// A segment of training, a leg of Source.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LegSummary {
    /// Its name.
    pub name: String,
    /// The stage that it is a part of.
    pub stage: String,
    /// The first of its steps, from 0 within its stage.
    pub first_step: usize,
    /// K.
    pub steps: usize,
    /// Where its curvature is taken.
    pub checkpoints: Vec<String>,
    /// What each of them counts.
    pub weights: Vec<f64>,
    /// η̄.
    pub mean_rate: f64,
    /// Σ η.
    pub rate_sum: f64,
    /// τ = c Σ η, with clipping and momentum.
    pub tau: f64,
    /// Between which numbers τ lies, where norms of some steps alone tell of clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau_interval: Option<[f64; 2]>,
    /// Weight decay's exponent.
    pub decay_exponent: f64,
    /// Checkpoints with second moments, for Adam.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_moments: Option<usize>,
    /// Layers that it did not train.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<String>,
    /// What multiplies its rates in each layer, in the order of layers; empty if nothing does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layer_rates: Vec<f64>,
}

/// A tracked layer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerSummary {
    /// Its name in the checkpoint.
    pub name: String,
    /// O.
    pub outputs: usize,
    /// I, with the column of ones.
    pub columns: usize,
    /// Blocks of the eigenbasis on the output side and on the input side, if one of them is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eigen_blocks: Option<[usize; 2]>,
    /// Rank of the queries' vectors there, if it is low.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_rank: Option<usize>,
}

/// A set of tracked layers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerSetSummary {
    /// Its name.
    pub name: String,
    /// Its layers' names.
    pub layers: Vec<String>,
    /// What of these layers belongs to it, where it is the part of an attention head: the layer, `output` or `input`, and
    /// which rows or columns; empty: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<String>,
    /// Numbers in their gradients of one example.
    pub parameters: usize,
}

/// One file of examples.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DataSummary {
    /// Examples.
    pub examples: usize,
    /// Positions of all of them.
    pub positions: usize,
    /// Positions that are predicted.
    pub targets: usize,
    /// Positions of the longest.
    pub longest: usize,
    /// Examples that were cut to the maximal length.
    pub cut: usize,
    /// Whether examples are rows of numbers or images, not sequences of tokens.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_rows: bool,
    /// Whether they are images in files.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_images: bool,
    /// The first example's tokens; whether each is a target.
    pub first: Vec<(String, bool)>,
}

impl From<&ReadReport> for DataSummary {
    fn from(report: &ReadReport) -> Self {
        Self {
            examples: report.examples,
            positions: report.tokens,
            targets: report.targets,
            longest: report.longest,
            cut: report.cut,
            is_rows: report.is_rows,
            is_images: report.images.is_some(),
            first: report.first.clone(),
        }
    }
}

impl Summary {
    /// What a person should see of a job, with what was read of its data and the notes so far.
    pub(in crate::job) fn of(
        brief: &Brief,
        train: &[ReadReport],
        queries: Option<&ReadReport>,
        mut notes: Vec<String>,
    ) -> Self {
        let (job, training) = (&brief.job, &brief.training);
        let layers = training.layers();
        notes.extend(overlap_notes(job, &brief.layer_sets, layers));
        notes.extend(brief.kept_in_blocks().iter().filter_map(KeptInBlocks::note));
        let width = if job.model.dtype == Precision::F64 { 8 } else { 4 };
        let blocks = brief.block_width();
        let tracked: usize = layers.iter().map(LayerSpec::parameters).sum();
        let covariance_sites = Training::sites(training.fits.iter().filter(|fit| fit.kind.has_eigenbasis()));
        let lambda_sites = Training::sites(training.fits.iter().filter(|fit| fit.kind.has_lambda_pass()));
        let rows = brief.query_rows() as u64;
        let all = brief.all_answers();
        let legs: usize = brief.stored_vector_sets(&all).iter().map(|set| brief.legs(set.answer)).sum();
        let passes = brief.score_passes(&all);
        let form = brief.vector_form();
        let numbers = |layer: &LayerSpec| match form.rank_at(layer) {
            None => layer.parameters(),
            Some(rank) => rank * (layer.outputs + layer.columns()),
        };
        let kept: usize = layers.iter().map(numbers).sum();
        let layer = |l: &LayerSpec| LayerSummary {
            name: l.name.clone(),
            outputs: l.outputs,
            columns: l.columns(),
            eigen_blocks: (brief.has_eigenbasis() && blocks.cuts_layer(l))
                .then(|| Side::BOTH.map(|side| blocks.at(l, side).groups(l.size(side)).count())),
            query_rank: form.rank_at(l),
        };
        let set = |set: &LayerSet| LayerSetSummary {
            name: set.name.clone(),
            layers: set.layers.iter().map(|&l| layers[l].name.clone()).collect(),
            slices: set.slices.iter().map(|slice| brief.slice_name(slice)).collect(),
            parameters: set.parameters(layers),
        };
        let stages = training.stages.iter().zip(train);
        let of_variants = |is: bool| brief.answers.iter().filter(move |answer| answer.variant.is_some() == is);
        Self {
            architecture: training.networks.kind().to_owned(),
            layers: layers.iter().map(layer).collect(),
            tracked_parameters: tracked,
            stages: stages
                .map(|(stage, report)| StageSummary {
                    name: stage.name.clone(),
                    train: report.into(),
                    train_size: stage.n_examples,
                })
                .collect(),
            queries: queries.map(Into::into),
            checkpoints: checkpoints_of(brief),
            legs: legs_of(brief),
            answers: of_variants(false).map(|answer| answer.name.clone()).collect(),
            variants: of_variants(true).map(|answer| answer.name.clone()).collect(),
            layer_sets: brief.layer_sets.iter().map(set).collect(),
            factor_bytes: CurvatureFiles::of(brief).bytes(),
            query_bytes: legs as u64 * rows * kept as u64 * width,
            full_query_bytes: legs as u64 * rows * tracked as u64 * width,
            differentiations: {
                let scored = passes.iter().map(|pass| training.stages[pass.site.stage].train.len());
                let fitted = covariance_sites.iter().chain(&lambda_sites);
                scored.chain(fitted.map(|site| training.stages[site.stage].data_of(site.sample).len())).sum::<usize>()
                    as u64
            },
            notes,
            machine_notes: vec![],
            loss_check: OnceLock::new(),
        }
    }
}

fn checkpoints_of(brief: &Brief) -> Vec<CheckpointSummary> {
    let networks = brief.training.networks.parameters();
    let of = |at: &Averaged| CheckpointSummary { name: networks[at.network].name.clone(), weight: at.weight };
    brief.training.averaged.iter().map(of).collect()
}

fn legs_of(brief: &Brief) -> Vec<LegSummary> {
    let training = &brief.training;
    let segments = training.segments().iter().zip(&training.fits);
    segments
        .map(|((stage, segment), fit)| LegSummary {
            name: fit.name.clone(),
            stage: training.stages[*stage].name.clone(),
            first_step: segment.steps.start,
            steps: segment.n_steps(),
            checkpoints: fit
                .places
                .iter()
                .map(|place| training.networks.parameters()[place.network].name.clone())
                .collect(),
            weights: fit.places.iter().map(|place| place.weight).collect(),
            mean_rate: segment.mean_rate(),
            rate_sum: segment.rate_sum,
            tau: segment.tau,
            tau_interval: segment.tau_interval().map(|(low, high)| [low, high]),
            decay_exponent: segment.decay_exponent,
            second_moments: fit.moments.as_ref().map(Moments::checkpoints),
            frozen: fit.frozen.iter().map(|&l| training.layers()[l].name.clone()).collect(),
            layer_rates: training.layer_rates(*stage),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;
    use crate::job::brief::in_memory::{brief, job, source_job};
    use crate::job::request::{AggregateRequest, Curvature, Job, Several};

    fn report(examples: usize) -> ReadReport {
        ReadReport { examples, tokens: examples, targets: examples, longest: 1, is_rows: true, ..ReadReport::default() }
    }

    /// The summary of a job about the small perceptron, with its brief.
    fn summary(job: Job) -> (Brief, Summary) {
        let brief = brief(job, |_| ());
        let reports: Vec<ReadReport> = brief.training.stages.iter().map(|stage| report(stage.train.len())).collect();
        let queries = report(brief.queries.as_ref().map_or(0, Dataset::len));
        let summary = Summary::of(&brief, &reports, Some(&queries), vec!["a note".into()]);
        (brief, summary)
    }

    fn changed(change: impl FnOnce(&mut Job)) -> Job {
        let mut job = job();
        change(&mut job);
        job
    }

    #[test]
    fn bytes_and_passes_are_those_of_the_brief() {
        let (brief, of) = summary(job());
        let (train, rows) = (brief.train().len() as u64, brief.query_rows() as u64);
        // 12 -> 16 -> 8 -> 4, each with a bias
        let parameters = 16 * 13 + 8 * 17 + 4 * 9;
        assert_eq!((of.tracked_parameters, of.layers.len()), (parameters, 3));
        let shapes: Vec<[usize; 2]> = of.layers.iter().map(|layer| [layer.outputs, layer.columns]).collect();
        assert_eq!(shapes, [[16, 13], [8, 17], [4, 9]]);
        assert_eq!((of.query_bytes, of.full_query_bytes), (4 * rows * parameters as u64, of.query_bytes));
        assert_eq!(of.factor_bytes, CurvatureFiles::of(&brief).bytes());
        // covariances, their eigenvalues, scores
        assert_eq!(of.differentiations, 3 * train);
        assert_eq!((of.notes, of.machine_notes.len(), of.answers.len()), (vec!["a note".to_owned()], 0, 1));
        assert_eq!((of.stages[0].train.examples as u64, of.stages[0].train_size as u64), (train, train));
        assert!(of.stages[0].train.is_rows && of.queries.expect("queries").examples as u64 == rows);
    }

    #[test]
    fn what_a_job_asks_for_is_summed_up() {
        let differentiations = |curvature| {
            let (brief, of) = summary(changed(|job| job.method.curvature = curvature));
            of.differentiations / brief.train().len() as u64
        };
        let kinds = [Curvature::Identity, Curvature::Diagonal, Curvature::Kfac, Curvature::Ekfac, Curvature::Soap];
        assert_eq!(kinds.map(differentiations), [1, 2, 2, 3, 3]);
        let (_, whole) = summary(job());
        let (_, wide) = summary(changed(|job| job.model.dtype = Precision::F64));
        assert_eq!(wide.query_bytes, 2 * whole.query_bytes);
        let (_, one) = summary(changed(|job| job.method.aggregate = AggregateRequest::Sum));
        assert_eq!(one.query_bytes * whole.queries.expect("queries").examples as u64, whole.query_bytes);
        let (_, low) = summary(changed(|job| job.method.query_rank = Some(2)));
        // two factors of rank 2 in place of 208, 136 and 36 numbers, but where they would be more
        let numbers: Vec<Option<usize>> = low.layers.iter().map(|layer| layer.query_rank).collect();
        assert_eq!((numbers, low.full_query_bytes), (vec![Some(2), Some(2), Some(2)], whole.query_bytes));
        assert_eq!(low.query_bytes * (208 + 136 + 36), whole.query_bytes * 2 * (29 + 25 + 13));
        let (_, cut) = summary(changed(|job| job.method.eigen_block_width = Some(8)));
        let blocks: Vec<Option<[usize; 2]>> = cut.layers.iter().map(|layer| layer.eigen_blocks).collect();
        assert_eq!(blocks, [Some([2, 2]), Some([1, 3]), Some([1, 2])]);
        let (_, sets) = summary(changed(|job| {
            job.output.layer_sets.insert("first".into(), Several(vec!["layers.0".into()]));
        }));
        assert_eq!((sets.layer_sets[0].name.as_str(), sets.layer_sets[0].parameters), ("first", 208));
        assert_eq!((sets.answers.len(), sets.query_bytes), (2, whole.query_bytes), "sets share the vectors");
    }

    #[test]
    fn a_training_run_has_a_leg_for_each_segment() {
        let (brief, of) = summary(source_job());
        assert_eq!(of.legs.len(), brief.training.segments().len());
        let steps: usize = of.legs.iter().map(|leg| leg.steps).sum();
        assert_eq!(of.legs.last().map(|leg| leg.first_step + leg.steps), Some(steps));
        for leg in &of.legs {
            let weights: f64 = leg.weights.iter().sum();
            assert!((weights - 1.0).abs() < 1e-12 && leg.checkpoints.len() == leg.weights.len(), "{leg:?}");
            assert!(leg.tau > 0.0 && leg.rate_sum >= leg.mean_rate, "{leg:?}");
        }
        assert!(of.checkpoints.is_empty() && of.tracked_parameters > 0);
    }
}
