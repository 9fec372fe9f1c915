//! Tests of disentangled attention: kernel and composed ops against the definition, and gradients against its slopes.

use candle_core::{DType, Device, Var};

use super::*;
use crate::gradient_check::{agree, central_differences, flat, tangents, wave};
use ascribe_curvature::gemm::Products;
use ascribe_curvature::{Gradient, Positions, Tape};

const HEADS: usize = 2;
const D: usize = 3;

/// Five tokens, one, and three; distances beyond two share rows.
fn rows(distances: RelativeDistances) -> Arc<RelativeRows> {
    Arc::new(RelativeRows::new(distances, &Positions::from_lengths([5, 1, 3])))
}

const BUCKETS: RelativeDistances = RelativeDistances { buckets: Some(4), max_distance: 8 };
const EACH: RelativeDistances = RelativeDistances { buckets: None, max_distance: 3 };

fn attention(content_to_position: bool, position_to_content: bool) -> DisentangledAttention {
    DisentangledAttention {
        heads: HEADS,
        head_dimension: D,
        scale: 0.4,
        content_to_position,
        position_to_content,
        products: Products::Exact,
    }
}

/// Every combination of terms and distances, with queries, keys and values.
fn cases() -> Vec<(DisentangledAttention, Arc<RelativeRows>, [Tensor; 3])> {
    let mut cases = vec![];
    for (c2p, p2c) in [(true, true), (true, false), (false, true), (false, false)] {
        for distances in [BUCKETS, EACH] {
            let (attention, rows) = (attention(c2p, p2c), rows(distances));
            let of = |positions: &Positions, seed| wave(&[positions.rows(), HEADS * D], seed).unwrap();
            let [q, k, v] = attention.positions(&rows);
            let values = [of(q, 1), of(k, 2), of(v, 3)];
            cases.push((attention, rows, values));
        }
    }
    cases
}

/// The output by loops over examples, heads, queries and keys.
fn definition(attention: &DisentangledAttention, distances: RelativeDistances, values: [&[f64]; 3]) -> Vec<f64> {
    let width = HEADS * D;
    let (mut output, mut first) = (vec![], [0; 3]);
    for length in [5usize, 1, 3] {
        let mut reached: Vec<usize> = (0..length)
            .flat_map(|i| (0..length).map(move |j| (i, j)))
            .map(|(i, j)| distances.row(i as isize - j as isize))
            .collect();
        reached.sort_unstable();
        reached.dedup();
        let row = |of: usize, row: usize, h: usize| {
            let start = (first[of] + row) * width + h * D;
            &values[of][start..start + D]
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut own = vec![0.0; length * width];
        for h in 0..HEADS {
            for i in 0..length {
                let score = |j: usize| {
                    let at = reached.iter().position(|&r| r == distances.row(i as isize - j as isize)).unwrap();
                    let mut score = dot(row(0, i, h), row(1, j, h));
                    if attention.content_to_position {
                        score += dot(row(0, i, h), row(1, length + at, h));
                    }
                    if attention.position_to_content {
                        score += dot(row(1, j, h), row(0, length + at, h));
                    }
                    (attention.scale * score).exp()
                };
                let sum: f64 = (0..length).map(score).sum();
                for c in 0..D {
                    own[i * width + h * D + c] = (0..length).map(|j| score(j) / sum * row(2, j, h)[c]).sum();
                }
            }
        }
        output.extend(own);
        let joined = length + reached.len();
        first[0] += if attention.position_to_content { joined } else { length };
        first[1] += if attention.content_to_position { joined } else { length };
        first[2] += length;
    }
    output
}

#[test]
fn both_implementations_are_the_definition() -> Result<()> {
    for (k, (attention, rows, values)) in cases().into_iter().enumerate() {
        let distances = if k % 2 == 0 { BUCKETS } else { EACH };
        let flat_values = [flat(&values[0])?, flat(&values[1])?, flat(&values[2])?];
        let want = definition(&attention, distances, flat_values.each_ref().map(Vec::as_slice));
        let traced = values.each_ref().map(|x| Traced::constant(x.clone()));
        let kernel = attention.trace(traced.each_ref(), &rows)?;
        for found in [kernel.value(), &attention.composed(values.each_ref(), &rows)?] {
            for (found, want) in flat(found)?.iter().zip(&want) {
                assert!((found - want).abs() < 1e-13, "case {k}: {found} {want}");
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_are_the_slopes_of_the_definition() -> Result<()> {
    for (attention, rows, values) in cases() {
        // all three stand in one input, so that one pass gives all gradients
        let counts = values.each_ref().map(|x| x.dim(0).unwrap());
        let starts = [0, counts[0], counts[0] + counts[1]];
        let all = Tensor::cat(&values, 0)?;
        let parts = |x: &Tensor| -> Result<[Tensor; 3]> {
            let part = |k: usize| x.narrow(0, starts[k], counts[k])?.contiguous();
            Ok([part(0)?, part(1)?, part(2)?])
        };
        let composed = |x: &Tensor| attention.composed(parts(x)?.each_ref(), &rows);
        central_differences(&all, composed, 1e-9)?;
        // the kernel's backward pass is that of the composed ops
        let op = |x: &[&Tensor]| {
            let op = op::Op { attention: attention.clone(), rows: rows.clone() };
            x[0].apply_op3(x[1], x[2], op)
        };
        let inputs = values.each_ref();
        let by_ops = |x: &[&Tensor]| attention.composed([x[0], x[1], x[2]], &rows);
        agree(&inputs, op, by_ops, 2e-6)?;
        let variables = inputs.map(|x| Var::from_tensor(x).unwrap());
        let seed = wave(values[2].dims(), 9)?;
        let gradients = |y: Tensor| (y * &seed)?.sum_all()?.backward();
        let found = gradients(op(&[&variables[0], &variables[1], &variables[2]])?)?;
        let want = gradients(by_ops(&[&variables[0], &variables[1], &variables[2]])?)?;
        for x in &variables {
            let (found, want) = (flat(found.get(x).unwrap())?, flat(want.get(x).unwrap())?);
            for (found, want) in found.iter().zip(&want) {
                assert!((found - want).abs() < 1e-13, "{found} {want}");
            }
        }
        let trace = |x: &[Traced]| attention.trace([&x[0], &x[1], &x[2]], &rows);
        tangents(&inputs, trace, 1e-8)?;
    }
    Ok(())
}

/// More queries than a block has.
#[test]
fn long_examples_give_what_composed_ops_give() -> Result<()> {
    let distances = RelativeDistances { buckets: Some(16), max_distance: 64 };
    let rows = Arc::new(RelativeRows::new(distances, &Positions::from_lengths([150, 0, 64])));
    let attention = attention(true, true);
    let of = |positions: &Positions, seed| wave(&[positions.rows(), HEADS * D], seed);
    let [q, k, v] = attention.positions(&rows);
    let values = [of(q, 1)?, of(k, 2)?, of(v, 3)?];
    let op = |x: &[&Tensor]| {
        let op = op::Op { attention: attention.clone(), rows: rows.clone() };
        x[0].apply_op3(x[1], x[2], op)
    };
    agree(&values.each_ref(), op, |x| attention.composed([x[0], x[1], x[2]], &rows), 2e-6)
}

#[test]
fn relative_rows_stand_below_the_hidden_states_of_their_example() -> Result<()> {
    let rows = rows(BUCKETS);
    assert_eq!(rows.relative().iter().map(|rows| rows.len()).collect::<Vec<_>>(), [7, 1, 5]);
    assert_eq!(rows.joined().iter().map(|rows| rows.len()).collect::<Vec<_>>(), [12, 2, 8]);
    let nowhere = Positions::NOWHERE;
    let places = rows.joined().places().unwrap();
    assert_eq!(places[..6], [0, 1, 2, 3, 4, nowhere]);
    assert_eq!(places[12..17], [5, nowhere, 6, 7, 8]);
    assert_eq!(places.iter().filter(|&&place| place == nowhere).count(), 13);
    // rows 1 to 7 of the table of eight, the middle one, and those at the distances of three tokens
    let table = Tensor::arange(0.0, 8.0, &Device::Cpu)?
        .reshape((8, 1))?
        .broadcast_mul(&Tensor::new(&[[1.0, 10.0]], &Device::Cpu)?)?;
    let own = rows.of_table(&table)?.to_vec2::<f64>()?;
    let first: Vec<f64> = own.iter().map(|row| row[0]).collect();
    assert_eq!(first, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 4.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let (hidden, relative) = (wave(&[9, 2], 1)?, wave(&[13, 2], 2)?);
    let by_hand = |hidden: &Tensor, relative: &Tensor| {
        let part = |x: &Tensor, at, n| x.narrow(0, at, n);
        let parts = [
            part(hidden, 0, 5)?,
            part(relative, 0, 7)?,
            part(hidden, 5, 1)?,
            part(relative, 7, 1)?,
            part(hidden, 6, 3)?,
            part(relative, 8, 5)?,
        ];
        Tensor::cat(&parts, 0)
    };
    for dtype in [DType::F32, DType::F64] {
        let (hidden, relative) = (hidden.to_dtype(dtype)?, relative.to_dtype(dtype)?);
        let found = rows.trace_joined(&Traced::constant(hidden.clone()), &Traced::constant(relative.clone()))?;
        assert_eq!(flat(found.value())?, flat(&by_hand(&hidden, &relative)?)?);
    }
    tangents(&[&hidden, &relative], |x| rows.trace_joined(&x[0], &x[1]), 1e-9)?;
    // nobody wants a gradient at the table, and the one at hidden states is theirs
    let (tape, seed) = (Tape::default(), wave(&[22, 2], 3)?);
    let input = tape.input(hidden.clone(), Gradient::Wanted);
    let joined = rows.trace_joined(&input, &input.beside(relative.clone()))?;
    let found = tape.backward(&input, &joined, seed.clone())?.expect("wanted");
    let want = Tensor::cat(&[seed.narrow(0, 0, 5)?, seed.narrow(0, 12, 1)?, seed.narrow(0, 14, 3)?], 0)?;
    assert_eq!(flat(&found)?, flat(&want)?);
    let error = rows.trace_joined(&Traced::constant(relative.clone()), &Traced::constant(hidden)).unwrap_err();
    assert!(error.to_string().contains("hidden states of the shape [13, 2], expected [9, 2]"), "{error}");
    let x = Traced::constant(relative);
    let error = attention(true, true).trace([&x, &x, &x], &rows).unwrap_err();
    assert!(error.to_string().contains("attention got q of the shape [13, 2], expected [22, 6]"), "{error}");
    Ok(())
}
