//! Eigenvalues and eigenvectors of `D + ρ z zᵀ` with ascending D and no zero in z.
//!
//! Each eigenvalue is the root of `f(λ) = 1/ρ + Σ_i z_i² / (d_i - λ)` between two neighbours of D (the last one: above
//! the last). It is kept as its distance from the nearer neighbour, for then all differences `d_i - λ` have few
//! roundings. Eigenvectors are those of the matrix that has these eigenvalues exactly: it is `D + ẑ ẑᵀ` with another
//! z, and they are orthogonal to working precision (Gu and Eisenstat 1994).
#![allow(unsafe_code)] // asks the processor before calling what was compiled for it

use rayon::prelude::*;

use crate::linalg::gemm::Threads;

/// Sums that run side by side.
const LANES: usize = 8;

/// Most steps towards one root; halving alone would need fewer.
const STEPS: usize = 200;

/// From this step on every other one halves.
const PATIENCE: usize = 20;

/// Roots that a task looks for, at least.
const TASK: usize = 32;

#[derive(Debug)]
pub(super) struct Roots {
    d: Vec<f64>,
    /// `ẑ`.
    z: Vec<f64>,
    found: Vec<Root>,
}

/// A root at `origin + distance`, where `origin` is one of D.
#[derive(Debug, Clone, Copy)]
struct Root {
    origin: f64,
    distance: f64,
}

impl Roots {
    pub(super) fn of(pairs: impl Iterator<Item = (f64, f64)>, rho: f64, threads: Threads) -> Self {
        let (d, z): (Vec<f64>, Vec<f64>) = pairs.unzip();
        let squares: Vec<f64> = z.iter().map(|z| z * z).collect();
        let equation = Equation { d: &d, squares: &squares, constant: 1.0 / rho };
        let found: Vec<Root> = each(d.len(), threads, |j| equation.root(j));
        let (origins, distances): (Vec<f64>, Vec<f64>) = found.iter().map(|root| (root.origin, root.distance)).unzip();
        let z = each(d.len(), threads, |i| weight(&d, &origins, &distances, i).sqrt().copysign(z[i]));
        Self { d, z, found }
    }

    pub(super) fn value(&self, j: usize) -> f64 {
        self.found[j].origin + self.found[j].distance
    }

    /// Eigenvector j, its numbers in the order of `places`.
    pub(super) fn vector(&self, j: usize, places: &[usize], to: &mut [f64]) {
        let Root { origin, distance } = self.found[j];
        for (to, &i) in to.iter_mut().zip(places) {
            *to = self.z[i] / ((self.d[i] - origin) - distance);
        }
        let factor = 1.0 / crate::linalg::dot::dot(to, to).sqrt();
        to.iter_mut().for_each(|x| *x *= factor);
    }
}

/// `f` of each place, side by side.
fn each<R: Send>(count: usize, threads: Threads, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    match threads {
        Threads::Pool => (0..count).into_par_iter().with_min_len(TASK).map(f).collect(),
        Threads::One => (0..count).map(f).collect(),
    }
}

/// `ẑ_i² = (λ_i - d_i) Π_(j ≠ i) (λ_j - d_i) / (d_j - d_i)`.
fn weight(d: &[f64], origins: &[f64], distances: &[f64], i: usize) -> f64 {
    let here = d[i];
    let ratios = |range: std::ops::Range<usize>| {
        let (d, origins, distances) = (&d[range.clone()], &origins[range.clone()], &distances[range]);
        let ((d, d_tail), (origins, o_tail)) = (d.as_chunks::<LANES>(), origins.as_chunks::<LANES>());
        let (distances, m_tail) = distances.as_chunks::<LANES>();
        let mut products = [1.0; LANES];
        for ((d, origins), distances) in d.iter().zip(origins).zip(distances) {
            for l in 0..LANES {
                products[l] *= ((origins[l] - here) + distances[l]) / (d[l] - here);
            }
        }
        let tail: f64 = (0..d_tail.len()).map(|l| ((o_tail[l] - here) + m_tail[l]) / (d_tail[l] - here)).product();
        products.iter().product::<f64>() * tail
    };
    (((origins[i] - here) + distances[i]) * ratios(0..i) * ratios(i + 1..d.len())).abs()
}

struct Equation<'a> {
    d: &'a [f64],
    squares: &'a [f64],
    constant: f64,
}

/// `Σ z² / (d - λ)` and its derivative.
fn terms(d: &[f64], squares: &[f64], origin: f64, distance: f64) -> (f64, f64) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions.
        return unsafe { wide_terms(d, squares, origin, distance) };
    }
    plain_terms(d, squares, origin, distance)
}

/// The same compiled for wider registers: divisions are most of a decomposition's time below a size of 1,000.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn wide_terms(d: &[f64], squares: &[f64], origin: f64, distance: f64) -> (f64, f64) {
    plain_terms(d, squares, origin, distance)
}

#[inline(always)]
fn plain_terms(d: &[f64], squares: &[f64], origin: f64, distance: f64) -> (f64, f64) {
    let ((d, d_tail), (squares, s_tail)) = (d.as_chunks::<LANES>(), squares.as_chunks::<LANES>());
    let (mut sums, mut slopes) = ([0.0; LANES], [0.0; LANES]);
    for (d, squares) in d.iter().zip(squares) {
        for l in 0..LANES {
            let inverse = 1.0 / ((d[l] - origin) - distance);
            let term = squares[l] * inverse;
            sums[l] += term;
            slopes[l] += term * inverse;
        }
    }
    for (l, (d, square)) in d_tail.iter().zip(s_tail).enumerate() {
        let inverse = 1.0 / ((d - origin) - distance);
        sums[l] += square * inverse;
        slopes[l] += square * inverse * inverse;
    }
    (sums.iter().sum(), slopes.iter().sum())
}

impl Equation<'_> {
    /// The root above `d[j]`.
    ///
    /// Steps go to the root of a function with the two poles beside it that has the value of f here and of both of its
    /// parts the slope (Li 1993, "the middle way"), or halve the interval where that leads out of it.
    fn root(&self, j: usize) -> Root {
        let (d, last) = (self.d, j + 1 == self.d.len());
        let (left, right) = (d[j], if last { f64::INFINITY } else { d[j + 1] });
        // f has no root above this; rounded upwards so that f is not below 0 there
        let reach = if last { self.squares.iter().sum::<f64>() / self.constant * (1.0 + 1e-12) } else { right - left };
        let mut origin = left;
        let mut distance = 0.5 * reach;
        let (mut low, mut high) = (0.0, reach);
        for step in 0..STEPS {
            let (below, below_slope) = terms(&d[..=j], &self.squares[..=j], origin, distance);
            let (above, above_slope) = terms(&d[j + 1..], &self.squares[j + 1..], origin, distance);
            let value = self.constant + below + above;
            if step == 0 && !last {
                // from the nearer side
                if value > 0.0 {
                    high = distance;
                } else {
                    (origin, distance, low, high) = (right, -0.5 * reach, -0.5 * reach, 0.0);
                }
            } else if value > 0.0 {
                high = distance;
            } else {
                low = distance;
            }
            if value.abs() <= 4.0 * f64::EPSILON * (self.constant + above - below) {
                break;
            }
            let to_left = (left - origin) - distance;
            let change = if last {
                to_left * value / (value - to_left * below_slope)
            } else {
                let to_right = (right - origin) - distance;
                let a = (to_left + to_right) * value - to_left * to_right * (below_slope + above_slope);
                let b = to_left * to_right * value;
                let c = value - to_left * below_slope - to_right * above_slope;
                let root = (a * a - 4.0 * b * c).sqrt();
                if a <= 0.0 { (a - root) / (2.0 * c) } else { 2.0 * b / (a + root) }
            };
            let mut next = distance + change;
            let inside = low < next && next < high;
            if !inside || step > PATIENCE && step.is_multiple_of(2) {
                next = 0.5 * (low + high);
            }
            if next == distance || next <= low || next >= high {
                break;
            }
            distance = next;
        }
        Root { origin, distance }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_registers_change_no_number() {
        for n in [0, 1, 8, 29] {
            let d: Vec<f64> = (0..n).map(|k| (k as f64 * 0.7).sin()).collect();
            let squares: Vec<f64> = d.iter().map(|d| 0.1 + d * d).collect();
            assert_eq!(terms(&d, &squares, 0.3, 0.01), plain_terms(&d, &squares, 0.3, 0.01), "{n}");
        }
    }

    #[test]
    fn roots_and_vectors_are_eigenpairs_between_the_poles() {
        let even: Vec<f64> = (0..21).map(f64::from).collect();
        let close: Vec<f64> = (0..21).map(|k| 1.0 + f64::from(k) * 1e-13).collect();
        let falling: Vec<f64> = (0..21).map(|k| 4f64.powi(k - 20)).collect();
        let weights: [fn(usize) -> f64; 3] =
            [|_| 0.2, |k| if k % 2 == 0 { 0.3 } else { 1e-14 }, |k| -(0.5f64.powi(k as i32))];
        for d in [even, close, falling, vec![0.3], vec![-1.0, 1.0]] {
            for (weight, rho) in weights.into_iter().flat_map(|weight| [(weight, 1e-3), (weight, 2.0)]) {
                let z: Vec<f64> = (0..d.len()).map(weight).collect();
                let n = d.len();
                let roots = Roots::of(d.iter().copied().zip(z.iter().copied()), rho, Threads::One);
                let order: Vec<usize> = (0..n).collect();
                let mut vectors = vec![vec![0.0; n]; n];
                let norm = d[0].abs().max(d[n - 1].abs()) + rho * z.iter().map(|z| z * z).sum::<f64>();
                for j in 0..n {
                    let value = roots.value(j);
                    assert!(d[j] <= value && d.get(j + 1).is_none_or(|next| value <= *next), "{d:?} {z:?}: {j}");
                    roots.vector(j, &order, &mut vectors[j]);
                    let along: f64 = rho * (0..n).map(|i| z[i] * vectors[j][i]).sum::<f64>();
                    for i in 0..n {
                        let rest = (d[i] - value) * vectors[j][i] + along * z[i];
                        assert!(rest.abs() < 40.0 * f64::EPSILON * norm, "{d:?} {z:?} {rho}: {j}, {i}: {rest}");
                    }
                }
                for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let product: f64 = (0..n).map(|k| vectors[i][k] * vectors[j][k]).sum();
                    let want = f64::from(u8::from(i == j));
                    assert!((product - want).abs() < 40.0 * f64::EPSILON, "{d:?} {z:?} {rho}: {i}, {j}: {product}");
                }
            }
        }
    }
}
