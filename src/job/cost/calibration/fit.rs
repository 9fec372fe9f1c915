//! Passes of the fit: covariances, and squared gradients in eigenbases.

use std::time::Instant;

use super::super::count::WorkKind;
use super::super::stages;
use super::super::work;
use super::bench::{Bench, Timing, invented_bases};
use crate::curvature::random::stream;
use crate::curvature::{CovarianceSum, LambdaSum, LayerSpec, PairWeights};
use crate::job::error::JobError;
use crate::job::number::Number;

impl Bench<'_> {
    pub(super) fn covariances<T: Number>(&mut self) -> Result<(), JobError> {
        let (layers, seeing, train) = (self.layers(), self.seeing(), self.train());
        let mut sum = CovarianceSum::<T>::new(layers).with_products(self.products());
        let objective = self.plan.label_mode().objectives(stream::COVARIANCE)[0];
        self.repeat(WorkKind::Covariances, train, objective, &mut sum, |batch| {
            (work::covariances(seeing, batch, PairWeights::Positions), 0.0)
        })
    }

    pub(super) fn squares<T: Number>(&mut self) -> Result<(), JobError> {
        let (layers, seeing, train) = (self.layers(), self.seeing(), self.train());
        let fit = self.plan.needed_fits().map(|(_, fit)| fit).find(|fit| fit.kind.has_lambda_pass());
        let coordinates = fit.map_or(work::Coordinates::Standard, |fit| stages::coordinates(self.plan, fit));
        let bases = match coordinates {
            work::Coordinates::Standard => vec![None; layers.len()],
            _ => invented_bases::<T>(layers, self.plan.block_width()),
        };
        let ones: Vec<Vec<T>> = match coordinates {
            work::Coordinates::ConditionedEigenbasis(_) => {
                layers.iter().map(|l| vec![T::of(1.0); l.parameters()]).collect()
            }
            _ => vec![],
        };
        let mut sum = LambdaSum::new(layers, bases.iter().map(Option::as_ref).collect()).with_products(self.products());
        if !ones.is_empty() {
            sum = sum.conditioned(ones.iter().map(|ones| Some(ones.as_slice())).collect());
        }
        let objective = self.plan.label_mode().objectives(stream::LAMBDA)[0];
        self.repeat(WorkKind::Squares, train, objective, &mut sum, |batch| {
            ((0..layers.len()).map(|l| work::squares(seeing, l, batch, coordinates)).sum(), 0.0)
        })?;
        // twice, since the first touches memory
        sum.flush(0..1, 1)?;
        let start = Instant::now();
        sum.flush(0..1, 1)?;
        let numbers: usize = layers.iter().map(LayerSpec::parameters).sum();
        self.sums = self.sums.faster(Timing::since(start, numbers as f64));
        Ok(())
    }
}
