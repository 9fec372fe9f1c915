//! Tests of matrix products against loops.

use super::*;

fn numbers<T: Real>(n: usize, seed: u64) -> Vec<T> {
    (0..n as u64).map(|i| T::of(((i * 2_654_435_761 + seed * 97) % 1009) as f64 / 504.5 - 1.0)).collect()
}

fn check_matmul<T: Real>(m: usize, k: usize, n: usize, tolerance: f64) {
    // `a` is given as the transpose of a [k, m] matrix with a wider stride, `c` has a wider stride.
    let a: Vec<T> = numbers(k * (m + 3), 1);
    let b: Vec<T> = numbers(k * n, 2);
    let mut c: Vec<T> = numbers(m * (n + 2), 3);
    let before = c.clone();
    let (va, vb) = (View::new(&a, k, m, m + 3).t(), View::dense(&b, k, n));
    matmul(ViewMut::new(&mut c, m, n, n + 2), Into::Add, T::of(0.5), va, vb, Threads::Pool);
    for i in 0..m {
        for j in 0..n + 2 {
            let mut want = before[i * (n + 2) + j].wide();
            if j < n {
                want += 0.5 * (0..k).map(|l| a[l * (m + 3) + i].wide() * b[l * n + j].wide()).sum::<f64>();
            }
            assert!((c[i * (n + 2) + j].wide() - want).abs() <= tolerance * k as f64, "[{i}, {j}]");
        }
    }
}

#[test]
fn product_equals_its_definition_at_odd_shapes() {
    for (m, k, n) in [(1, 1, 1), (3, 5, 7), (17, 33, 65), (130, 67, 31)] {
        check_matmul::<f64>(m, k, n, 1e-15);
        check_matmul::<f32>(m, k, n, 1e-6);
    }
}

#[test]
fn products_by_rows_are_the_product_for_any_number_of_threads() {
    for (m, k, n) in [(1, 3, 2), (300, 40, 70), (257, 600, 5), (129, 513, 64), (3, 0, 2), (0, 3, 2)] {
        let (a, b): (Vec<f32>, Vec<f32>) = (numbers(m * k, 5), numbers(k * n, 6));
        let (a, b) = (View::dense(&a, m, k), View::dense(&b, k, n));
        let mut want = vec![0.0; m * n];
        matmul(ViewMut::dense(&mut want, m, n), Into::Replace, 1.0, a, b, Threads::One);
        want.iter_mut().for_each(|x| *x += 1.0);
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let found = pool.install(|| rows_product(a, b, |y| y.iter_mut().for_each(|x| *x += 1.0)));
            assert_eq!(found, want, "{m} {k} {n} on {threads}");
        }
    }
}

/// Whether `found` is `2 + xᵀ x` of a view of `rows × n` as far as sums in this type can be.
fn check_gram(found: &[f64], x: impl Fn(usize, usize) -> f64, [rows, n]: [usize; 2], epsilon: f64) {
    for (i, row) in (0..n).map(|i| (i, &found[triangle::numbers(i)..triangle::numbers(i + 1)])) {
        for (j, found) in row.iter().enumerate() {
            let terms = || (0..rows).map(|r| x(r, i) * x(r, j));
            let (dot, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
            let tolerance = epsilon * 20.0 * size + f64::EPSILON * (2.0 + dot.abs());
            assert!((found - 2.0 - dot).abs() <= tolerance, "{rows} {n} [{i}, {j}]");
        }
    }
}

#[test]
fn grams_in_f64_equal_the_loop_row_major_or_turned() {
    for [rows, n] in [[37, 19], [3, 300], [1100, 130], [1, 1]] {
        let x: Vec<f64> = numbers(rows * n, 4);
        let mut c = vec![2.0; triangle::numbers(n)];
        add_gram(&mut c, View::dense(&x, rows, n), Threads::Pool);
        check_gram(&c, |r, i| x[r * n + i], [rows, n], f64::EPSILON);
        let mut c = vec![2.0; triangle::numbers(rows)];
        add_gram(&mut c, View::dense(&x, rows, n).t(), Threads::One);
        check_gram(&c, |r, i| x[i * n + r], [n, rows], f64::EPSILON);
    }
}

#[test]
fn empty_products_are_defined() {
    let mut c = [7.0f32; 4];
    matmul(
        ViewMut::dense(&mut c, 2, 2),
        Into::Replace,
        1.0,
        View::dense(&[], 2, 0),
        View::dense(&[], 0, 2),
        Threads::One,
    );
    assert_eq!(c, [0.0; 4]);
}

#[test]
#[should_panic(expected = "does not fit")]
fn a_view_outside_its_slice_is_refused() {
    View::new(&[0.0f32; 10], 3, 4, 4);
}

/// How an operand lies in memory.
#[derive(Debug, Clone, Copy)]
enum Lie {
    RowMajor,
    Transposed,
}

/// `[rows, columns]` of numbers, `gap` more between rows than need be.
struct Operand {
    data: Vec<f32>,
    shape: [usize; 2],
    stride: usize,
    lie: Lie,
}

impl Operand {
    fn new(shape: [usize; 2], gap: usize, lie: Lie, seed: u64) -> Self {
        let (rows, columns) = match lie {
            Lie::RowMajor => (shape[0], shape[1]),
            Lie::Transposed => (shape[1], shape[0]),
        };
        let stride = columns + gap;
        // the last row ends with its last number: nothing beyond it may be read
        Self { data: numbers((rows - 1) * stride + columns, seed), shape, stride, lie }
    }

    fn view(&self) -> View<'_, f32> {
        let [rows, columns] = self.shape;
        match self.lie {
            Lie::RowMajor => View::new(&self.data, rows, columns, self.stride),
            Lie::Transposed => View::new(&self.data, columns, rows, self.stride).t(),
        }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        f64::from(match self.lie {
            Lie::RowMajor => self.data[row * self.stride + column],
            Lie::Transposed => self.data[column * self.stride + row],
        })
    }
}

/// Shapes on both sides of every boundary: tiles of 14 × 32, blocks of 512 columns, sums of 384, panels that are read
/// where they lie and those that are packed.
const SHAPES: [[usize; 3]; 9] = [
    [14, 1, 14],
    [15, 3, 17],
    [29, 31, 33],
    [64, 385, 48],
    [65, 257, 49],
    [70, 770, 16],
    [16, 33, 1025],
    [100, 500, 95],
    [14, 1025, 500],
];

#[test]
fn products_in_f32_equal_the_triple_loop_for_every_layout() {
    let lies = [Lie::RowMajor, Lie::Transposed];
    for (case, [m, k, n]) in SHAPES.into_iter().enumerate() {
        for (la, lb) in lies.into_iter().flat_map(|la| lies.map(|lb| (la, lb))) {
            let (a, b) = (Operand::new([m, k], case, la, 1), Operand::new([k, n], 5 - case.min(5), lb, 2));
            let stride = n + 3;
            let before: Vec<f32> = numbers(m * stride, 3);
            for (into, factor) in [(Into::Add, 0.75f32), (Into::Replace, 1.0), (Into::Replace, -2.0)] {
                let mut c = before.clone();
                matmul(ViewMut::new(&mut c, m, n, stride), into, factor, a.view(), b.view(), Threads::One);
                for i in 0..m {
                    for j in 0..stride {
                        let was = f64::from(before[i * stride + j]);
                        let mut size = 0.0;
                        let dot: f64 = (0..k)
                            .map(|l| (l, j))
                            .filter(|_| j < n)
                            .map(|(l, j)| {
                                let x = a.at(i, l) * b.at(l, j);
                                size += x.abs();
                                x
                            })
                            .sum();
                        let want = match into {
                            _ if j >= n => was,
                            Into::Add => was + f64::from(factor) * dot,
                            Into::Replace => f64::from(factor) * dot,
                        };
                        let found = f64::from(c[i * stride + j]);
                        // a chain of at most 384 roundings, and one for each of the blocks
                        let tolerance = f64::from(f32::EPSILON) * (size * 20.0 + was.abs());
                        assert!((found - want).abs() <= tolerance, "{m} {k} {n} {la:?} {lb:?} {into:?} [{i}, {j}]");
                    }
                }
            }
        }
    }
}

#[test]
fn numbers_of_a_product_do_not_depend_on_threads() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    for [m, k, n] in [[300, 700, 290], [140, 30, 1030], [1000, 390, 20]] {
        let (a, b): (Vec<f32>, Vec<f32>) = (numbers(m * k, 5), numbers(k * n, 6));
        let product = |threads| {
            let mut c = vec![0.5; m * n];
            let (a, b) = (View::dense(&a, m, k), View::dense(&b, k, n));
            matmul(ViewMut::dense(&mut c, m, n), Into::Add, 1.0, a, b, threads);
            c
        };
        let want = product(Threads::One);
        for threads in [1, 2, 5] {
            assert_eq!(pool(threads).install(|| product(Threads::Pool)), want, "{m} {k} {n} on {threads}");
        }
        let gram = |threads| {
            let mut c = vec![0.5; triangle::numbers(n)];
            add_gram(&mut c, View::dense(&b, k, n), threads);
            c
        };
        let want = gram(Threads::One);
        for threads in [1, 2, 5] {
            assert_eq!(pool(threads).install(|| gram(Threads::Pool)), want, "{k} {n} on {threads}");
        }
    }
}

#[test]
fn grams_in_f32_equal_the_loop_and_are_added_in_f64() {
    for [rows, n] in [[1, 14], [37, 45], [385, 100], [800, 33], [20, 530], [9, 5]] {
        let x: Vec<f32> = numbers(rows * n, 4);
        for add in [add_gram, library_add_gram] {
            let mut c = vec![2.0; triangle::numbers(n)];
            add(&mut c, View::dense(&x, rows, n), Threads::One);
            check_gram(&c, |r, i| x[r * n + i].into(), [rows, n], f32::EPSILON.into());
        }
        let mut c = vec![2.0; triangle::numbers(rows)];
        add_gram(&mut c, View::dense(&x, rows, n).t(), Threads::Pool);
        check_gram(&c, |r, i| x[i * n + r].into(), [n, rows], f32::EPSILON.into());
    }
    // what f32 cannot hold beside a large sum is kept
    let mut c = vec![1e12; triangle::numbers(20)];
    add_gram(&mut c, View::dense(&[0.5f32; 20], 1, 20), Threads::One);
    assert!(c.iter().all(|x| *x == 1e12 + 0.25));
}

#[test]
fn grams_whose_panels_are_packed_in_several_turns_are_whole() {
    let (rows, n) = (1200, 1000);
    let x: Vec<f32> = numbers(rows * n, 4);
    let gram = |add: fn(&mut [f64], View<'_, f32>, Threads)| {
        let mut c = vec![2.0; triangle::numbers(n)];
        add(&mut c, View::dense(&x, rows, n), Threads::Pool);
        c
    };
    // both round to f32; the largest sum of sizes is that of a column with itself
    let tolerance = f64::from(f32::EPSILON) * 20.0 * rows as f64;
    assert!(gram(add_gram).iter().zip(gram(library_add_gram)).all(|(x, y)| (x - y).abs() < tolerance));
}

#[test]
fn the_libraries_compute_what_the_kernels_do() {
    let (m, k, n) = (33, 400, 47);
    let (a, b): (Vec<f32>, Vec<f32>) = (numbers(m * k, 7), numbers(k * n, 8));
    let (a, b) = (View::dense(&a, m, k), View::dense(&b, k, n));
    let (mut here, mut there) = (vec![0.0; m * n], vec![0.0; m * n]);
    matmul(ViewMut::dense(&mut here, m, n), Into::Replace, 1.0, a, b, Threads::One);
    library_product(ViewMut::dense(&mut there, m, n), Into::Replace, 1.0, a, b, Threads::One);
    assert!(here.iter().zip(&there).all(|(x, y)| (x - y).abs() < 1e-4));
}

/// The nearest bf16, halves to even, by integers.
fn bf16(x: f32) -> f64 {
    let bits = x.to_bits();
    f64::from(f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000))
}

#[test]
fn products_in_bf16_are_those_of_rounded_inputs() {
    if !Products::Bf16.run_here() {
        return; // nothing to test without AVX512-BF16
    }
    let lies = [Lie::RowMajor, Lie::Transposed];
    for (case, [m, k, n]) in SHAPES.into_iter().chain([[3, 5, 7], [20, 1600, 18], [1, 1, 1]]).enumerate() {
        for (la, lb) in lies.into_iter().flat_map(|la| lies.map(|lb| (la, lb))) {
            let (a, b) = (Operand::new([m, k], case, la, 1), Operand::new([k, n], 2, lb, 2));
            let before: Vec<f32> = numbers(m * n, 3);
            let mut c = before.clone();
            let (va, vb) = (a.view().to(Products::Bf16), b.view());
            matmul(ViewMut::dense(&mut c, m, n), Into::Add, 0.5, va, vb, Threads::One);
            for i in 0..m {
                for j in 0..n {
                    let terms = || (0..k).map(|l| bf16(a.at(i, l) as f32) * bf16(b.at(l, j) as f32));
                    let (dot, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                    let was = f64::from(before[i * n + j]);
                    let error = (f64::from(c[i * n + j]) - was - 0.5 * dot).abs();
                    // the inputs are rounded alike, so what is left is the rounding of sums in f32
                    let tolerance = f64::from(f32::EPSILON) * (size * 20.0 + was.abs());
                    assert!(error <= tolerance, "{m} {k} {n} {la:?} {lb:?} [{i}, {j}]: {error}");
                }
            }
        }
    }
}

#[test]
fn grams_in_bf16_are_those_of_rounded_inputs() {
    if !Products::Bf16.run_here() {
        return;
    }
    for (rows, n) in [(3, 5), (385, 47), (31, 530)] {
        let x: Vec<f32> = numbers(rows * n, 4);
        let mut c = vec![2.0; triangle::numbers(n)];
        add_gram(&mut c, View::dense(&x, rows, n).to(Products::Bf16), Threads::Pool);
        check_gram(&c, |r, i| bf16(x[r * n + i]), [rows, n], f32::EPSILON.into());
    }
}

#[test]
fn a_packed_right_side_gives_the_same_numbers() {
    for products in [Products::Exact, Products::Bf16] {
        if !products.run_here() {
            continue;
        }
        for (case, [m, k, n]) in SHAPES.into_iter().chain([[14, 3, 7], [3, 40, 50]]).enumerate() {
            for lie in [Lie::RowMajor, Lie::Transposed] {
                let (a, b) = (Operand::new([m, k], 0, Lie::Transposed, 1), Operand::new([k, n], case, lie, 2));
                let (a, b) = (a.view(), b.view().to(products));
                let (mut want, mut found): (Vec<f32>, Vec<f32>) = (numbers(m * n, 3), numbers(m * n, 3));
                let mut packed = Packed::default();
                packed.pack(View::dense(&[1.0f32; 6], 2, 3)); // something else first
                matmul(ViewMut::dense(&mut want, m, n), Into::Add, 0.5, a, b, Threads::Pool);
                matmul_packed(ViewMut::dense(&mut found, m, n), Into::Add, 0.5, a, b, &packed, Threads::Pool);
                assert_eq!(found, want, "panels of another matrix: {m} {k} {n} {lie:?}");
                packed.pack(b);
                let mut found: Vec<f32> = numbers(m * n, 3);
                matmul_packed(ViewMut::dense(&mut found, m, n), Into::Add, 0.5, a, b, &packed, Threads::Pool);
                assert_eq!(found, want, "{m} {k} {n} {lie:?} {products:?}");
            }
        }
    }
}
