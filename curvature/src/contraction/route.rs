//! Which exact route is cheapest: pure functions from shapes to a choice.
//!
//! Every route gives the same number up to rounding; a choice depends on shapes alone, never on a clock
//! or a thread count, so that a run can be repeated. Costs are in FLOP, a multiply-add counting two.

use crate::linalg::block_diagonal::BlockWidth;
use crate::network::layer::{LayerSpec, Side};
use crate::network::tap::Positions;

/// Sizes of one layer's contraction in one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Examples, B.
    pub examples: usize,
    /// Rows of the batch, Σ T.
    pub rows: usize,
    /// O.
    pub outputs: usize,
    /// I, with the column of ones if there is one.
    pub columns: usize,
}

impl Shape {
    /// The shape of a batch at a layer.
    pub fn of(positions: &Positions, outputs: usize, columns: usize) -> Self {
        Self { examples: positions.examples(), rows: positions.rows(), outputs, columns }
    }
}

/// Numbers in the eigenvectors of a layer's two sides: half the operations of rotating a row. Of whole sides these are
/// O² and I², of sides in blocks the sums of their blocks' squares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasisSize {
    /// Numbers of the output side's eigenvectors, `U_S`.
    pub output: usize,
    /// Numbers of the input side's eigenvectors, `U_A`.
    pub input: usize,
}

impl BasisSize {
    /// Sizes for a layer with blocks of at most this width.
    pub fn of(layer: &LayerSpec, width: BlockWidth) -> Self {
        let of = |side| width.numbers_of_side(layer, side);
        Self { output: of(Side::Output), input: of(Side::Input) }
    }
}

/// When one side of an example's gradient is rotated into the eigenbasis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotate {
    /// The rows (tokens), before the gradient is formed.
    Rows,
    /// The gradient, after it was formed.
    Gradient,
    /// Not at all: the basis is the standard one.
    Never,
}

/// How `Uₛᵀ G U_A` is formed for the examples of a batch: the routes G, R, R_a and R_s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationRoute {
    /// The input side, `U_A`.
    pub input: Rotate,
    /// The output side, `U_S`.
    pub output: Rotate,
}

impl RotationRoute {
    /// The cheapest of the four.
    pub fn cheapest(shape: Shape, basis: BasisSize) -> Self {
        let both = [Rotate::Rows, Rotate::Gradient];
        let routes = both.into_iter().flat_map(|input| both.map(|output| Self { input, output }));
        routes.min_by_key(|route| route.flops(shape, basis)).expect("there are four routes")
    }

    /// Whether a side is rotated before the gradient is formed.
    pub fn has_rows(self) -> bool {
        self.input == Rotate::Rows || self.output == Rotate::Rows
    }

    /// Operations of this route for the whole batch.
    pub fn flops(self, shape: Shape, basis: BasisSize) -> u128 {
        let [b, rows, o, i] = [shape.examples, shape.rows, shape.outputs, shape.columns].map(|n| n as u128);
        // a gradient has as many rows as the other side is wide
        let side = |rotate, numbers: usize, other: u128| match rotate {
            Rotate::Rows => 2 * rows * numbers as u128,
            Rotate::Gradient => 2 * b * other * numbers as u128,
            Rotate::Never => 0,
        };
        2 * rows * o * i + side(self.input, basis.input, o) + side(self.output, basis.output, i)
    }
}

/// How `Σ_t s_tᵀ Z_q a_t` is contracted: the routes F and W.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreRoute {
    /// The example's gradient is formed block by block and multiplied with all queries at once.
    Gradient,
    /// Each query's matrix is applied to every row.
    Rows,
}

impl ScoreRoute {
    /// The cheaper one for this many queries.
    pub fn cheapest(shape: Shape, queries: usize) -> Self {
        if Self::Rows.flops(shape, queries) < Self::Gradient.flops(shape, queries) {
            Self::Rows
        } else {
            Self::Gradient
        }
    }

    /// Operations of this route for the whole batch.
    pub fn flops(self, shape: Shape, queries: usize) -> u128 {
        let [b, rows, o, i, q] = [shape.examples, shape.rows, shape.outputs, shape.columns, queries].map(|n| n as u128);
        match self {
            Self::Gradient => 2 * o * i * (rows + b * q),
            Self::Rows => 2 * rows * q * o * (i + 1),
        }
    }
}

/// The rank at which a layer's vectors are kept if `rank` is asked for; `None` where factors would be no approximation,
/// or no smaller than the vector itself.
pub fn kept_rank(rank: usize, outputs: usize, columns: usize) -> Option<usize> {
    let is_smaller = rank < outputs.min(columns) && rank * (outputs + columns) < outputs * columns;
    is_smaller.then_some(rank)
}

/// How `Σ_t s_tᵀ (Σ_k l_k r_kᵀ) a_t` is contracted: the routes K and F.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LowRankRoute {
    /// Both sides of every row are multiplied with the factors.
    Factors,
    /// The vectors are put together block by block and multiplied with the examples' gradients.
    Gradient,
}

impl LowRankRoute {
    /// The cheaper one for this many queries.
    pub fn cheapest(shape: Shape, queries: usize, rank: usize) -> Self {
        if Self::Factors.flops(shape, queries, rank) < Self::Gradient.flops(shape, queries, rank) {
            Self::Factors
        } else {
            Self::Gradient
        }
    }

    /// Operations of this route for the whole batch.
    pub fn flops(self, shape: Shape, queries: usize, rank: usize) -> u128 {
        let [rows, o, i, terms] = [shape.rows, shape.outputs, shape.columns, queries * rank].map(|n| n as u128);
        match self {
            Self::Factors => 2 * rows * terms * (o + i + 1),
            Self::Gradient => ScoreRoute::Gradient.flops(shape, queries) + 2 * terms * o * i,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRADIENT: RotationRoute = RotationRoute { input: Rotate::Gradient, output: Rotate::Gradient };
    const ROWS: RotationRoute = RotationRoute { input: Rotate::Rows, output: Rotate::Rows };

    fn basis(outputs: usize, inputs: usize, width: BlockWidth) -> BasisSize {
        let name = "fc".to_owned();
        BasisSize::of(&LayerSpec { name, outputs, inputs, bias: false, input_group: 0, vocabulary: None }, width)
    }

    fn cheapest(shape: Shape) -> RotationRoute {
        RotationRoute::cheapest(shape, basis(shape.outputs, shape.columns, BlockWidth::Any))
    }

    fn shape(examples: usize, positions: usize, outputs: usize, columns: usize) -> Shape {
        Shape { examples, rows: examples * positions, outputs, columns }
    }

    #[test]
    fn rows_win_while_examples_are_shorter_than_the_layer_is_wide() {
        // for o = i = d, R beats G below T = d.
        assert_eq!(cheapest(shape(4, 255, 256, 256)), ROWS);
        assert_eq!(cheapest(shape(4, 257, 256, 256)), GRADIENT);
        let formula = |t: u128, o: u128, i: u128| 2 * t * o * i + 2 * o * i * (o + i);
        let whole = basis(5, 3, BlockWidth::Any);
        assert_eq!(GRADIENT.flops(shape(1, 7, 5, 3), whole), formula(7, 5, 3));
        assert_eq!(ROWS.flops(shape(1, 7, 5, 3), whole), 2 * 7 * (25 + 9) + 2 * 7 * 15);
    }

    #[test]
    fn blocks_are_counted_by_their_squares() {
        // 5 outputs as 2 and 3, 3 columns whole
        let basis = basis(5, 3, BlockWidth::AtMost(std::num::NonZeroUsize::new(3).expect("not 0")));
        assert_eq!(basis, BasisSize { output: 13, input: 9 });
        assert_eq!(ROWS.flops(shape(1, 7, 5, 3), basis), 2 * 7 * (13 + 9) + 2 * 7 * 15);
        assert_eq!(GRADIENT.flops(shape(2, 7, 5, 3), basis), 2 * 14 * 15 + 2 * 2 * (5 * 9 + 3 * 13));
    }

    #[test]
    fn a_narrow_side_is_rotated_before_a_wide_one() {
        // A long example at a layer with 8 outputs and 1024 columns: rotating 8-vectors costs least.
        let route = cheapest(shape(1, 512, 8, 1024));
        assert_eq!(route, RotationRoute { input: Rotate::Gradient, output: Rotate::Rows });
    }

    #[test]
    fn single_rows_are_scored_without_forming_gradients() {
        assert_eq!(ScoreRoute::cheapest(shape(64, 1, 256, 785), 1), ScoreRoute::Rows);
        assert_eq!(ScoreRoute::cheapest(shape(4, 256, 768, 257), 32), ScoreRoute::Gradient);
    }

    #[test]
    fn factors_win_while_there_are_few_terms() {
        // for many more positions than queries, up to Q r = o i / (o + i), 384 at o = i = 768
        let long = shape(1, 1 << 20, 768, 768);
        assert_eq!(LowRankRoute::cheapest(long, 23, 16), LowRankRoute::Factors);
        assert_eq!(LowRankRoute::cheapest(long, 25, 16), LowRankRoute::Gradient);
        assert_eq!(LowRankRoute::cheapest(shape(512, 1, 256, 785), 200, 8), LowRankRoute::Factors);
        assert_eq!(LowRankRoute::cheapest(shape(4, 512, 768, 768), 200, 8), LowRankRoute::Gradient);
    }

    #[test]
    fn factors_that_are_no_smaller_are_not_kept() {
        assert_eq!(kept_rank(16, 768, 3072), Some(16));
        assert_eq!(kept_rank(10, 10, 129), None, "no approximation");
        assert_eq!(kept_rank(9, 10, 129), Some(9), "1251 numbers for 1290");
        assert_eq!(kept_rank(5, 8, 8), None, "80 numbers for 64");
    }
}
