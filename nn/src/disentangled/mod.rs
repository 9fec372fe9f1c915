//! Disentangled attention of DeBERTa (He et al. 2021, section 3.1): scores of contents and, beside them, of the content of
//! one token and the distance to the other.

mod composed;
mod distances;
mod kernel;
mod op;
mod rows;
mod shape;

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests;

use std::sync::Arc;

use candle_core::{Result, Tensor};

pub use self::distances::RelativeDistances;
pub use self::rows::RelativeRows;
pub use self::shape::DisentangledAttention;
use ascribe_curvature::{TangentRule, Traced};

impl DisentangledAttention {
    /// Attends.
    ///
    /// # Errors
    /// If the shapes do not fit each other or the rows.
    pub fn trace(&self, [q, k, v]: [&Traced; 3], rows: &Arc<RelativeRows>) -> Result<Traced> {
        self.check([q.value(), k.value(), v.value()], rows)?;
        let tangent = |values: [&Tensor; 3], moving: [&Tensor; 3]| self.tangent(values, moving, rows);
        let rule = TangentRule::Each(&tangent);
        if q.value().device().is_cpu() {
            return q.op3_with(k, v, op::Op { attention: self.clone(), rows: rows.clone() }, rule);
        }
        Traced::composed_with([q, k, v], |values| self.composed(values, rows), rule)
    }

    fn check(&self, values: [&Tensor; 3], rows: &RelativeRows) -> Result<()> {
        let width = self.heads * self.head_dimension;
        for ((name, x), positions) in ["q", "k", "v"].into_iter().zip(values).zip(self.positions(rows)) {
            let expected = [positions.rows(), width];
            if x.dims() != expected {
                candle_core::bail!("attention got {name} of the shape {:?}, expected {expected:?}", x.dims());
            }
        }
        Ok(())
    }
}
