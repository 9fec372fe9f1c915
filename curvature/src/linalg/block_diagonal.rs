//! How wide covariances are cut into diagonal blocks before they are decomposed.

use std::num::NonZeroUsize;
use std::ops::Range;

use crate::linalg::gemm::{self, Products, Real, Threads, View, ViewMut};
use crate::linalg::matrix::Matrix;
use crate::linalg::parts::part;

/// How wide a block of an eigenbasis may be: wider covariances are cut into contiguous groups of coordinates, and what
/// connects two groups is dropped.
///
/// # Source
/// `docs/method.md`, Curvature, wide layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BlockWidth {
    /// Nothing is cut.
    #[default]
    Any,
    /// As few groups as keep to this width, their sizes as equal as possible.
    AtMost(NonZeroUsize),
}

impl BlockWidth {
    /// The groups of `n` coordinates.
    pub fn groups(self, n: usize) -> impl Iterator<Item = Range<usize>> {
        let count = match self {
            Self::Any => 1,
            Self::AtMost(width) => n.div_ceil(width.get()).max(1),
        };
        (0..count).map(move |k| part(&(0..n), count, k))
    }

    /// Whether `n` coordinates are more than one group.
    pub fn cuts(self, n: usize) -> bool {
        matches!(self, Self::AtMost(width) if n > width.get())
    }

    /// Numbers in the eigenvectors of `n` coordinates: `Σ n_k²` over the groups.
    pub fn numbers(self, n: usize) -> usize {
        self.groups(n).map(|group| group.len() * group.len()).sum()
    }
}

/// Which way rows and columns are turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Into the basis: `x U`, `Uᵀ x`.
    Into,
    /// Out of it: `x Uᵀ`, `U x`.
    Back,
}

/// A square matrix that is zero outside of square blocks on its diagonal; often there is one block.
#[derive(Debug, Clone)]
pub struct BlockDiagonal<T> {
    blocks: Vec<Matrix<T>>,
    size: usize,
}

impl<T: Real> From<Matrix<T>> for BlockDiagonal<T> {
    fn from(matrix: Matrix<T>) -> Self {
        Self::new(vec![matrix])
    }
}

impl<T: Real> BlockDiagonal<T> {
    /// From its blocks in their order.
    ///
    /// # Panics
    /// If there is none, or one is not square.
    pub fn new(blocks: Vec<Matrix<T>>) -> Self {
        assert!(!blocks.is_empty(), "a matrix of no blocks");
        assert!(blocks.iter().all(|block| block.rows() == block.columns()), "blocks are square");
        let size = blocks.iter().map(Matrix::rows).sum();
        Self { blocks, size }
    }

    /// Number of rows, and of columns.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Numbers in the blocks.
    pub fn numbers(&self) -> usize {
        self.blocks.iter().map(|block| block.as_slice().len()).sum()
    }

    /// The blocks with their places on the diagonal.
    pub fn blocks(&self) -> impl Iterator<Item = (Range<usize>, &Matrix<T>)> {
        self.blocks.iter().scan(0, |start, block| {
            let range = *start..*start + block.rows();
            *start = range.end;
            Some((range, block))
        })
    }

    /// The whole matrix, zeros included; if there is one block it is that one.
    pub fn whole(&self) -> Matrix<T> {
        if let [block] = self.blocks.as_slice() {
            return block.clone();
        }
        let mut numbers = vec![T::of(0.0); self.size * self.size];
        for (range, block) in self.blocks() {
            for r in 0..block.rows() {
                numbers[(range.start + r) * self.size..][range.clone()].copy_from_slice(block.row(r));
            }
        }
        Matrix::new(numbers, self.size, self.size)
    }

    /// A function of every number in the blocks.
    #[must_use]
    pub fn map(&self, f: impl Fn(T) -> T) -> Self {
        let block = |block: &Matrix<T>| {
            Matrix::new(block.as_slice().iter().map(|&x| f(x)).collect(), block.rows(), block.columns())
        };
        Self { blocks: self.blocks.iter().map(block).collect(), size: self.size }
    }

    /// Says that the numbers are not needed for a while ([`Matrix::forget`]).
    pub fn forget(&self) {
        self.blocks.iter().for_each(Matrix::forget);
    }

    /// Where the numbers begin in memory: clones share it, other matrices do not.
    pub fn address(&self) -> usize {
        self.blocks[0].as_slice().as_ptr().addr()
    }

    /// Turns rows: `into = x U`, or `x Uᵀ`.
    ///
    /// # Shapes
    /// `x` and `into`: `[_, n]`.
    pub fn turn_rows(&self, into: &mut [T], x: &[T], turn: Turn, products: Products, threads: Threads) {
        let n = self.size;
        let rows = x.len() / n;
        if rows == 0 {
            return;
        }
        for (range, block) in self.blocks() {
            let into = ViewMut::new(&mut into[range.start..], rows, range.len(), n);
            let x = View::new(&x[range.start..], rows, range.len(), n).to(products);
            let u = match turn {
                Turn::Into => block.view(),
                Turn::Back => block.view().t(),
            };
            gemm::matmul(into, gemm::Into::Replace, T::of(1.0), x, u, threads);
        }
    }

    /// Turns columns: `into = Uᵀ x`, or `U x`.
    ///
    /// # Shapes
    /// `x` and `into`: `[n, columns]`.
    pub fn turn_columns(
        &self,
        into: &mut [T],
        x: &[T],
        columns: usize,
        turn: Turn,
        products: Products,
        threads: Threads,
    ) {
        for (range, block) in self.blocks() {
            let numbers = range.start * columns..range.end * columns;
            let into = ViewMut::dense(&mut into[numbers.clone()], range.len(), columns);
            let x = View::dense(&x[numbers], range.len(), columns).to(products);
            let u = match turn {
                Turn::Into => block.view().t(),
                Turn::Back => block.view(),
            };
            gemm::matmul(into, gemm::Into::Replace, T::of(1.0), u, x, threads);
        }
    }

    /// Some rows of `Uᵀ x`, on this thread.
    ///
    /// # Shapes
    /// `x: [n, columns]`, `into: [rows.len(), columns]`.
    pub(crate) fn turned_rows(&self, into: &mut [T], x: &[T], columns: usize, rows: Range<usize>, products: Products) {
        for (range, block) in self.blocks() {
            let own = rows.start.max(range.start)..rows.end.min(range.end);
            if own.is_empty() {
                continue;
            }
            let n = range.len();
            let u = View::new(&block.as_slice()[own.start - range.start..], n, own.len(), n).t().to(products);
            let into = &mut into[(own.start - rows.start) * columns..(own.end - rows.start) * columns];
            let into = ViewMut::dense(into, own.len(), columns);
            let x = View::dense(&x[range.start * columns..range.end * columns], n, columns);
            gemm::matmul(into, gemm::Into::Replace, T::of(1.0), u, x, Threads::One);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_most(width: usize) -> BlockWidth {
        BlockWidth::AtMost(NonZeroUsize::new(width).expect("not 0"))
    }

    #[test]
    fn groups_are_as_few_and_as_equal_as_possible() {
        for n in 1..40 {
            for width in 1..42 {
                let groups: Vec<_> = at_most(width).groups(n).collect();
                assert_eq!(groups.len(), n.div_ceil(width));
                assert!(groups.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert_eq!((groups[0].start, groups[groups.len() - 1].end), (0, n));
                let sizes = || groups.iter().map(Range::len);
                let (least, most) = (sizes().min().expect("a group"), sizes().max().expect("a group"));
                assert!(most <= width && most - least <= 1, "{groups:?}");
                assert_eq!(at_most(width).cuts(n), groups.len() > 1);
                assert_eq!(at_most(width).numbers(n), sizes().map(|n| n * n).sum::<usize>());
            }
            assert_eq!(BlockWidth::Any.groups(n).collect::<Vec<_>>(), std::slice::from_ref(&(0..n)));
        }
    }

    #[test]
    fn products_are_those_of_the_whole_matrix() {
        let n = 7;
        let wave = |n: usize, step: f64| (0..n).map(|k| (k as f64 * step + 0.3).sin()).collect::<Vec<f64>>();
        for width in [1, 2, 3, 4, 7] {
            let blocks = at_most(width).groups(n).map(|group| {
                let n = group.len();
                Matrix::new(wave(n * n, 0.7 + group.start as f64), n, n)
            });
            let found = BlockDiagonal::new(blocks.collect());
            let whole = found.whole();
            assert_eq!((found.size(), found.numbers()), (n, at_most(width).numbers(n)));
            assert_eq!(whole.as_slice().iter().filter(|x| **x != 0.0).count(), found.numbers());
            let (rows, x) = (3, wave(3 * n, 1.9));
            let near = |found: &[f64], want: &dyn Fn(usize) -> f64| {
                assert!(found.iter().enumerate().all(|(k, x)| (x - want(k)).abs() < 1e-14), "width {width}");
            };
            let mut into = vec![f64::NAN; rows * n];
            found.turn_rows(&mut into, &x, Turn::Into, Products::Exact, Threads::One);
            near(&into, &|k| (0..n).map(|j| x[k / n * n + j] * whole.row(j)[k % n]).sum());
            found.turn_rows(&mut into, &x, Turn::Back, Products::Exact, Threads::One);
            near(&into, &|k| (0..n).map(|j| x[k / n * n + j] * whole.row(k % n)[j]).sum());
            let turned = |k: usize| (0..n).map(|j| whole.row(j)[k / rows] * x[j * rows + k % rows]).sum();
            found.turn_columns(&mut into, &x, rows, Turn::Into, Products::Exact, Threads::One);
            near(&into, &turned);
            let mut part = vec![f64::NAN; 4 * rows];
            found.turned_rows(&mut part, &x, rows, 2..6, Products::Exact);
            near(&part, &|k| turned(k + 2 * rows));
            found.turn_columns(&mut into, &x, rows, Turn::Back, Products::Exact, Threads::One);
            near(&into, &|k| (0..n).map(|j| whole.row(k / rows)[j] * x[j * rows + k % rows]).sum());
        }
    }
}
