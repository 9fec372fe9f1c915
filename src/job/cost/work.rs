//! Operations of each part of a job, as functions of shapes: products alone, a multiply-add counting two.
//!
//! Routes are those of [`contraction`](crate::curvature::contraction), which the passes ask too.

use crate::curvature::contraction::{BasisSize, LowRankRoute, Rotate, RotationRoute, ScoreRoute, Shape};
use crate::curvature::{BlockWidth, Covariance, Graphs, LayerSpec, PairWeights, Side, is_first_of_group};
use crate::model::{LayerRows, Operations, PairsOf, RowsOf};

/// What a network computes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct NetworkShape {
    /// Products with weights and of attention, without the head of a language model.
    pub operations: Operations,
    /// Numbers in the matrix of a language model's head, V · D; 0 for another network.
    pub head: u128,
}

/// Examples that go through a network together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct BatchShape {
    /// B.
    pub examples: usize,
    /// Σ T.
    pub rows: usize,
    /// Rows that predict something: the head computes these alone.
    pub targets: usize,
    /// Pairs of a position and one that it sees, Σ T (T + 1) / 2.
    pub pairs: u128,
    /// Rows and pairs of the encoder, where one reads the first positions of each example.
    pub encoder: [u128; 2],
    /// Pairs of the decoder's positions: of all, where there is no encoder.
    pub decoder_pairs: u128,
}

/// Σ T (T + 1) / 2 of one example.
fn pairs(length: usize) -> u128 {
    length as u128 * (length as u128 + 1) / 2
}

impl BatchShape {
    /// A batch of examples of which an encoder reads so many positions, and a decoder, or a network without an encoder, so
    /// many others.
    pub(super) fn divided(lengths: impl IntoIterator<Item = (usize, usize)>, targets: usize) -> Self {
        let mut shape = Self { targets, ..Self::default() };
        for (read, written) in lengths {
            shape.examples += 1;
            shape.rows += read + written;
            shape.pairs += pairs(read + written);
            shape.encoder[0] += read as u128;
            shape.encoder[1] += pairs(read);
            shape.decoder_pairs += pairs(written);
        }
        shape
    }

    /// How many rows of a kind there are.
    fn rows_of(&self, of: RowsOf) -> u128 {
        let (rows, [encoder, _]) = (self.rows as u128, self.encoder);
        match of {
            RowsOf::Positions => rows,
            RowsOf::Encoder => encoder,
            RowsOf::Decoder => rows - encoder,
            RowsOf::Examples => self.examples as u128,
        }
    }

    /// How many pairs of a kind there are.
    fn pairs_of(&self, of: PairsOf) -> u128 {
        let [encoder_rows, encoder_pairs] = self.encoder;
        match of {
            PairsOf::Before => self.pairs,
            PairsOf::All => 2 * self.pairs - self.rows as u128,
            PairsOf::Encoder => 2 * encoder_pairs - encoder_rows,
            PairsOf::Decoder => self.decoder_pairs,
            PairsOf::Across => self.pairs - encoder_pairs - self.decoder_pairs,
        }
    }

    /// The batch as a layer sees it that has these rows of it.
    fn seen(&self, rows: LayerRows) -> Self {
        if rows == LayerRows::all(RowsOf::Positions) {
            return *self;
        }
        let seen = (self.rows_of(rows.of) as f64 * rows.share).round().max(1.0);
        let of_example = seen / self.examples.max(1) as f64;
        let pairs = (seen * (of_example + 1.0) / 2.0) as u128;
        Self { rows: seen as usize, pairs, ..*self }
    }

    /// The batch's shape at one layer, as the contractions see it.
    pub(super) fn at(&self, layer: &LayerSpec) -> Shape {
        Shape { examples: self.examples, rows: self.rows, outputs: layer.outputs, columns: layer.columns() }
    }

    /// Whether every example has one position.
    fn all_single(&self) -> bool {
        self.examples == self.rows
    }
}

/// Tracked layers, each with the rows of a batch that it sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layers<'a> {
    pub specs: &'a [LayerSpec],
    pub rows: &'a [LayerRows],
}

impl<'a> Layers<'a> {
    /// Each layer, and the batch as it sees it.
    pub(super) fn of(self, batch: &BatchShape) -> impl Iterator<Item = (&'a LayerSpec, BatchShape)> {
        self.specs.iter().zip(self.rows).map(move |(layer, &rows)| (layer, batch.seen(rows)))
    }

    /// The batch as layer `l` sees it.
    pub(super) fn seen_by(self, l: usize, batch: &BatchShape) -> BatchShape {
        batch.seen(self.rows[l])
    }
}

/// The coordinates that example gradients are squared in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coordinates {
    /// The coordinates of the parameters.
    Standard,
    /// An eigenbasis in blocks of at most this width.
    Eigenbasis(BlockWidth),
    /// An eigenbasis of gradients that were multiplied elementwise before: rows cannot be rotated.
    ConditionedEigenbasis(BlockWidth),
}

impl Coordinates {
    /// Whether gradients are multiplied elementwise before.
    pub(super) fn is_conditioned(self) -> bool {
        matches!(self, Self::ConditionedEigenbasis(_))
    }

    /// Numbers of the eigenvectors.
    fn basis(self, layer: &LayerSpec) -> BasisSize {
        match self {
            Self::Standard => BasisSize { output: 0, input: 0 },
            Self::Eigenbasis(width) | Self::ConditionedEigenbasis(width) => BasisSize::of(layer, width),
        }
    }

    /// How gradients of a batch get there.
    pub(super) fn route(self, shape: Shape, layer: &LayerSpec) -> RotationRoute {
        match self {
            Self::Standard => RotationRoute { input: Rotate::Never, output: Rotate::Never },
            Self::Eigenbasis(_) => RotationRoute::cheapest(shape, self.basis(layer)),
            Self::ConditionedEigenbasis(_) => RotationRoute { input: Rotate::Gradient, output: Rotate::Gradient },
        }
    }
}

/// One differentiation of a batch: forwards and for the gradient of what every layer reads, without gradients of
/// weights. Attention computes its probabilities again on the way back.
pub(super) fn pass(network: NetworkShape, batch: &BatchShape, graphs: Graphs) -> u128 {
    let linear: f64 = RowsOf::ALL.iter().map(|&of| batch.rows_of(of) as f64 * network.operations.linear(of)).sum();
    let attention: u128 =
        PairsOf::ALL.iter().map(|&of| batch.pairs_of(of) * u128::from(network.operations.attention(of))).sum();
    let linear = linear.round() as u128;
    let (forwards, backwards) = (2 * linear + 4 * attention, 2 * linear + 10 * attention);
    let again = if graphs == Graphs::Rebuilt { forwards } else { 0 };
    forwards + again + backwards + 4 * batch.targets as u128 * network.head
}

/// Lower triangles of `Σ a aᵀ`, once for each input group, and of `Σ s sᵀ`; weighted, whole products, and what makes
/// the weights and multiplies with them.
pub(super) fn covariances(layers: Layers<'_>, batch: &BatchShape, weights: PairWeights) -> u128 {
    if weights.couple_sides() {
        let of = |(layer, batch): (&LayerSpec, BatchShape)| {
            let rows = batch.rows as u128;
            // of a position with itself, or of all pairs of an example
            let every = weights == PairWeights::Gradients && !batch.all_single();
            let pairs = if every { 2 * batch.pairs - rows } else { rows };
            let side = |n: usize, other: usize| 2 * (pairs * (n + other) as u128 + rows * (n * n) as u128);
            side(layer.outputs, layer.columns()) + side(layer.columns(), layer.outputs)
        };
        return layers.of(batch).map(of).sum();
    }
    let triangles = |layer: &LayerSpec, side: Side, n: usize| {
        let groups = layer.kept_blocks(side).groups(n);
        groups.map(|group| group.len() as u128 * (group.len() as u128 + 1)).sum::<u128>()
    };
    let specs = layers.specs;
    let of = |(l, (layer, batch)): (usize, (&LayerSpec, BatchShape))| {
        let input = if is_first_of_group(specs, l) { triangles(layer, Side::Input, layer.inputs) } else { 0 };
        batch.rows as u128 * (triangles(layer, Side::Output, layer.outputs) + input)
    };
    layers.of(batch).enumerate().map(of).sum()
}

/// Numbers that all covariances of one network take.
pub(super) fn covariance_numbers(layers: &[LayerSpec]) -> u64 {
    (0..layers.len()).map(|l| Covariance::numbers_of_layer(layers, l) as u64).sum()
}

/// Squared example gradients of one layer.
pub(super) fn squares(layers: Layers<'_>, l: usize, batch: &BatchShape, coordinates: Coordinates) -> u128 {
    let (layers, layer, batch) = (layers.specs, &layers.specs[l], layers.seen_by(l, batch));
    let shape = batch.at(layer);
    let [b, rows, o, i] = [shape.examples, shape.rows, shape.outputs, shape.columns].map(|n| n as u128);
    let square = 2 * b * o * i;
    let basis = coordinates.basis(layer);
    if batch.all_single() && !coordinates.is_conditioned() {
        // one product of squared rows
        return 2 * rows * (basis.output + basis.input) as u128 + square;
    }
    let route = coordinates.route(shape, layer);
    let conditioning = if coordinates.is_conditioned() { b * o * i } else { 0 };
    let is_shared = route.input == Rotate::Rows && !is_first_of_group(layers, l);
    let shared = if is_shared { 2 * rows * basis.input as u128 } else { 0 };
    route.flops(shape, basis) - shared + conditioning + square
}

/// Gradients of every example of a batch as matrices.
pub(super) fn gradients(layer: &LayerSpec, batch: &BatchShape) -> u128 {
    2 * batch.rows as u128 * layer.parameters() as u128
}

/// Numbers of a layer's eigenvectors.
pub(super) fn basis(layer: &LayerSpec, width: BlockWidth) -> BasisSize {
    BasisSize::of(layer, width)
}

/// Rotations of one matrix of a layer's shape into an eigenbasis, or out of it.
pub(super) fn rotation(layer: &LayerSpec, width: BlockWidth) -> u128 {
    let (o, i, basis) = (layer.outputs, layer.columns(), basis(layer, width));
    2 * (o as u128 * basis.input as u128 + i as u128 * basis.output as u128)
}

/// Rotations of a batch's inputs and gradients at outputs into a layer's eigenbasis.
pub(super) fn rows_into_basis(layer: &LayerSpec, batch: &BatchShape, width: BlockWidth) -> u128 {
    let basis = basis(layer, width);
    2 * batch.at(layer).rows as u128 * (basis.output + basis.input) as u128
}

/// Rotations of the factors of a vector of this rank.
pub(super) fn factor_rotations(layer: &LayerSpec, rank: usize, width: BlockWidth) -> u128 {
    let basis = basis(layer, width);
    2 * rank as u128 * (basis.output + basis.input) as u128
}

/// Products of a batch's gradients with so many query vectors, whole or of a rank.
pub(super) fn scores(layer: &LayerSpec, batch: &BatchShape, queries: usize, rank: Option<usize>) -> u128 {
    let shape = batch.at(layer);
    match rank {
        None => ScoreRoute::cheapest(shape, queries).flops(shape, queries),
        Some(rank) => LowRankRoute::cheapest(shape, queries, rank).flops(shape, queries, rank),
    }
}

/// An eigendecomposition of a symmetric matrix, about.
pub(super) fn eigendecomposition(n: usize) -> u128 {
    9 * (n as u128).pow(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Mask;

    fn layer(outputs: usize, inputs: usize, bias: bool, input_group: usize) -> LayerSpec {
        LayerSpec { name: format!("{outputs}x{inputs}"), outputs, inputs, bias, input_group, vocabulary: None }
    }

    impl BatchShape {
        /// A batch of examples of these lengths with so many targets.
        fn of(lengths: impl IntoIterator<Item = usize>, targets: usize) -> Self {
            Self::divided(lengths.into_iter().map(|length| (0, length)), targets)
        }
    }

    const ALL: [LayerRows; 3] = [LayerRows::all(RowsOf::Positions); 3];

    /// Layers that see every position.
    fn all(specs: &[LayerSpec]) -> Layers<'_> {
        Layers { specs, rows: &ALL[..specs.len()] }
    }

    /// Multiply-adds of a dense product, each counted where it is made.
    fn product(m: usize, k: usize, n: usize) -> u128 {
        let mut count = 0;
        for _ in 0..m {
            for _ in 0..n {
                count += 2 * k as u128;
            }
        }
        count
    }

    #[test]
    fn a_pass_is_every_products_forwards_and_for_the_inputs_gradient() {
        // two linear layers, one with a head of 11 outputs, attention of two heads of 3 in one block
        let (first, second, head) = ((5, 6), (6, 7), (11, 5));
        let mut operations = Operations::default();
        operations.add_linear(LayerRows::all(RowsOf::Positions), 5 * 6);
        operations.add_linear(LayerRows::all(RowsOf::Positions), 6 * 7);
        operations.add_attention(RowsOf::Positions, 6, Mask::Causal);
        let network = NetworkShape { operations, head: 11 * 5 };
        let lengths = [4usize, 2];
        let batch = BatchShape::of(lengths, 3);
        let mut expected = 0;
        for (o, i) in [first, second] {
            expected += product(6, i, o) + product(6, o, i);
        }
        expected += product(3, head.1, head.0) + product(3, head.0, head.1);
        for length in lengths {
            for query in 0..length {
                for _seen in 0..=query {
                    // two heads of three numbers: q·k and p·v; then again q·k, and gradients of p, v, q and k
                    expected += 2 * (2 * 3 * 2) + 2 * (2 * 3 * 5);
                }
            }
        }
        assert_eq!(pass(network, &batch, Graphs::Kept), expected);
        let forwards: u128 = 2 * 6 * (30 + 42) + (10 + 3) * 2 * (2 * 3 * 2);
        assert_eq!(pass(network, &batch, Graphs::Rebuilt), expected + forwards);
    }

    /// An encoder of 3 and 2 positions and a decoder of 2 and 4, each row and pair counted where it is seen.
    #[test]
    fn encoders_and_decoders_have_rows_and_pairs_of_their_own() {
        let lengths = [(3usize, 2usize), (2, 4)];
        let batch = BatchShape::divided(lengths, 6);
        let mut pairs = [0u128; PairsOf::ALL.len()];
        for (read, written) in lengths {
            let all = read + written;
            for (query, key) in (0..all).flat_map(|query| (0..all).map(move |key| (query, key))) {
                let seen = [
                    key <= query,
                    true,
                    query < read && key < read,
                    query >= read && key >= read && key <= query,
                    query >= read && key < read,
                ];
                pairs.iter_mut().zip(seen).for_each(|(count, is_seen)| *count += u128::from(is_seen));
            }
        }
        assert_eq!(PairsOf::ALL.map(|of| batch.pairs_of(of)), pairs);
        assert_eq!(RowsOf::ALL.map(|of| batch.rows_of(of)), [11, 5, 6, 2]);
        assert_eq!(batch.seen(LayerRows { of: RowsOf::Encoder, share: 0.4 }).rows, 2);
        // without an encoder all are the decoder's
        let alone = BatchShape::of([4, 2], 0);
        assert_eq!(RowsOf::ALL.map(|of| alone.rows_of(of)), [6, 0, 6, 2]);
    }

    #[test]
    fn covariances_are_lower_triangles_and_shared_inputs_count_once() {
        let layers = [layer(3, 4, true, 0), layer(2, 4, true, 0), layer(5, 3, false, 1)];
        let batch = BatchShape::of([2, 5], 0);
        let mut expected = 0;
        for n in [4usize, 3, 3, 2, 5] {
            for _row in 0..7 {
                for r in 0..n {
                    expected += 2 * (r as u128 + 1);
                }
            }
        }
        assert_eq!(covariances(all(&layers), &batch, PairWeights::Positions), expected);
    }

    #[test]
    fn weighted_sums_are_whole_products_of_rows_that_pairs_of_positions_weigh() {
        let (layers, batch) = ([layer(3, 4, true, 0)], BatchShape::of([2, 5], 0));
        let products = product(5, 7, 5) + product(3, 7, 3);
        let norms = 2 * 7 * (5 + 3) * 2;
        assert_eq!(covariances(all(&layers), &batch, PairWeights::Norms), norms + products);
        let pairs = product(2, 5, 2) + product(2, 2, 3) + product(2, 3, 2) + product(2, 2, 5);
        let longer = product(5, 5, 5) + product(5, 5, 3) + product(5, 3, 5) + product(5, 5, 5);
        assert_eq!(covariances(all(&layers), &batch, PairWeights::Gradients), pairs + longer + products);
    }

    #[test]
    fn squares_take_the_route_that_the_pass_takes() {
        let layers = [layer(3, 4, true, 0), layer(6, 4, true, 0)];
        let short = BatchShape::of([2, 2], 0);
        // rows: rotate 4 inputs of 5 and 4 gradients of 3, form and square two matrices
        let rows = |o: usize| product(4, o, o) + 2 * product(o, 2, 5) + 2 * 2 * (o * 5) as u128;
        let whole = Coordinates::Eigenbasis(BlockWidth::Any);
        assert_eq!(whole.route(short.at(&layers[0]), &layers[0]).input, Rotate::Rows);
        assert_eq!(squares(all(&layers), 0, &short, whole), product(4, 5, 5) + rows(3));
        // the second layer finds its inputs rotated
        assert_eq!(squares(all(&layers), 1, &short, whole), rows(6));
        // gradients: form, multiply, rotate on both sides, square
        let long = BatchShape::of([40], 0);
        let gradients = product(3, 40, 5) + product(3, 5, 5) + product(3, 3, 5) + 2 * 15;
        assert_eq!(squares(all(&layers), 0, &long, whole), gradients);
        assert_eq!(
            squares(all(&layers), 0, &long, Coordinates::ConditionedEigenbasis(BlockWidth::Any)),
            gradients + 15
        );
        assert_eq!(squares(all(&layers), 0, &long, Coordinates::Standard), product(3, 40, 5) + 2 * 15);
        let single = BatchShape::of([1, 1, 1], 0);
        assert_eq!(squares(all(&layers), 0, &single, whole), product(3, 5, 5) + product(3, 3, 3) + product(3, 3, 5));
        // 5 columns as 2 and 3, 3 outputs whole
        let blocks = Coordinates::Eigenbasis(BlockWidth::AtMost(std::num::NonZeroUsize::new(3).expect("not 0")));
        let turned = |rows: usize| product(rows, 2, 2) + product(rows, 3, 3);
        assert_eq!(squares(all(&layers), 0, &single, blocks), turned(3) + product(3, 3, 3) + product(3, 3, 5));
        assert_eq!(squares(all(&layers), 0, &short, blocks), turned(4) + rows(3));
        assert_eq!(squares(all(&layers), 1, &short, blocks), rows(6) - product(4, 6, 6) + 2 * product(4, 3, 3));
    }

    #[test]
    fn query_vectors_and_scores() {
        let layer = layer(3, 4, true, 0);
        let batch = BatchShape::of([2, 3], 0);
        assert_eq!(gradients(&layer, &batch), product(3, 2, 5) + product(3, 3, 5));
        assert_eq!(rotation(&layer, BlockWidth::Any), product(3, 5, 5) + product(3, 3, 5));
        // three rows cost less than a gradient if there is one query, and more if there are many
        let by_gradient = |q: usize| gradients(&layer, &batch) + product(2, 15, q);
        assert_eq!(scores(&layer, &batch, 40, None), by_gradient(40));
        let single = BatchShape::of([1; 4], 0);
        assert_eq!(scores(&layer, &single, 1, None), product(4, 5, 3) + product(4, 3, 1));
        // one term of a sum: a row with each of its sides, and the product of the two numbers
        assert_eq!(scores(&layer, &single, 1, Some(1)), product(4, 5, 1) + product(4, 3, 1) + product(4, 1, 1));
        assert_eq!(factor_rotations(&layer, 2, BlockWidth::Any), product(2, 5, 5) + product(2, 3, 3));
    }
}
