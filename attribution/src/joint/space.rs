//! An orthonormal basis that grows by the directions a matrix is multiplied with, and the matrix as the basis sees it.

use ascribe_curvature::LayerSpec;
use ascribe_curvature::gemm::Real;

use super::block::Block;

/// Vectors that are made orthogonal to each other one by one.
const PANEL: usize = 16;

/// A unit in the last place.
fn epsilon<T: Real>() -> f64 {
    if size_of::<T>() == 8 { f64::EPSILON } else { f64::from(f32::EPSILON) }
}

/// The part of a unit vector below which it adds nothing but rounding to a space.
pub(super) fn negligible<T: Real>() -> f64 {
    64.0 * epsilon::<T>()
}

/// Numbers of two blocks of vectors, `[count, other's count]`.
type OfBlocks<'a, T> = dyn Fn(&Block<T>, &Block<T>) -> Vec<f64> + 'a;

/// The space that was multiplied so far.
pub(super) struct Space<T> {
    /// V and HV.
    pub(super) parts: Vec<(Block<T>, Block<T>)>,
    /// `Vᵀ H V`, `[s, s]`.
    pub(super) projected: Vec<f64>,
    /// `Vᵀ D V` for each damping.
    pub(super) damped: Vec<Vec<f64>>,
    /// `Vᵀ q`, `[s, Q]`.
    pub(super) right: Vec<f64>,
    pub(super) size: usize,
}

impl<T: Real> Space<T> {
    pub(super) fn new(dampings: usize) -> Self {
        Self { parts: vec![], projected: vec![], damped: vec![vec![]; dampings], right: vec![], size: 0 }
    }

    /// The part of `vectors` that the space does not hold, with orthonormal vectors. Everything is subtracted twice,
    /// since once leaves rounding; panels of vectors meet what was there before in products of matrices.
    pub(super) fn orthonormal(&self, specs: &[LayerSpec], mut vectors: Block<T>, negligible: f64) -> Block<T> {
        vectors.normalise();
        let mut kept: Vec<Block<T>> = vec![];
        let all: Vec<usize> = (0..vectors.count).collect();
        for numbers in all.chunks(PANEL) {
            let mut panel = vectors.chosen(numbers);
            let without_earlier = |panel: &mut Block<T>| {
                for earlier in self.parts.iter().map(|(v, _)| v).chain(&kept) {
                    let along = panel.products(earlier, |_| -1.0);
                    panel.add(&along, earlier, |_| 1.0);
                }
            };
            without_earlier(&mut panel);
            without_earlier(&mut panel);
            let mut own: Vec<Block<T>> = vec![];
            for k in 0..panel.count {
                let mut vector = panel.chosen(&[k]);
                for _ in 0..2 {
                    for other in &own {
                        vector.subtract_along(other);
                    }
                }
                if vector.squares()[0].sqrt() > negligible {
                    vector.normalise();
                    own.push(vector);
                }
            }
            let mut own = Block::joined(specs, own);
            // what was small has grown, and its rounding with it
            without_earlier(&mut own);
            own.normalise();
            kept.push(own);
        }
        Block::joined(specs, kept)
    }

    /// Adds directions and their products.
    pub(super) fn add(&mut self, v: Block<T>, product: Block<T>, q: &Block<T>, dampings: &[Vec<f64>]) {
        self.right.extend(v.products(q, |_| 1.0));
        self.parts.push((v, product));
        let (v, hv) = &self.parts[self.parts.len() - 1];
        let (old, new) = (self.size, v.count);
        let size = old + new;
        let grown = |before: &[f64], find: &OfBlocks<'_, T>| {
            let mut matrix = vec![0.0; size * size];
            for i in 0..old {
                matrix[i * size..i * size + old].copy_from_slice(&before[i * old..(i + 1) * old]);
            }
            let mut start = 0;
            for (other, other_product) in &self.parts {
                let found = find(other, other_product);
                for i in 0..other.count {
                    for j in 0..new {
                        matrix[(start + i) * size + old + j] = found[i * new + j];
                        matrix[(old + j) * size + start + i] = found[i * new + j];
                    }
                }
                start += other.count;
            }
            // rounding must not make the last block unsymmetric
            for i in old..size {
                for j in old..i {
                    let mean = (matrix[i * size + j] + matrix[j * size + i]) / 2.0;
                    matrix[i * size + j] = mean;
                    matrix[j * size + i] = mean;
                }
            }
            matrix
        };
        let projected = grown(&self.projected, &|other, _| other.products(hv, |_| 1.0));
        let damped = self.damped.iter().zip(dampings);
        let damped =
            damped.map(|(before, damping)| grown(before, &|other, _| other.products(v, |l| damping[l]))).collect();
        (self.projected, self.damped, self.size) = (projected, damped, size);
    }

    /// `V c`.
    pub(super) fn combine(&self, specs: &[LayerSpec], coefficients: &[f64], queries: usize) -> Block<T> {
        let mut sum = Block::zeros(specs, queries);
        let mut start = 0;
        for (v, _) in &self.parts {
            sum.add(&part(coefficients, queries, start, v.count, 1.0), v, |_| 1.0);
            start += v.count;
        }
        sum
    }
}

/// Rows of `[s, Q]`, transposed and multiplied: `[Q, count]`.
pub(super) fn part(coefficients: &[f64], queries: usize, start: usize, count: usize, factor: f64) -> Vec<f64> {
    (0..queries).flat_map(|q| (start..start + count).map(move |i| factor * coefficients[i * queries + q])).collect()
}
