//! Activations of every name against transformers' ACT2FN and PyTorch's autograd in f64 (`fixtures/activations.json`).

use std::collections::BTreeMap;

use crate::support::{Outcome, fixture};
use ascribe::curvature::{Gradient, Tape};
use ascribe::nn::Activation;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

#[derive(Deserialize)]
struct Recorded {
    points: Vec<f64>,
    activations: BTreeMap<String, Curve>,
}

#[derive(Deserialize)]
struct Curve {
    values: Vec<f64>,
    slopes: Vec<f64>,
}

#[test]
fn activations_and_their_slopes_are_those_of_transformers() -> Outcome {
    let Recorded { points, activations } = serde_json::from_slice(&std::fs::read(fixture("activations.json"))?)?;
    for name in Activation::NAMES.into_iter().filter(|&name| name != "identity") {
        let (activation, want) = (Activation::from_name(name).expect("a name of the list"), &activations[name]);
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-6)] {
            // transformers writes √(2/π) with ten digits in this one
            let tolerance = if name == "gelu_fast" { 1e-6 } else { tolerance };
            let tape = Tape::default();
            let x = Tensor::from_slice(&points, points.len(), &Device::Cpu)?.to_dtype(dtype)?;
            let input = tape.input(x, Gradient::Wanted);
            let output = activation.trace(&input)?;
            let value = output.value().to_dtype(DType::F64)?.to_vec1::<f64>()?;
            let slope = tape.backward(&input, &output, output.value().ones_like()?)?.expect("wanted");
            let slope = slope.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            for (k, x) in points.iter().enumerate() {
                for (what, found, want) in [("value", value[k], want.values[k]), ("slope", slope[k], want.slopes[k])] {
                    let scale = want.abs().max(1.0);
                    assert!((found - want).abs() <= tolerance * scale, "{name}, {what} at {x}: {found}, {want}");
                    let [y, dy, _] = activation.derivatives(*x);
                    let second = if what == "value" { y } else { dy };
                    let exact = if name == "gelu_fast" { 1e-6 } else { 1e-13 };
                    assert!((second - want).abs() <= exact * scale, "{name}, {what} at {x}: {second}, {want}");
                }
            }
        }
    }
    Ok(())
}
