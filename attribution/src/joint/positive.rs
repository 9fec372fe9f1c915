//! Systems of a small positive matrix.

/// `A⁻¹ B` for a positive matrix `[n, n]` and `[n, m]`; none if the matrix is not positive.
pub(super) fn cholesky_solve(mut a: Vec<f64>, n: usize, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let m = b.len() / n.max(1);
    for j in 0..n {
        let dot = |i: usize, a: &[f64]| (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum::<f64>();
        let pivot = a[j * n + j] - dot(j, &a);
        if pivot.is_nan() || pivot <= 0.0 {
            return None;
        }
        let root = pivot.sqrt();
        a[j * n + j] = root;
        for i in j + 1..n {
            a[i * n + j] = (a[i * n + j] - dot(i, &a)) / root;
        }
    }
    for i in 0..n {
        for k in 0..i {
            let factor = a[i * n + k];
            let (solved, rest) = b.split_at_mut(i * m);
            rest[..m].iter_mut().zip(&solved[k * m..]).for_each(|(x, y)| *x -= factor * y);
        }
        b[i * m..(i + 1) * m].iter_mut().for_each(|x| *x /= a[i * n + i]);
    }
    for i in (0..n).rev() {
        for k in i + 1..n {
            let factor = a[k * n + i];
            let (rest, solved) = b.split_at_mut(k * m);
            rest[i * m..(i + 1) * m].iter_mut().zip(&*solved).for_each(|(x, y)| *x -= factor * y);
        }
        b[i * m..(i + 1) * m].iter_mut().for_each(|x| *x /= a[i * n + i]);
    }
    Some(b)
}
