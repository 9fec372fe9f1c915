//! Tests of eigendecompositions against their definition.

use super::*;

/// Numbers in -1..1 without a pattern.
fn noise(count: usize, seed: usize) -> Vec<f64> {
    let mut state = seed as u64 * 2 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn symmetric_noise(n: usize) -> Vec<f64> {
    let x = noise(n * n, n);
    (0..n * n).map(|k| x[(k / n).max(k % n) * n + (k / n).min(k % n)]).collect()
}

fn lower(a: &[f64], n: usize) -> SymmetricMatrix {
    SymmetricMatrix::from_fn(n, |r, c| a[r * n + c])
}

/// `Xᵀ X` of so many rows, later columns smaller.
fn gram(n: usize, rows: usize) -> Vec<f64> {
    let mut x = noise(rows * n, rows);
    x.iter_mut().enumerate().for_each(|(k, x)| *x /= (1 + k % n) as f64);
    (0..n * n).map(|k| (0..rows).map(|r| x[r * n + k / n] * x[r * n + k % n]).sum()).collect()
}

/// `u diag(values) uᵀ`, and `uᵀ u`.
fn rebuilt(u: &[f64], values: &[f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let whole = |k: usize| {
        let (i, j) = (&u[k / n * n..][..n], &u[k % n * n..][..n]);
        (0..n).map(|l| i[l] * values[l] * j[l]).sum()
    };
    let mut unit = vec![0.0; n * n];
    for row in u.chunks(n) {
        for i in 0..n {
            for j in 0..n {
                unit[i * n + j] += row[i] * row[j];
            }
        }
    }
    ((0..n * n).map(whole).collect(), unit)
}

/// Eigenpairs by their definition: they rebuild the matrix, are orthonormal and ascend.
fn check(a: &[f64], n: usize, name: &str) -> Vec<f64> {
    let (values, u) = eigenpairs::<f64>(&lower(a, n), Threads::One).expect("converges");
    assert!(values.windows(2).all(|pair| pair[0] <= pair[1]), "{name}");
    let scale = a.iter().fold(0.0f64, |scale, x| scale.max(x.abs()));
    let (whole, unit) = rebuilt(&u, &values, n);
    // roundings of n additions, of numbers up to n times the largest
    let close = (n + 10) as f64 * f64::EPSILON;
    for k in 0..n * n {
        assert!((whole[k] - a[k]).abs() <= 4.0 * close * scale, "{name}, {n}: [{}, {}]", k / n, k % n);
        assert!((unit[k] - f64::from(u8::from(k / n == k % n))).abs() <= 4.0 * close, "{name}, {n}: {k}");
    }
    values
}

const SIZES: [usize; 9] = [1, 2, 3, 7, 31, 33, 65, 130, 257];

#[test]
fn a_reduction_is_tridiagonal_and_its_reflections_turn_it_back() {
    for n in SIZES {
        let a = symmetric_noise(n);
        let reduced = Tridiagonal::of(&lower(&a, n), Threads::One);
        let mut q = Columns::zeros(n, n);
        (0..n).for_each(|k| q.column_mut(k)[k] = 1.0);
        reduced.rotate(&mut q, Threads::One);
        let q: Vec<f64> = row_major(&q, &(0..n).collect::<Vec<_>>(), Threads::One);
        let (diagonal, off) = (&reduced.diagonal, &reduced.off_diagonal);
        // Q T Qᵀ with T by its three diagonals
        let mut qt = vec![0.0; n * n];
        for (q, qt) in q.chunks(n).zip(qt.chunks_mut(n)) {
            for c in 0..n {
                let left = if c > 0 { q[c - 1] * off[c - 1] } else { 0.0 };
                let right = if c + 1 < n { q[c + 1] * off[c] } else { 0.0 };
                qt[c] = (left + q[c] * diagonal[c] + right) * reduced.scale;
            }
        }
        let (_, unit) = rebuilt(&q, &vec![1.0; n], n);
        let close = (n + 10) as f64 * f64::EPSILON;
        for (r, c) in (0..n).flat_map(|r| (0..n).map(move |c| (r, c))) {
            let whole: f64 = (0..n).map(|k| qt[r * n + k] * q[c * n + k]).sum();
            assert!((whole - a[r * n + c]).abs() <= 4.0 * close, "{n}: [{r}, {c}]");
            assert!((unit[r * n + c] - f64::from(u8::from(r == c))).abs() <= close, "{n}: [{r}, {c}]");
        }
    }
}

#[test]
fn eigenpairs_rebuild_the_matrix() {
    for n in SIZES {
        check(&symmetric_noise(n), n, "any signs");
        check(&gram(n, 2 * n), n, "of full rank");
        let values = check(&gram(n, n.div_ceil(3)), n, "of a third of the rank");
        let nothing = 4.0 * (n + 10) as f64 * f64::EPSILON * values[n - 1];
        let rank = values.iter().filter(|&&value| value > nothing).count();
        assert!(rank <= n.div_ceil(3), "{n}: {rank} values are not 0");
    }
    assert!(eigenpairs::<f64>(&lower(&[], 0), Threads::One).is_ok_and(|(values, u)| values.is_empty() && u.is_empty()));
}

#[test]
fn equal_and_missing_eigenvalues_are_deflated() {
    for n in [7, 65, 130] {
        let zero = check(&vec![0.0; n * n], n, "zero");
        assert!(zero.iter().all(|&value| value == 0.0));
        let mut unit: Vec<f64> = (0..n * n).map(|k| f64::from(u8::from(k / n == k % n))).collect();
        assert!(check(&unit, n, "unit").iter().all(|&value| value == 1.0));
        unit.iter_mut().enumerate().for_each(|(k, x)| *x *= ((k / n) % 3) as f64);
        check(&unit, n, "three values");
        // one and the same number everywhere: rank one
        let values = check(&vec![0.5; n * n], n, "constant");
        assert!((values[n - 1] - 0.5 * n as f64).abs() < 1e-12 && values[n - 2].abs() < 1e-12);
        // the same small matrices one after the other, hardly coupled
        let glued = |k: usize| match (k / n, k % n) {
            (r, c) if r == c => (r % 7).abs_diff(3) as f64,
            (r, c) if r.abs_diff(c) == 1 => {
                if r.max(c) % 7 == 0 {
                    1e-9
                } else {
                    1.0
                }
            }
            _ => 0.0,
        };
        check(&(0..n * n).map(glued).collect::<Vec<_>>(), n, "glued");
    }
}

#[test]
fn a_scale_changes_nothing_but_the_eigenvalues() {
    let n = 67;
    let a = gram(n, 30);
    let (values, u) = eigenpairs::<f64>(&lower(&a, n), Threads::One).expect("converges");
    for power in [-990, -300, 300, 1000] {
        let scale = 2f64.powi(power);
        let scaled: Vec<f64> = a.iter().map(|x| x * scale).collect();
        let (its_values, its_u) = eigenpairs::<f64>(&lower(&scaled, n), Threads::One).expect("converges");
        assert!(u == its_u, "2^{power}");
        assert!(values.iter().zip(&its_values).all(|(x, y)| x * scale == *y), "2^{power}");
    }
    // numbers of every size: squares of most vanish
    let wild: Vec<f64> =
        symmetric_noise(n).iter().enumerate().map(|(k, x)| x * 10f64.powi(-((k / n + k % n) as i32) * 4)).collect();
    check(&wild, n, "of every size");
    let huge: Vec<f64> = wild.iter().map(|x| x * 1e300).collect();
    check(&huge, n, "huge");
}

#[test]
fn numbers_do_not_depend_on_threads() {
    let n = 643;
    let a = symmetric_noise(n);
    let one = eigenpairs::<f64>(&lower(&a, n), Threads::One).expect("converges");
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let pooled = pool.install(|| eigenpairs::<f64>(&lower(&a, n), Threads::Pool)).expect("converges");
        assert!(one == pooled, "{threads} threads");
    }
}
