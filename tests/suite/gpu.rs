//! A network on an NVIDIA GPU gives the scores that it gives on the processor. Skipped where there is no GPU.
#![cfg(feature = "cuda")]

use crate::support::figures::assert_relative;
use crate::support::passes::{BATCH, Batched, Run};
use crate::support::{Outcome, fixture, open, say};
use ascribe::attribution::LabelMode;
use ascribe::curvature::{CurvatureKind, Measurement};
use ascribe::model::{Limits, LoadOptions, Model};
use candle_core::{DType, Device};

/// Composed ops against fused ones, both in f32: as for other ways of computing the same (`docs/method.md`, Numerics).
const ROUNDING: f64 = 1e-4;

#[test]
fn a_network_on_the_gpu_gives_the_scores_of_the_processor() -> Outcome {
    let device = match Device::new_cuda(0) {
        Ok(device) => device,
        Err(error) => {
            say(format_args!("skipped: no GPU ({error})"));
            return Ok(());
        }
    };
    for name in ["gpt2-tiny", "llama-tiny", "mlp-tiny", "mlp-regression"] {
        let here = open(name, DType::F32);
        let there = Model::load(&fixture(name), &LoadOptions { device: device.clone(), ..LoadOptions::default() })?;
        let measurement = match here.model.limits() {
            Limits::Tokens(_) => Measurement::Loss,
            Limits::Rows(limits) if limits.outputs > 1 => Measurement::Margin,
            Limits::Rows(_) => Measurement::Prediction,
        };
        // drawn labels could differ where two probabilities are nearly equal
        let run = Run::empirical(CurvatureKind::Ekfac, measurement);
        assert_eq!(run.labels, LabelMode::Empirical);
        let scores =
            |model: &Model| run.scores::<_, f32>(model, &Batched(&here.train, BATCH), &Batched(&here.queries, BATCH));
        let (want, found) = (scores(&here.model)?, scores(&there)?);
        assert_relative(&found.wide(), &want.wide(), ROUNDING, name);
    }
    Ok(())
}
