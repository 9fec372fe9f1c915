//! Two small networks as a user of the library might define them: those of the golden cases.

use std::ops::Range;

use ascribe::attribution::{Error, Examples};
use ascribe::curvature::gemm::Products;
use ascribe::curvature::{
    self, Graphs, LayerId, LayerSpec, Linear, Network, Objective, Positions, Section, TapRecorder, TapSink,
    backward_through,
};
use ascribe::nn::{LanguageModelHead, LogitsGradient, classification_loss, language_model_loss};
use candle_core::{Device, Tensor};

type Rows = Vec<Vec<f64>>;

fn tensor(rows: &Rows) -> candle_core::Result<Tensor> {
    let flat: Vec<f64> = rows.iter().flatten().copied().collect();
    Tensor::from_vec(flat, (rows.len(), rows[0].len()), &Device::Cpu)
}

/// A layer from `[out, in + 1]` with the bias last, or `[out, in]` without one.
fn linear(weight: &Rows, bias: bool, id: usize) -> (Linear, Tensor, Option<Tensor>) {
    let inputs = weight[0].len() - usize::from(bias);
    let matrix = tensor(&weight.iter().map(|row| row[..inputs].to_vec()).collect()).expect("a matrix");
    let last = bias.then(|| {
        let last: Vec<f64> = weight.iter().map(|row| row[inputs]).collect();
        Tensor::from_vec(last, weight.len(), &Device::Cpu).expect("a vector")
    });
    let layer = Linear::new(matrix.clone(), last.clone(), Some(LayerId(id))).expect("fitting shapes");
    (layer, matrix, last)
}

fn spec(name: &str, weight: &Rows, bias: bool, input_group: usize) -> LayerSpec {
    let inputs = weight[0].len() - usize::from(bias);
    LayerSpec { name: name.into(), outputs: weight.len(), inputs, bias, input_group, vocabulary: None }
}

/// tanh between linear layers, softmax cross-entropy.
pub struct Classifier {
    layers: Vec<Linear>,
    specs: Vec<LayerSpec>,
}

impl Classifier {
    pub fn new(weights: &[Rows]) -> Self {
        let layers = weights.iter().enumerate().map(|(l, weight)| linear(weight, true, l).0).collect();
        let specs = weights.iter().enumerate().map(|(l, weight)| spec(&format!("layers.{l}"), weight, true, l));
        Self { layers, specs: specs.collect() }
    }
}

/// Points with their classes; an example's key is its place.
pub struct Points {
    pub inputs: Rows,
    pub classes: Vec<u32>,
    /// Examples of a batch.
    pub batch: usize,
}

pub struct PointBatch {
    inputs: Tensor,
    classes: Vec<u32>,
    keys: Vec<u64>,
    positions: Positions,
}

impl Examples<PointBatch> for Points {
    fn len(&self) -> usize {
        self.inputs.len()
    }

    fn positions(&self, _: usize) -> usize {
        1
    }

    fn batch_end(&self, start: usize, end: usize) -> usize {
        end.min(start + self.batch)
    }

    fn batch(&self, range: Range<usize>) -> Result<PointBatch, Error> {
        Ok(PointBatch {
            inputs: tensor(&self.inputs[range.clone()].to_vec())?,
            classes: self.classes[range.clone()].to_vec(),
            positions: Positions::single(range.len()),
            keys: range.map(|m| m as u64).collect(),
        })
    }
}

impl Network for Classifier {
    type Batch = PointBatch;

    fn layers(&self) -> &[LayerSpec] {
        &self.specs
    }

    fn positions<'a>(&self, batch: &'a PointBatch) -> &'a Positions {
        &batch.positions
    }

    fn differentiate(
        &self,
        batch: &PointBatch,
        objective: Objective,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, curvature::Error> {
        let last = self.layers.len() - 1;
        let section = |(l, layer): (usize, &'_ Linear)| {
            let layer = layer.clone();
            move |x: &Tensor, taps: &TapRecorder| {
                let z = layer.forward(x, taps)?;
                if l < last { z.tanh() } else { Ok(z) }
            }
        };
        let sections: Vec<_> = self.layers.iter().enumerate().map(section).collect();
        let sections: Vec<&dyn Section> = sections.iter().map(|section| section as &dyn Section).collect();
        backward_through(&sections, &batch.inputs, Graphs::Kept, &batch.positions, sink, |logits, _| {
            classification_loss(logits, &batch.classes, &batch.keys, objective)
        })
    }
}

/// `h = tanh(W₁ [x, 1]) ⊙ (W₂ x)`, `c` the causal mean of `h`, logits `W₃ [c, 1]`: two layers share an
/// input, one of them without a bias, and the readout records its own tap.
pub struct TokenModel {
    embedding: Tensor,
    gate: Linear,
    up: Linear,
    readout: Tensor,
    readout_bias: Tensor,
    specs: Vec<LayerSpec>,
}

impl TokenModel {
    pub fn new(embedding: &Rows, weights: &[Rows]) -> Self {
        let [gate, up, down] = weights else { panic!("three layers") };
        let (_, readout, readout_bias) = linear(down, true, 2);
        Self {
            embedding: tensor(embedding).expect("a matrix"),
            gate: linear(gate, true, 0).0,
            up: linear(up, false, 1).0,
            readout,
            readout_bias: readout_bias.expect("asked for"),
            specs: vec![spec("gate", gate, true, 0), spec("up", up, false, 1), spec("down", down, true, 2)],
        }
    }

    /// Labels of one position.
    pub fn vocabulary(&self) -> usize {
        self.specs[2].outputs
    }
}

/// Sequences without padding; `labels[t]` names token `t`, `None` where nothing is to be predicted.
pub struct Sequences {
    pub ids: Vec<Vec<u32>>,
    pub labels: Vec<Vec<Option<u32>>>,
    /// Examples of a batch.
    pub batch: usize,
}

pub struct SequenceBatch {
    ids: Vec<u32>,
    targets: Vec<Option<u32>>,
    keys: Vec<u64>,
    positions: Positions,
}

impl Examples<SequenceBatch> for Sequences {
    fn len(&self) -> usize {
        self.ids.len()
    }

    fn positions(&self, example: usize) -> usize {
        self.ids[example].len()
    }

    fn batch_end(&self, start: usize, end: usize) -> usize {
        end.min(start + self.batch)
    }

    fn batch(&self, range: Range<usize>) -> Result<SequenceBatch, Error> {
        let next = |labels: &Vec<Option<u32>>| labels[1..].iter().copied().chain([None]).collect::<Vec<_>>();
        Ok(SequenceBatch {
            ids: self.ids[range.clone()].concat(),
            targets: self.labels[range.clone()].iter().flat_map(next).collect(),
            positions: Positions::from_lengths(self.ids[range.clone()].iter().map(Vec::len)),
            keys: range.map(|m| m as u64).collect(),
        })
    }
}

/// Longest sequence of the exact Fisher's enumeration.
pub const LONGEST: usize = 5;

impl TokenModel {
    /// The exact Fisher of a sequence is a sum over single label positions (`docs/method.md`, Curvature): `class`
    /// enumerates pairs of a position and a label.
    fn expected(
        &self,
        hidden: &Tensor,
        batch: &SequenceBatch,
        class: usize,
    ) -> candle_core::Result<(Vec<f64>, Tensor)> {
        let vocabulary = self.vocabulary();
        let (position, label) = (class / vocabulary, class % vocabulary);
        let pairs = (LONGEST * vocabulary) as f64;
        let logits = hidden.matmul(&self.readout.t()?)?.broadcast_add(&self.readout_bias)?.to_vec2::<f64>()?;
        let mut gradient = vec![vec![0.0; vocabulary]; logits.len()];
        let mut values = vec![0.0; batch.positions.examples()];
        for (m, rows) in batch.positions.iter().enumerate() {
            let row = rows.start + position;
            if row >= rows.end || batch.targets[row].is_none() {
                continue;
            }
            let total: f64 = logits[row].iter().map(|z| z.exp()).sum();
            let p: Vec<f64> = logits[row].iter().map(|z| z.exp() / total).collect();
            values[m] = -p[label].ln();
            for (y, p_y) in p.iter().enumerate() {
                gradient[row][y] = (pairs * p[label]).sqrt() * (p_y - f64::from(u8::from(y == label)));
            }
        }
        Ok((values, tensor(&gradient)?))
    }
}

impl Network for TokenModel {
    type Batch = SequenceBatch;

    fn layers(&self) -> &[LayerSpec] {
        &self.specs
    }

    fn positions<'a>(&self, batch: &'a SequenceBatch) -> &'a Positions {
        &batch.positions
    }

    fn differentiate(
        &self,
        batch: &SequenceBatch,
        objective: Objective,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, curvature::Error> {
        let positions = &batch.positions;
        let n = positions.rows();
        let mut mix = vec![vec![0.0; n]; n];
        for rows in positions.iter() {
            for t in rows.clone() {
                for u in rows.start..=t {
                    mix[t][u] = 1.0 / (t - rows.start + 1) as f64;
                }
            }
        }
        let mix = tensor(&mix)?;
        let body = |x: &Tensor, taps: &TapRecorder| {
            let gate = self.gate.forward(x, taps)?.tanh()?;
            mix.matmul(&(gate * self.up.forward(x, taps)?)?)
        };
        let ids = Tensor::from_slice(&batch.ids, batch.ids.len(), &Device::Cpu)?;
        let x = self.embedding.index_select(&ids, 0)?;
        backward_through(&[&body], &x, Graphs::Kept, positions, sink, |hidden, taps| {
            let (values, at_logits) = match objective {
                Objective::ExpectedLoss { class } => self.expected(hidden, batch, class)?,
                _ => {
                    let (bias, products) = (Some(&self.readout_bias), Products::Exact);
                    let head = LanguageModelHead { weight: &self.readout, bias, soft_cap: None, products };
                    let (targets, keys, keep) = (&batch.targets, &batch.keys, LogitsGradient::Keep);
                    let loss = language_model_loss(hidden, head, positions, targets, keys, objective, keep)?;
                    (loss.values, loss.logits_gradient.expect("asked for"))
                }
            };
            let at_hidden = at_logits.matmul(&self.readout)?;
            taps.record(LayerId(2), hidden.clone(), at_logits);
            Ok((values, at_hidden))
        })
    }
}
