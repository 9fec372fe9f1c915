//! Curvature that is fitted as one: where it is taken, and what it is of.

use crate::attribution::source::Conditioner;
use crate::curvature::{CurvatureKind, LayerSpec, SharedInputs};
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::training::moments::Moments;
use crate::job::training::second_moments::SecondMoments;
use crate::job::training::stage::Sample;

/// Where a part of a curvature is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::job) struct Place {
    /// The network.
    pub network: usize,
    /// `w_a`; they sum to 1 in a fit.
    pub weight: f64,
}

/// Curvature that is fitted as one: at one checkpoint, or at those of a segment.
#[derive(Debug, Clone)]
pub(in crate::job) struct Fit {
    /// For people.
    pub name: String,
    /// How it is approximated.
    pub kind: CurvatureKind,
    /// The stage whose data it is taken on.
    pub stage: usize,
    /// Which of them.
    pub sample: Sample,
    /// Whether the sums over all of them are those over both halves together, which have curvatures of their own: one
    /// differentiation serves all three.
    pub in_halves: bool,
    /// The networks that it is taken at.
    pub places: Vec<Place>,
    /// Layers without a curvature here: the stage did not train them.
    pub frozen: Vec<usize>,
    /// Second moments of an optimizer that has them, which condition the curvature.
    pub moments: Option<Moments>,
    /// Second moments that are the curvature themselves.
    pub second_moments: Option<SecondMoments>,
}

impl Fit {
    /// The parts of the stage's examples whose sums make it.
    pub(in crate::job) fn samples(&self) -> &[Sample] {
        match (self.in_halves, &self.sample) {
            (true, Sample::Whole) => &[Sample::Half(0), Sample::Half(1)],
            (_, own) => std::slice::from_ref(own),
        }
    }

    /// Whether a pass there serves it.
    pub(in crate::job) fn is_taken_at(&self, site: Site) -> bool {
        let is_here = self.stage == site.stage && self.samples().contains(&site.sample);
        is_here && self.places.iter().any(|place| place.network == site.network)
    }

    /// Whether layers that read the same input have its eigenvectors in common: each conditioner turns a shared
    /// covariance into another one.
    pub(in crate::job) fn shared_inputs(&self) -> SharedInputs {
        if self.moments.is_some() { SharedInputs::Own } else { SharedInputs::Shared }
    }

    /// A conditioner for every layer that is not frozen; empty unless the optimizer is preconditioned.
    pub(in crate::job) fn conditioners<T: Number>(
        &self,
        layers: &[LayerSpec],
    ) -> Result<Vec<Option<Conditioner<T>>>, JobError> {
        self.moments.as_ref().map_or_else(|| Ok(vec![]), |moments| moments.conditioners(layers, &self.frozen))
    }
}

/// A network, and the stage whose data it is run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) struct Site {
    /// The network.
    pub network: usize,
    /// The stage.
    pub stage: usize,
    /// Which of the stage's examples, where a curvature is taken; all of them where they are scored.
    pub sample: Sample,
}
