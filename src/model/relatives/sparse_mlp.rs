//! A mixture of experts in place of a block's MLP (Shazeer et al. 2017; Jiang et al. 2024, section 2.1): a router
//! chooses a few MLPs for every token and adds up what they make of it. Families differ in the router's weights, in an
//! expert that sees every token, and in how files call it all.
//!
//! A checkpoint holds three matrices for each expert, as transformers 4 has them and transformers 5 saves them, or two
//! for all experts of a block, as transformers 5 has them in memory. Both are read as three layers an expert, under the
//! names of the former.

use super::experts::Experts;
use super::family::Family;
use super::mlp::{Mlp, StoredMlp, dense};
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::model::architecture::ExpertNames;
use crate::model::checkpoint_reader::CheckpointReader;
use crate::model::error::LoadError;
use crate::model::layout::Layout;
use crate::model::operations::LayerRows;
use crate::model::projection::{Projection, StoredLinear};
use crate::model::residence::Stored;
use crate::model::tracking::{SharedInput, Tracking};
use crate::nn::{ExpertWeights, Routes, trace_sigmoid_gated};

/// The experts of one block.
#[derive(Debug)]
pub(super) struct SparseMlp {
    router: Projection,
    experts: Vec<Mlp>,
    /// Experts that see one token.
    chosen: usize,
    weights: ExpertWeights,
    shared: Option<SharedExpert>,
}

/// An MLP that sees every token, times the logistic function of a number that it has for the token.
#[derive(Debug)]
struct SharedExpert {
    mlp: Mlp,
    gate: Projection,
}

impl SparseMlp {
    pub(super) fn trace(&self, x: &Traced, positions: &Positions, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let logits = self.router.trace(x, taps)?; // [R, E]
        let routes = Routes::new(logits.value(), self.chosen, positions)?;
        let outputs = routes.dispatch(x)?.in_groups(routes.lengths(), |expert, x| {
            self.experts[expert].trace(x, &taps.at(routes.positions(expert))) // [R of the expert, D]
        })?;
        let y = routes.combine(&outputs, &logits, self.weights)?;
        match &self.shared {
            Some(SharedExpert { mlp, gate }) => {
                y.add(&trace_sigmoid_gated(&gate.trace(x, taps)?, &mlp.trace(x, taps)?)?)
            }
            None => Ok(y),
        }
    }
}

/// A block's experts on disk.
#[derive(Debug)]
pub(super) struct StoredSparseMlp {
    router: StoredLinear,
    experts: Vec<StoredMlp>,
    chosen: usize,
    weights: ExpertWeights,
    shared: Option<(StoredMlp, StoredLinear)>,
}

impl StoredSparseMlp {
    /// The experts of block `n`.
    pub(super) fn new(
        source: &CheckpointReader,
        tracking: &Tracking<'_>,
        family: &Family,
        experts: &Experts,
        n: usize,
    ) -> Result<Self, LoadError> {
        let Family { width, activation, .. } = *family;
        let Experts { count, chosen, inner, weights, shared, names, .. } = *experts;
        let mut read_by_all = SharedInput::default();
        let layout = Layout::OutputsFirst;
        let module = format!("layers.{n}.{}", names.module);
        let fused = ExpertNames::FUSED.map(|tensor| format!("layers.{n}.{}.{tensor}", ExpertNames::FUSED_MODULE));
        let is_fused = fused.iter().any(|tensor| source.contains(tensor));
        let in_file = if is_fused { ExpertNames::FUSED_MODULE } else { names.module };
        let weight = source.tensor(&format!("layers.{n}.{in_file}.gate.weight"), &[count, width])?;
        let router = source.linear_at(tracking, &format!("{module}.gate"), weight, [count, width], &mut read_by_all);
        source.add_activations(count + width);
        // of all experts together a token is seen by `chosen`
        source.add_activations(chosen * 3 * (width + inner));
        let expert = |tracking: &Tracking<'_>, e: usize| {
            let mut read_by_expert = SharedInput::default();
            let [gate, up, down] = names.matrices.map(|matrix| format!("{module}.experts.{e}.{matrix}"));
            let linear = |name: &str, of: usize, before: usize, shape: [usize; 2], input: &mut SharedInput| {
                let weight = if is_fused {
                    let rows = [2 * inner, width][of];
                    let first = e * rows + before;
                    source.rows_of(&fused[of], &[count, rows, shape[1]], first..first + shape[0])?
                } else {
                    source.tensor(&format!("{name}.weight"), &shape)?
                };
                Ok::<_, LoadError>(source.linear_at(tracking, name, weight, shape, input))
            };
            let gate = linear(&gate, 0, 0, [inner, width], &mut read_by_expert)?;
            let up = linear(&up, 0, inner, [inner, width], &mut read_by_expert)?;
            let down = linear(&down, 1, 0, [width, inner], &mut SharedInput::default())?;
            Ok(StoredMlp::new(vec![gate, up], down, activation))
        };
        // of all tokens an expert sees its share, if they are spread evenly
        let chosen_of_all = LayerRows::share(chosen as f64 / count as f64);
        let all = || (0..count).map(|e| expert(tracking, e)).collect::<Result<_, LoadError>>();
        let experts = tracking.seeing(chosen_of_all, all)?;
        let shared = match shared {
            Some(inner) => {
                let name = format!("{module}.shared_expert");
                let mlp = dense(source, tracking, &name, family, inner, &mut read_by_all)?;
                let gate = format!("{module}.shared_expert_gate");
                Some((mlp, source.linear(tracking, &gate, [1, width], false, layout, &mut read_by_all)?))
            }
            None => None,
        };
        Ok(Self { router, experts, chosen, weights, shared })
    }
}

impl Stored for StoredSparseMlp {
    type Value = SparseMlp;

    fn read(&self) -> Result<SparseMlp, LoadError> {
        let shared = self
            .shared
            .as_ref()
            .map(|(mlp, gate)| Ok::<_, LoadError>(SharedExpert { mlp: mlp.read()?, gate: gate.read()? }));
        Ok(SparseMlp {
            router: self.router.read()?,
            experts: self.experts.iter().map(Stored::read).collect::<Result<_, _>>()?,
            chosen: self.chosen,
            weights: self.weights,
            shared: shared.transpose()?,
        })
    }
}
