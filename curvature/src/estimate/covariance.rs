//! Uncentred covariances of inputs and of output gradients of linear layers, the two sides of a Kronecker factorisation
//! (Martens and Grosse 2015), and the weighted sums that other factorisations take in their place.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::contraction::rotated::augmented;
use crate::error::Error;
use crate::estimate::pair_weights::{PairWeights, weigh};
use crate::estimate::side::{LayerSide, SharedInputs};
use crate::linalg::block_diagonal::BlockWidth;
use crate::linalg::gemm::{self, Products, Real, Threads, View, ViewMut};
use crate::linalg::symmetric::SymmetricMatrix;
use crate::linalg::symmetric_blocks::SymmetricBlocks;
use crate::network::layer::{LayerSpec, Side, is_first_of_group};
use crate::network::slices::with_slice;
use crate::network::tap::{Tap, TapSink};

/// Columns that one task sums.
const COLUMNS: usize = 64;

/// Running sums of `a aᵀ` and `s sᵀ` over positions, in `f64`: lower triangles, and no other memory. Products run in the
/// taps' type, a few hundred positions at a time.
///
/// With [`PairWeights`] that couple both sides, a batch's weighted sum is one product in the taps' type, added in `f64`.
///
/// # Source
/// `docs/method.md`, Curvature and Numerics.
#[derive(Debug)]
pub struct CovarianceSum<T> {
    layers: Vec<LayerSpec>,
    /// By input group; `None` where no layer has the number.
    inputs: Vec<Option<GramSum>>,
    outputs: Vec<GramSum>,
    weights: PairWeights,
    weighted: WeightedRows<T>,
    examples: u64,
    products: Products,
}

/// A batch's rows of one layer, plain and multiplied with the weights of their pairs, and a product of both.
#[derive(Debug)]
struct WeightedRows<T> {
    inputs: Vec<T>,
    weighted: Vec<T>,
    product: Vec<T>,
}

/// Means over positions: input covariances by input group, output covariances by layer. Those of whole gradients
/// ([`PairWeights::Gradients`]) are means over examples.
#[derive(Debug, Clone)]
pub struct Covariance {
    /// `A = (1/n) Σ a aᵀ`, `[columns, columns]`, by input group; `None` where no layer has the number.
    pub inputs: Vec<Option<SymmetricBlocks>>,
    /// `S = (1/n) Σ s sᵀ`, `[O, O]`, by layer.
    pub outputs: Vec<SymmetricBlocks>,
    /// What was counted.
    pub counts: Counts,
}

/// What covariances are means over. Layers of one model may have seen different numbers of positions: an expert those
/// that were routed to it, a convolution those of its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Positions, n, by layer; examples, where the sums are of whole gradients.
    pub positions: Vec<u64>,
    /// Examples, each as often as labels were drawn for it.
    pub examples: u64,
}

impl Counts {
    /// T̄, the mean number of positions of an example at a layer.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn mean_positions(&self, layer: usize) -> f64 {
        self.positions[layer] as f64 / self.examples as f64
    }
}

impl Covariance {
    /// The covariance of one side of a layer, of layers in the order in which they were summed.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn of(&self, layers: &[LayerSpec], of: LayerSide) -> &SymmetricBlocks {
        match of.side {
            Side::Input => {
                let input = self.inputs[layers[of.layer].input_group].as_ref();
                input.expect("every layer's input group has a covariance")
            }
            Side::Output => &self.outputs[of.layer],
        }
    }

    /// All that are summed: the input's of each group once, the output's of each layer.
    pub fn sides(layers: &[LayerSpec]) -> Vec<LayerSide> {
        LayerSide::all(layers, SharedInputs::Shared, &[])
    }

    /// Numbers that a layer's covariances take, the input's only if it is the first of its group.
    ///
    /// # Panics
    /// If there is no layer `l`.
    pub fn numbers_of_layer(layers: &[LayerSpec], l: usize) -> usize {
        let of = |side| Self::numbers_of_side(&layers[l], side);
        of(Side::Output) + if is_first_of_group(layers, l) { of(Side::Input) } else { 0 }
    }

    /// Numbers that the covariance of a side takes.
    pub fn numbers_of_side(layer: &LayerSpec, side: Side) -> usize {
        SymmetricBlocks::numbers(layer.size(side), layer.kept_blocks(side))
    }
}

/// `Σ x xᵀ` with an optional trailing 1 in `x`.
#[derive(Debug)]
struct GramSum {
    /// Columns of x, without the 1.
    n: usize,
    ones: bool,
    /// Blocks on the diagonal outside of which nothing is summed; one where there is a trailing 1.
    width: BlockWidth,
    /// Lower triangles of the blocks, the trailing 1 in the last row.
    sum: Vec<f64>,
    /// None if nothing came, which is not the same as something without rows.
    rows: Option<u64>,
}

impl GramSum {
    fn new(n: usize, ones: bool, width: BlockWidth) -> Self {
        let width = if ones { BlockWidth::Any } else { width };
        let sum = vec![0.0; SymmetricBlocks::numbers(n + usize::from(ones), width)];
        Self { n, ones, width, sum, rows: None }
    }

    fn add<T: Real>(&mut self, x: &[T], products: Products) {
        let (n, rows) = (self.n, x.len() / self.n);
        let (mut sums, last_row) = self.sum.split_at_mut(SymmetricBlocks::numbers(n, self.width));
        for group in self.width.groups(n) {
            let sum = sums.split_off_mut(..SymmetricMatrix::numbers(group.len())).expect("a triangle for each block");
            let columns = View::new(x.get(group.start..).unwrap_or_default(), rows, group.len(), n);
            gemm::add_gram(sum, columns.to(products), Threads::Pool);
        }
        if self.ones {
            let (sums, count) = last_row.split_at_mut(n);
            sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(task, sums)| {
                for row in x.chunks_exact(n) {
                    for (sum, x) in sums.iter_mut().zip(&row[task * COLUMNS..]) {
                        *sum += x.wide();
                    }
                }
            });
            count[0] += rows as f64;
        }
        self.count(rows as u64);
    }

    /// Adds `Xᵀ W X`, `weighted` being `W X`, as a mean over so many rows or examples.
    fn add_weighted<'a, T: Real>(
        &mut self,
        x: &'a [T],
        weighted: &'a [T],
        product: &mut Vec<T>,
        count: u64,
        products: Products,
    ) {
        let (n, rows) = (self.n, x.len() / self.n);
        let mut triangles = self.sum.as_mut_slice();
        for group in self.width.groups(n) {
            let size = group.len();
            product.resize(size * size, T::of(0.0));
            let columns =
                |of: &'a [T]| View::new(of.get(group.start..).unwrap_or_default(), rows, size, n).to(products);
            let to = ViewMut::dense(product, size, size);
            gemm::matmul(to, gemm::Into::Replace, T::of(1.0), columns(x).t(), columns(weighted), Threads::Pool);
            for (r, row) in product.chunks_exact(size).enumerate() {
                let sums = triangles.split_off_mut(..r + 1).expect("a triangle for each block");
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.wide());
            }
        }
        self.count(count);
    }

    fn count(&mut self, rows: u64) {
        *self.rows.get_or_insert(0) += rows;
    }

    fn is_finite(&self) -> bool {
        self.sum.par_chunks(1 << 16).all(|sums| sums.iter().all(|x| x.is_finite()))
    }

    /// The mean, in the sum's own memory; 0 if there were no rows.
    fn into_mean(mut self) -> SymmetricBlocks {
        let rows = self.rows.unwrap_or(0).max(1) as f64;
        self.sum.iter_mut().for_each(|x| *x /= rows);
        SymmetricBlocks::shared(Arc::new(self.sum), self.n + usize::from(self.ones), self.width)
    }
}

impl<T: Real> CovarianceSum<T> {
    /// Sums of covariances of these layers, empty.
    pub fn new(layers: &[LayerSpec]) -> Self {
        Self::weighted(layers, PairWeights::Positions)
    }

    /// Sums over pairs of positions with these weights, empty.
    ///
    /// # Panics
    /// If weights couple both sides and two layers have the same input group.
    pub fn weighted(layers: &[LayerSpec], weights: PairWeights) -> Self {
        let groups = layers.iter().map(|layer| layer.input_group + 1).max().unwrap_or(0);
        let mut inputs: Vec<Option<GramSum>> = (0..groups).map(|_| None).collect();
        for layer in layers {
            let input = &mut inputs[layer.input_group];
            if weights.couple_sides() {
                assert!(input.is_none(), "weights of pairs are a layer's own, and so is its input's sum");
                *input = Some(GramSum::new(layer.columns(), false, layer.kept_blocks(Side::Input)));
            } else {
                input.get_or_insert_with(|| GramSum::new(layer.inputs, layer.bias, layer.kept_blocks(Side::Input)));
            }
        }
        let output = |layer: &LayerSpec| GramSum::new(layer.outputs, false, layer.kept_blocks(Side::Output));
        let outputs = layers.iter().map(output).collect();
        let weighted = WeightedRows { inputs: vec![], weighted: vec![], product: vec![] };
        let (layers, products) = (layers.to_vec(), Products::Exact);
        Self { layers, inputs, outputs, weights, weighted, examples: 0, products }
    }

    /// The same with products in this arithmetic; sums over batches stay in `f64`.
    #[must_use]
    pub fn with_products(self, products: Products) -> Self {
        Self { products, ..self }
    }

    /// Counts the examples that were added since the last call, each with `draws` labels, and looks at the sums.
    ///
    /// # Errors
    /// [`Error::NonFinite`], naming the first layer whose sum is not finite.
    pub fn flush(&mut self, examples: Range<usize>, draws: usize) -> Result<(), Error> {
        self.examples += (examples.len() * draws) as u64;
        for (index, layer) in self.layers.iter().enumerate() {
            let input = self.inputs[layer.input_group].as_ref().is_none_or(GramSum::is_finite);
            let what = match (input, self.outputs[index].is_finite()) {
                (true, true) => continue,
                (false, _) => "the input",
                (true, false) => "the output gradient",
            };
            return Err(Error::NonFinite { layer: layer.name.clone(), what, examples });
        }
        Ok(())
    }

    /// The sums by name, for storage: lower triangles as in [`SymmetricMatrix`].
    pub fn state(&self) -> Vec<(String, &[f64])> {
        let inputs = self.inputs.iter().enumerate().filter_map(|(group, sum)| {
            let sum = sum.as_ref()?;
            Some((format!("input.{group}"), sum.sum.as_slice()))
        });
        let outputs = self.outputs.iter().enumerate().map(|(l, sum)| (format!("output.{l}"), sum.sum.as_slice()));
        inputs.chain(outputs).collect()
    }

    /// Positions and examples counted so far.
    pub fn counts(&self) -> Counts {
        let most = self.outputs.iter().filter_map(|sum| sum.rows).max().unwrap_or(0);
        // a layer that this network lacks has left no tap, which says nothing about positions
        let positions = self.outputs.iter().map(|sum| sum.rows.unwrap_or(most)).collect();
        Counts { positions, examples: self.examples }
    }

    /// Adds stored sums, those of another shard or of the interrupted pass that goes on.
    ///
    /// # Errors
    /// [`Error::Shape`] if a sum is missing or has another size.
    pub fn add_state<'a>(
        &mut self,
        mut find: impl FnMut(&str) -> Option<&'a [f64]>,
        counts: &Counts,
    ) -> Result<(), Error> {
        let positions = &counts.positions;
        if positions.len() != self.layers.len() {
            let (layer, what) = ("every layer".to_owned(), "the numbers of positions of stored covariances");
            return Err(Error::Shape { layer, what, found: vec![positions.len()], expected: vec![self.layers.len()] });
        }
        let of_group = |group| {
            let first = self.layers.iter().position(|layer| layer.input_group == group);
            first.map_or(0, |first| positions[first])
        };
        let groups = self.inputs.iter_mut().enumerate();
        let groups = groups.filter_map(|(g, sum)| Some((format!("input.{g}"), sum.as_mut()?, of_group(g))));
        let layers = self.outputs.iter_mut().zip(positions).enumerate();
        let layers = layers.map(|(l, (sum, &rows))| (format!("output.{l}"), sum, rows));
        for (name, sum, rows) in groups.chain(layers) {
            let found = find(&name).unwrap_or(&[]);
            if found.len() != sum.sum.len() {
                let (found, expected) = (vec![found.len()], vec![sum.sum.len()]);
                return Err(Error::Shape { layer: name, what: "a stored covariance sum", found, expected });
            }
            sum.sum.iter_mut().zip(found).for_each(|(sum, x)| *sum += x);
            sum.count(rows);
        }
        self.examples += counts.examples;
        Ok(())
    }

    /// The means.
    ///
    /// # Errors
    /// [`Error::NoExamples`] if nothing was added.
    pub fn finish(self) -> Result<Covariance, Error> {
        let counts = self.counts();
        if counts.examples == 0 || counts.positions.iter().all(|&positions| positions == 0) {
            let layer = self.layers.first().map_or_else(String::new, |layer| layer.name.clone());
            return Err(Error::NoExamples { layer, what: "its covariance" });
        }
        let inputs = self.inputs.into_iter().map(|sum| sum.map(GramSum::into_mean)).collect();
        let outputs = self.outputs.into_iter().map(GramSum::into_mean).collect();
        Ok(Covariance { inputs, outputs, counts })
    }
}

impl<T: Real> CovarianceSum<T> {
    /// Both sides' sums of a layer, each weighted by the other.
    fn add_weighted(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let (l, positions) = (tap.layer.0, tap.positions);
        let (layer, weights, products) = (&self.layers[l], self.weights, self.products);
        let count = match weights {
            PairWeights::Gradients => positions.examples(),
            PairWeights::Positions | PairWeights::Norms => positions.rows(),
        };
        let WeightedRows { inputs, weighted, product } = &mut self.weighted;
        let (input, output) = (&mut self.inputs[layer.input_group], &mut self.outputs[l]);
        with_slice(tap.input, |a: &[T]| augmented(inputs, a, layer.inputs, layer.bias, None, products))?;
        let a = (inputs.as_slice(), layer.columns());
        with_slice(tap.output_gradient, |s: &[T]| {
            let s = (s, layer.outputs);
            for (sum, x, other) in [(input.as_mut(), a, s), (Some(output), s, a)] {
                let Some(sum) = sum else { continue };
                weigh(weighted, x, other, positions, weights, products);
                sum.add_weighted(x.0, weighted, product, count as u64, products);
            }
        })?;
        Ok(())
    }
}

impl<T: Real> TapSink for CovarianceSum<T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        if self.weights.couple_sides() {
            return self.add_weighted(tap);
        }
        let group = self.layers[tap.layer.0].input_group;
        if let (true, Some(sum)) = (is_first_of_group(&self.layers, tap.layer.0), &mut self.inputs[group]) {
            with_slice(tap.input, |a: &[T]| sum.add(a, self.products))?;
        }
        with_slice(tap.output_gradient, |s: &[T]| self.outputs[tap.layer.0].add(s, self.products))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::network::layer::LayerId;
    use crate::network::tap::Positions;

    fn layer(name: &str, outputs: usize, inputs: usize, bias: bool, input_group: usize) -> LayerSpec {
        LayerSpec { name: name.into(), outputs, inputs, bias, input_group, vocabulary: None }
    }

    #[test]
    fn means_over_positions_with_ones_and_shared_inputs() -> Result<(), Error> {
        let layers = [layer("q", 2, 3, true, 0), layer("k", 1, 3, true, 0)];
        let a: Vec<f64> = (0..12).map(|i| (i as f64 * 0.7).sin()).collect();
        let s: Vec<f64> = (0..8).map(|i| (i as f64 * 1.3).cos()).collect();
        let mut sum = CovarianceSum::<f64>::new(&layers);
        let positions = Positions::from_lengths([3, 1]);
        let input = Tensor::from_slice(&a, (4, 3), &Device::Cpu)?;
        let gradients =
            [Tensor::from_slice(&s, (4, 2), &Device::Cpu)?, Tensor::from_slice(&s[..4], (4, 1), &Device::Cpu)?];
        for (l, output_gradient) in gradients.iter().enumerate() {
            sum.tap(Tap { layer: LayerId(l), input: &input, output_gradient, positions: &positions })?;
        }
        sum.flush(0..2, 1)?;
        let found = sum.counts();
        let mean = sum.finish()?;
        let counts = Counts { positions: vec![4, 4], examples: 2 };
        assert_eq!((&found, mean.counts.mean_positions(1), mean.inputs.len()), (&counts, 2.0, 1));
        let rows = mean.inputs[0].as_ref().expect("the group has layers").to_dense().to_rows();
        let with_one = |t: usize, i: usize| if i < 3 { a[t * 3 + i] } else { 1.0 };
        for i in 0..4 {
            for j in 0..4 {
                let want = (0..4).map(|t| with_one(t, i) * with_one(t, j)).sum::<f64>() / 4.0;
                assert!((rows[i][j] - want).abs() < 1e-15, "A[{i}, {j}]");
            }
        }
        let rows = mean.outputs[0].to_dense().to_rows();
        for i in 0..2 {
            for j in 0..2 {
                let want = (0..4).map(|t| s[t * 2 + i] * s[t * 2 + j]).sum::<f64>() / 4.0;
                assert!((rows[i][j] - want).abs() < 1e-15, "S[{i}, {j}]");
            }
        }
        Ok(())
    }

    /// A side that counts a large vocabulary is summed in blocks on the diagonal, whatever the weights of pairs: these are the
    /// blocks of the whole, and stored sums are added up.
    #[test]
    fn vocabularies_are_summed_in_blocks() -> Result<(), Error> {
        let (tokens, rows) = (4100, 6);
        let whole = layer("embedding", 2, tokens, false, 0);
        let cut = LayerSpec { vocabulary: Some(Side::Input), ..whole.clone() };
        let width = cut.kept_blocks(Side::Input);
        assert_eq!([whole.kept_blocks(Side::Input), cut.kept_blocks(Side::Output)], [BlockWidth::Any; 2]);
        assert_eq!(width.groups(tokens).map(|group| group.len()).collect::<Vec<_>>(), [820; 5]);
        let small = LayerSpec { inputs: 4096, ..cut.clone() };
        assert_eq!(small.kept_blocks(Side::Input), BlockWidth::Any);

        let a: Vec<f64> = (0..rows * tokens).map(|i| (i as f64 * 0.7).sin()).collect();
        let s: Vec<f64> = (0..rows * 2).map(|i| (i as f64 * 1.3).cos()).collect();
        let input = Tensor::from_slice(&a, (rows, tokens), &Device::Cpu)?;
        let output_gradient = Tensor::from_slice(&s, (rows, 2), &Device::Cpu)?;
        let positions = Positions::from_lengths([4, 2]);
        for weights in [PairWeights::Positions, PairWeights::Norms, PairWeights::Gradients] {
            let summed = |layer: &LayerSpec, times: usize| -> Result<CovarianceSum<f64>, Error> {
                let mut sum = CovarianceSum::<f64>::weighted(std::slice::from_ref(layer), weights);
                for _ in 0..times {
                    let positions = &positions;
                    sum.tap(Tap { layer: LayerId(0), input: &input, output_gradient: &output_gradient, positions })?;
                    sum.flush(0..2, 1)?;
                }
                Ok(sum)
            };
            let [whole, found] = [&whole, &cut].map(|layer| summed(layer, 1).and_then(CovarianceSum::finish));
            let (whole, found) = (whole?.inputs.remove(0).expect("inputs"), found?.inputs.remove(0).expect("inputs"));
            assert_eq!(found.as_slice().len(), Covariance::numbers_of_side(&cut, Side::Input));
            for (group, triangle) in found.blocks() {
                let want = whole.diagonal_block(group);
                let error = triangle.iter().zip(want.as_slice()).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
                assert!(error < 1e-13, "{weights:?}: {error:e}");
            }
            let one = summed(&cut, 1)?;
            let state: Vec<(String, Vec<f64>)> =
                one.state().into_iter().map(|(name, sum)| (name, sum.to_vec())).collect();
            let find = |name: &str| state.iter().find(|(own, _)| own == name).map(|(_, sum)| sum.as_slice());
            let mut added = summed(&cut, 1)?;
            added.add_state(find, &one.counts())?;
            let twice = summed(&cut, 2)?;
            assert_eq!(added.state(), twice.state());
        }
        Ok(())
    }

    #[test]
    fn infinity_names_the_layer_and_what_held_it() -> Result<(), Error> {
        let mut sum = CovarianceSum::<f32>::new(&[layer("fc", 1, 1, false, 0)]);
        let (input, output_gradient) =
            (Tensor::new(&[[1f32]], &Device::Cpu)?, Tensor::new(&[[f32::INFINITY]], &Device::Cpu)?);
        sum.tap(Tap {
            layer: LayerId(0),
            input: &input,
            output_gradient: &output_gradient,
            positions: &Positions::single(1),
        })?;
        let message = sum.flush(5..6, 1).expect_err("infinity must not pass").to_string();
        assert_eq!(message, "layer `fc`: the output gradient holds NaN or infinity (examples 5..6 of the batch)");
        Ok(())
    }
}
