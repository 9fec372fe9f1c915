//! Symmetric matrices of which square blocks on the diagonal are kept.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::linalg::block_diagonal::BlockWidth;
use crate::linalg::matrix::{Matrix, Numbers};
use crate::linalg::symmetric::SymmetricMatrix;

/// A symmetric matrix in `f64` that is zero outside of square blocks on its diagonal; mostly there is one block, which is
/// the whole matrix. The lower triangles of the blocks lie one behind the other, in memory or in a memory map; cloning
/// shares them.
#[derive(Clone)]
pub struct SymmetricBlocks {
    triangles: Arc<dyn Numbers<f64>>,
    size: usize,
    width: BlockWidth,
}

impl From<SymmetricMatrix> for SymmetricBlocks {
    fn from(matrix: SymmetricMatrix) -> Self {
        let size = matrix.size();
        Self { triangles: matrix.into_shared(), size, width: BlockWidth::Any }
    }
}

impl SymmetricBlocks {
    /// Numbers in the lower triangles of `n` coordinates in blocks of at most this width.
    pub fn numbers(n: usize, width: BlockWidth) -> usize {
        width.groups(n).map(|group| SymmetricMatrix::numbers(group.len())).sum()
    }

    /// From the lower triangles of the blocks of at most this width.
    ///
    /// # Panics
    /// If there are not [`SymmetricBlocks::numbers`] of them.
    pub fn shared(triangles: Arc<dyn Numbers<f64>>, size: usize, width: BlockWidth) -> Self {
        assert_eq!(
            (*triangles).as_ref().len(),
            Self::numbers(size, width),
            "the lower triangles of {size} coordinates"
        );
        Self { triangles, size, width }
    }

    /// Number of rows, and of columns.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The lower triangles, one behind the other.
    pub fn as_slice(&self) -> &[f64] {
        (*self.triangles).as_ref()
    }

    /// The blocks: the coordinates and the lower triangle of each.
    pub fn blocks(&self) -> impl Iterator<Item = (Range<usize>, &[f64])> {
        let mut rest = self.as_slice();
        self.width.groups(self.size).map(move |group| {
            let (triangle, behind) = rest.split_at(SymmetricMatrix::numbers(group.len()));
            rest = behind;
            (group, triangle)
        })
    }

    /// The number in row `r` and column `c`.
    pub fn at(&self, r: usize, c: usize) -> f64 {
        let block = self.blocks().find(|(group, _)| group.contains(&r));
        block.filter(|(group, _)| group.contains(&c)).map_or(0.0, |(group, triangle)| {
            let (r, c) = (r.max(c) - group.start, r.min(c) - group.start);
            triangle[SymmetricMatrix::numbers(r) + c]
        })
    }

    /// The rows and columns of a range. The whole range of a single block shares its numbers; else they are copied.
    ///
    /// # Panics
    /// If the range is not inside of one block.
    pub fn diagonal_block(&self, range: Range<usize>) -> SymmetricMatrix {
        if !self.width.cuts(self.size) {
            return SymmetricMatrix::shared(self.triangles.clone(), self.size).diagonal_block(range);
        }
        let (group, triangle) = self
            .blocks()
            .find(|(group, _)| group.start <= range.start && range.end <= group.end)
            .expect("a range inside of one block");
        let start = range.start - group.start;
        SymmetricMatrix::from_fn(range.len(), |r, c| triangle[SymmetricMatrix::numbers(start + r) + start + c])
    }

    /// Says that the numbers are not needed for a while ([`Numbers::forget`]).
    pub fn forget(&self) {
        self.triangles.forget();
    }

    /// The whole matrix, zeros included.
    pub fn to_dense(&self) -> Matrix<f64> {
        let n = self.size;
        Matrix::new((0..n * n).map(|k| self.at(k / n, k % n)).collect(), n, n)
    }
}

impl fmt::Debug for SymmetricBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SymmetricBlocks[{}]", self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_of_blocks_are_zero() {
        let width = BlockWidth::AtMost(std::num::NonZeroUsize::new(2).expect("not 0"));
        let triangles: Vec<f64> = (1..=7).map(f64::from).collect();
        let matrix = SymmetricBlocks::shared(Arc::new(triangles), 5, width);
        assert_eq!(SymmetricBlocks::numbers(5, BlockWidth::Any), 15);
        assert_eq!(
            matrix.to_dense().to_rows(),
            [
                [1.0, 0.0, 0.0, 0.0, 0.0],
                [0.0, 2.0, 3.0, 0.0, 0.0],
                [0.0, 3.0, 4.0, 0.0, 0.0],
                [0.0, 0.0, 0.0, 5.0, 6.0],
                [0.0, 0.0, 0.0, 6.0, 7.0]
            ]
        );
        assert_eq!(matrix.diagonal_block(3..5).to_dense().to_rows(), [[5.0, 6.0], [6.0, 7.0]]);
        assert_eq!(matrix.diagonal_block(2..3).to_dense().to_rows(), [[4.0]]);
        let whole = SymmetricBlocks::from(SymmetricMatrix::new(vec![1.0, 2.0, 3.0], 2));
        assert_eq!(whole.to_dense().to_rows(), [[1.0, 2.0], [2.0, 3.0]]);
        assert_eq!(whole.diagonal_block(1..2).to_dense().to_rows(), [[3.0]]);
    }
}
