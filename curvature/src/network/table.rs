//! Tables of embeddings on the tape: each is a linear layer without bias whose inputs say which row was read.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::network::layer::LayerId;
use crate::network::linear::TapRecorder;
use crate::network::tape::Traced;

/// Which row of a table of embeddings every row of a value had added to it.
#[derive(Debug, Clone)]
pub struct TableRows {
    /// The row of the table, by row of the value.
    pub ids: Arc<[u32]>,
    /// Rows of the table, V.
    pub size: usize,
    /// The row that training leaves as it is: PyTorch gives the row of padding (`padding_idx`) no gradient.
    pub fixed: Option<u32>,
    /// In which order the tap has the value's rows, if not in theirs: rows of an example have to stand together.
    pub order: Option<Arc<[u32]>>,
}

impl TableRows {
    /// Row by row of the tap, 1 at the row of the table that was read and 0 elsewhere, `[R, V]`; nothing but 0 where that is
    /// the fixed one. Of the type and on the device of another tensor.
    fn one_hot(&self, like: &Tensor) -> Result<Tensor> {
        let mut ones = vec![0f32; self.ids.len() * self.size];
        for (k, row) in ones.chunks_exact_mut(self.size.max(1)).enumerate() {
            let id = self.ids[self.order.as_ref().map_or(k, |order| order[k] as usize)];
            match row.get_mut(id as usize) {
                Some(one) => *one = f32::from(u8::from(self.fixed != Some(id))),
                None => candle_core::bail!("row {id} of a table of {}", self.size),
            }
        }
        Tensor::from_vec(ones, (self.ids.len(), self.size), like.device())?.to_dtype(like.dtype())
    }

    /// Gradients at the value, `[K R, D]`, with the rows of each in the order of the tap.
    fn ordered(&self, gradients: &Tensor) -> Result<Tensor> {
        let Some(order) = &self.order else { return gradients.contiguous() };
        let rows = order.len() as u32;
        let count = gradients.dim(0)? as u32 / rows.max(1);
        let all: Vec<u32> = (0..count).flat_map(|k| order.iter().map(move |row| k * rows + row)).collect();
        gradients.index_select(&Tensor::from_slice(&all, all.len(), gradients.device())?, 0)
    }

    /// The columns that were read of directions `[Q, D, V]`, one below the other: `[Q R, D]`.
    fn moved(&self, directions: &Tensor) -> Result<Tensor> {
        let (count, width, _) = directions.dims3()?;
        let ids = Tensor::from_slice(&self.ids, self.ids.len(), directions.device())?;
        let moved = directions.index_select(&ids, 2)?.transpose(1, 2)?; // [Q, R, D]
        let moves: Vec<f32> = self.ids.iter().map(|id| f32::from(u8::from(self.fixed != Some(*id)))).collect();
        let moves =
            Tensor::from_vec(moves, (1, self.ids.len(), 1), directions.device())?.to_dtype(directions.dtype())?;
        moved.contiguous()?.broadcast_mul(&moves)?.reshape((count * self.ids.len(), width))
    }
}

impl Traced {
    /// This value, to each row of which a row of a tracked table was added: on the way back the table's layer leaves its
    /// tap, `(e, s)` at every row with `e` the unit vector of the row that was read and `s` the gradient at the value, so
    /// that `Σ_t s_t e_tᵀ` is the transposed table's gradient; along directions the rows that were read move the value.
    ///
    /// # Shapes
    /// The value: `[R, D]`; the layer: D outputs, V inputs, no bias.
    /// # Errors
    /// If there is not one row of the table for each row of the value, or no such row.
    /// # Source
    /// `docs/method.md`, Embeddings.
    pub fn with_table(&self, layer: LayerId, rows: TableRows, taps: &TapRecorder) -> Result<Self> {
        let count = self.value().dim(0)?;
        if rows.ids.len() != count {
            candle_core::bail!("{} rows of a table in a value of {count} rows", rows.ids.len());
        }
        let own = taps.directions().map(|directions| rows.moved(directions.of(layer)?)).transpose()?;
        self.entered(layer, own, taps, move |gradients| Ok((rows.one_hot(gradients)?, rows.ordered(gradients)?)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::network::layer::LayerSpec;
    use crate::network::linear::Linear;
    use crate::network::tangent::Directions;
    use crate::network::tape::{Gradient, Tape};

    fn numbers(shape: &[usize], phase: f64) -> Result<Tensor> {
        let n: usize = shape.iter().product();
        Tensor::from_vec((0..n).map(|k| (k as f64 * 0.7 + phase).sin()).collect(), shape, &Device::Cpu)
    }

    fn flat(tensor: &Tensor) -> Result<Vec<f64>> {
        tensor.flatten_all()?.to_vec1()
    }

    /// A table is a linear layer over unit vectors, in its tap and in how its value moves, but for the row that is fixed.
    #[test]
    fn a_table_is_a_linear_layer_of_unit_vectors() -> Result<()> {
        let (ids, table) = ([3u32, 0, 3, 1], numbers(&[5, 2], 0.1)?);
        let rows = |fixed| TableRows { ids: Arc::from(ids), size: 5, fixed, order: None };
        let spec = LayerSpec { name: "t".into(), outputs: 2, inputs: 5, bias: false, input_group: 0, vocabulary: None };
        let directions = Directions::new(std::slice::from_ref(&spec), vec![numbers(&[3, 2, 5], 0.4)?])
            .expect("directions of one layer");
        let upstream = numbers(&[4, 2], 0.9)?;
        let unit = rows(None).one_hot(&upstream)?;
        let linear = Linear::new(table.t()?.contiguous()?, None, Some(LayerId(0))).expect("a matrix");
        let read = table.index_select(&Tensor::from_slice(&ids, 4, &Device::Cpu)?, 0)?;
        for fixed in [None, Some(3)] {
            let taps = TapRecorder::default();
            let tape = Tape::default();
            let input = tape.input(read.clone(), Gradient::Unwanted);
            let output = input.with_table(LayerId(0), rows(fixed), &taps)?;
            tape.backward(&input, &output, upstream.clone())?;
            let [(_, ref seen, ref gradient)] = taps.take()[..] else { panic!("one tap") };
            assert_eq!(flat(gradient)?, flat(&upstream)?);
            let product = flat(&gradient.t()?.matmul(seen)?)?;
            let mut want = flat(&upstream.t()?.matmul(&unit)?)?;
            if fixed.is_some() {
                (0..2).for_each(|o| want[o * 5 + 3] = 0.0);
            }
            assert_eq!(product, want);

            let along = TapRecorder::along(directions.clone());
            let moved = Traced::constant(read.clone()).with_table(LayerId(0), rows(fixed), &along)?;
            let moved = flat(moved.tangents().expect("it moves"))?;
            let of_linear = linear.trace(&Traced::constant(unit.clone()), &along)?;
            let mut want = flat(of_linear.tangents().expect("it moves"))?;
            if fixed.is_some() {
                (0..3 * 4).filter(|row| ids[row % 4] == 3).for_each(|row| want[2 * row..2 * row + 2].fill(0.0));
            }
            assert_eq!(moved.len(), want.len());
            assert!(moved.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-15), "{moved:?} {want:?}");
        }
        // the same product of two stacked gradients, rows of the second first
        let swapped = TableRows { order: Some(Arc::from([2u32, 3, 0, 1])), ..rows(None) };
        let stacked = Tensor::cat(&[&upstream, &(&upstream * 2.0)?], 0)?;
        let turned = swapped.ordered(&stacked)?.narrow(0, 4, 4)?;
        let (product, want) =
            (turned.t()?.matmul(&swapped.one_hot(&upstream)?)?, (upstream.t()?.matmul(&unit)? * 2.0)?);
        assert!(flat(&(product - want)?.abs()?)?.iter().all(|error| *error < 1e-15));
        let beyond = TableRows { ids: Arc::from([5u32]), size: 5, fixed: None, order: None };
        assert!(beyond.one_hot(&upstream).is_err());
        assert!(Traced::constant(read).with_table(LayerId(0), beyond, &TapRecorder::default()).is_err());
        Ok(())
    }
}
