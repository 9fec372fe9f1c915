//! Flags about how a training run is understood where its files do not say it.

use std::path::PathBuf;

use ascribe::job::MeanWeights;
use ascribe::trajectory::TrajectoryRequest;
use ascribe::trajectory::request::{
    ClippingRequest, ExampleWeightsRequest, LossScaleRequest, SegmentRequest, WeightsRequest,
};
use clap::Args;

use super::values::one_of;
use crate::failure::Problem;

/// How a training run is understood.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Training run")]
pub(crate) struct TrajectoryOptions {
    /// How each stage is cut into segments: `auto`, `3`, `steps:3`, `rate-drops`, `ends:333,667` [default: auto]
    ///
    /// A number alone makes segments of equally many checkpoints, `steps:3` of about equally many steps, `rate-drops`
    /// ends them where the learning rate falls, `ends:` at these steps. `auto` is what the run's description says, else
    /// 3, or as many as there are checkpoints if those are fewer.
    #[arg(long, value_name = "HOW")]
    segments: Option<SegmentRequest>,
    /// What each checkpoint counts in a mean: `uniform`, `nearest`, or numbers such as `1,1,2` [default: uniform]
    ///
    /// Source averages over the checkpoints of a segment, `influence` over all of a run. `nearest` is the share of the
    /// learning rates for whose steps a checkpoint is the nearest. Numbers are for `influence`, one for each
    /// checkpoint, first trained first; they are divided by their sum.
    #[arg(long, value_name = "WEIGHTS")]
    pub(super) checkpoint_weights: Option<MeanWeights>,
    /// Whether gradient clipping lowers the learning rates, where the log has norms [default: count]
    #[arg(long, value_name = "HOW", value_parser = one_of::<ClippingRequest>(&[
        ("count", "rates are multiplied by min(1, largest norm / norm)"),
        ("ignore", "rates count as the schedule has them"),
    ]))]
    clipping: Option<ClippingRequest>,
    /// Interpolate learning rates that nothing tells, between recorded ones, instead of refusing the run
    #[arg(long)]
    interpolate_rates: bool,
    /// Processes of the training run, where they are not recorded
    #[arg(long, value_name = "N")]
    processes: Option<usize>,
    /// What training divided the loss by: `mean`, `token-mean`, `sum` or a number [default: as recorded]
    ///
    /// `mean` is over the examples of a batch, `token-mean` over its label tokens (transformers does that for language
    /// models, which is the default for them), `sum` no division. A number is what the summed loss of an example was
    /// multiplied by.
    #[arg(long, value_name = "SCALE")]
    loss_scale: Option<LossScaleRequest>,
    /// What each example counts beside its targets [default: alike]
    #[arg(long, value_name = "WHICH", value_parser = one_of::<ExampleWeightsRequest>(&[
        ("alike", "every target counts alike"),
        ("batches", "what it counted in the means over batches that training took, on average over orders"),
    ]))]
    example_weights: Option<ExampleWeightsRequest>,
}

impl TrajectoryOptions {
    /// Refuses what only averaged influence can be told.
    ///
    /// # Errors
    /// A number for each checkpoint.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match self.checkpoint_weights {
            Some(MeanWeights::Given(_)) => Err(Problem::hinted(
                "numbers as `--checkpoint-weights` are for influence averaged over checkpoints",
                "give `uniform` or `nearest`, or use `ascribe influence --run`",
            )),
            _ => Ok(()),
        }
    }

    /// The flags that were given and that say something about learning rates, which only Source asks for.
    pub(super) fn of_rates(&self) -> Vec<&'static str> {
        let given = [
            ("--segments", self.segments.is_some()),
            ("--clipping", self.clipping.is_some()),
            ("--interpolate-rates", self.interpolate_rates),
            ("--processes", self.processes.is_some()),
            ("--loss-scale", self.loss_scale.is_some()),
            ("--example-weights", self.example_weights.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }

    /// A request for this run with the flags that were given.
    pub(crate) fn request(&self, path: PathBuf) -> TrajectoryRequest {
        let mut request = TrajectoryRequest::new(path);
        self.apply(&mut request);
        request
    }

    /// Lays the flags that were given on top of a request.
    pub(crate) fn apply(&self, request: &mut TrajectoryRequest) {
        if let Some(segments) = &self.segments {
            request.segments.clone_from(segments);
        }
        match self.checkpoint_weights {
            Some(MeanWeights::Uniform) => request.checkpoint_weights = WeightsRequest::Uniform,
            Some(MeanWeights::Nearest) => request.checkpoint_weights = WeightsRequest::Nearest,
            // `check` refuses numbers
            Some(MeanWeights::Given(_)) | None => {}
        }
        request.clipping = self.clipping.unwrap_or(request.clipping);
        request.interpolate_rates |= self.interpolate_rates;
        request.processes = self.processes.or(request.processes);
        request.loss_scale = self.loss_scale.or(request.loss_scale);
        request.example_weights = self.example_weights.unwrap_or(request.example_weights);
    }
}
