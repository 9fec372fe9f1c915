//! Tests of attention: fused against composed, and both against central differences.

use candle_core::{DType, Var};

use super::super::gradient_check::{agree, central_differences, flat, tangents, tangents_agree, wave};
use super::super::rope::{Pairing, RopeConfig, RopeScaling};
use super::*;
use crate::rows::trace_rows;
use ascribe_curvature::{Gradient, Tape};

const LENGTHS: [usize; 3] = [1, 5, 19];

fn shapes() -> Vec<Attention> {
    let base = Attention::causal(2, 6);
    let grouped = Attention { heads: 6, kv_heads: 2, scale: 0.3, ..base.clone() };
    vec![
        base.clone(),
        grouped.clone(),
        Attention { window: Some(4), ..grouped.clone() },
        Attention { mask: Mask::Bidirectional, ..base.clone() },
        Attention { mask: Mask::Bidirectional, window: Some(3), ..grouped.clone() },
        Attention { head_dimension: 33, ..base.clone() },
        // scores of order 2: the cap bends them much
        Attention { soft_cap: Some(1.5), ..base },
        Attention { soft_cap: Some(4.0), window: Some(4), ..grouped },
    ]
}

fn inputs(attention: &Attention, rows: usize) -> Result<[Tensor; 3]> {
    let (wide, narrow) = (attention.heads * attention.head_dimension, attention.kv_heads * attention.head_dimension);
    Ok([
        wave(&[rows, wide], 1)?.affine(2.0, 0.0)?,
        wave(&[rows, narrow], 2)?.affine(2.0, 0.0)?,
        wave(&[rows, narrow], 3)?,
    ])
}

fn rope(attention: &Attention, positions: &Positions, pairing: Pairing) -> RopeTables {
    let rope = match (attention.head_dimension * 7 / 10, RopeScaling::Dynamic { factor: 2.0, longest: 8.0 }) {
        (rotated, scaling) if rotated % 2 == 0 => RopeConfig::new(rotated, 50.0).scaled(scaling),
        (odd, _) => RopeConfig::new(odd - 1, 50.0),
    };
    RopeTables::new(&rope.paired(pairing), positions)
}

/// The definition, one number at a time.
fn definition(attention: &Attention, q: &[f64], k: &[f64], v: &[f64], positions: &Positions) -> Vec<f64> {
    let d = attention.head_dimension;
    let (wide, narrow) = (attention.heads * d, attention.kv_heads * d);
    let mut output = vec![0.0; positions.rows() * wide];
    for rows in positions.iter() {
        for h in 0..attention.heads {
            let g = h * attention.kv_heads / attention.heads;
            for i in rows.clone() {
                let seen: Vec<usize> = rows
                    .clone()
                    .filter(|&j| attention.mask == Mask::Bidirectional || j <= i)
                    .filter(|&j| attention.window.is_none_or(|window| i.abs_diff(j) < window))
                    .collect();
                let score = |j: usize| -> f64 {
                    let s = (0..d).map(|c| q[i * wide + h * d + c] * k[j * narrow + g * d + c]).sum::<f64>();
                    match attention.soft_cap {
                        Some(cap) => cap * (s * attention.scale / cap).tanh(),
                        None => s * attention.scale,
                    }
                };
                let weights: Vec<f64> = seen.iter().map(|&j| score(j).exp()).collect();
                let total: f64 = weights.iter().sum();
                for c in 0..d {
                    let sum: f64 = seen.iter().zip(&weights).map(|(&j, w)| w * v[j * narrow + g * d + c]).sum();
                    output[i * wide + h * d + c] = sum / total;
                }
            }
        }
    }
    output
}

#[test]
fn composed_values_are_the_definition() -> Result<()> {
    let positions = Positions::from_lengths(LENGTHS);
    for attention in shapes() {
        let [q, k, v] = inputs(&attention, positions.rows())?;
        let found = flat(&attention.forward(&q, &k, &v, &positions, None)?)?;
        let want = definition(&attention, &flat(&q)?, &flat(&k)?, &flat(&v)?, &positions);
        for (found, want) in found.iter().zip(&want) {
            assert!((found - want).abs() < 1e-13, "{attention:?}"); // sums of 19 products of order 1
        }
    }
    Ok(())
}

/// Under a window w, transformers shows key k to query q if `k <= q` and `k > q - w` (`masking_utils.py`); ModernBERT,
/// which looks both ways, if `|q - k| <= w'`, here the window `w' + 1`.
#[test]
fn windows_show_the_keys_that_transformers_shows() -> Result<()> {
    let positions = Positions::from_lengths([2, 70]);
    for (mask, window) in [(Mask::Causal, 1), (Mask::Causal, 4), (Mask::Causal, 66), (Mask::Bidirectional, 4)] {
        let attention = Attention { mask, window: Some(window), ..Attention::causal(1, 70) };
        // all scores are 0 and values are one-hot by position: the output is 1/n at the n keys that are seen
        let zero = Tensor::zeros((72, 70), DType::F32, &candle_core::Device::Cpu)?;
        let one_hot: Vec<f32> = (0..72 * 70).map(|i| f32::from((i / 70 + 68) % 70 == i % 70)).collect();
        let v = Tensor::from_vec(one_hot, (72, 70), &candle_core::Device::Cpu)?;
        for implementation in [Implementation::Fused, Implementation::Composed] {
            let y = attention.forward_with(&zero, &zero, &v, &positions, None, implementation)?;
            let y = y.narrow(0, 2, 70)?.to_vec2::<f32>()?;
            let (w, n) = (window as i64, 70);
            for q in 0..n {
                let visible = |k: i64| match mask {
                    Mask::Causal => k <= q && k > q - w,
                    Mask::Bidirectional => (q - k).abs() < w,
                };
                let count = (0..n).filter(|&k| visible(k)).count();
                for k in 0..n {
                    let want = if visible(k) { 1.0 / count as f32 } else { 0.0 };
                    assert!((y[q as usize][k as usize] - want).abs() < 1e-6, "{attention:?}: query {q}, key {k}");
                }
            }
        }
    }
    Ok(())
}

/// GPT-NeoX views its packed projection as `[R, H, 3 d]`.
#[test]
fn heads_packed_by_themselves_are_taken_apart() -> Result<()> {
    let positions = Positions::from_lengths(LENGTHS);
    let attention = Attention::causal(3, 6);
    let tables = rope(&attention, &positions, Pairing::Halves);
    let [q, k, v] = inputs(&attention, positions.rows())?;
    let parts = [&q, &k, &v].map(|x| flat(x).expect("numbers"));
    let (rows, d) = (positions.rows(), 6);
    let packed: Vec<f64> = (0..rows * 3 * 3 * d)
        .map(|i| {
            let (row, head, kind, c) = (i / (9 * d), i / (3 * d) % 3, i / d % 3, i % d);
            parts[kind][row * 3 * d + head * d + c]
        })
        .collect();
    let packed = Tensor::from_vec(packed, (rows, 9 * d), q.device())?;
    let found = flat(&attention.forward_packed_by_head(&packed, &positions, Some(&tables))?)?;
    let want = flat(&attention.forward(&q, &k, &v, &positions, Some(&tables))?)?;
    assert_eq!(found, want);
    Ok(())
}

#[test]
fn composed_gradients_are_central_differences() -> Result<()> {
    let positions = Positions::from_lengths([1, 5]);
    for attention in shapes() {
        for pairing in [Pairing::Halves, Pairing::Neighbours] {
            let rope = rope(&attention, &positions, pairing);
            let [q, k, v] = inputs(&attention, positions.rows())?;
            let run = |q: &Tensor, k: &Tensor, v: &Tensor| attention.forward(q, k, v, &positions, Some(&rope));
            central_differences(&q, |q| run(q, &k, &v), 1e-9)?;
            central_differences(&k, |k| run(&q, k, &v), 1e-9)?;
            central_differences(&v, |v| run(&q, &k, v), 1e-9)?;
        }
    }
    Ok(())
}

#[test]
fn fused_agrees_with_composed() -> Result<()> {
    // 150 positions: three blocks, the last one short; windows that begin inside an earlier block
    let positions = Positions::from_lengths([1, 5, 19, 150, 0, 64]);
    for attention in shapes() {
        for attention in [attention.clone(), Attention { window: attention.window.map(|w| 20 * w), ..attention }] {
            let halves = rope(&attention, &positions, Pairing::Halves);
            let neighbours = rope(&attention, &positions, Pairing::Neighbours);
            let [q, k, v] = inputs(&attention, positions.rows())?;
            for rope in [None, Some(&halves), Some(&neighbours)] {
                agree(
                    &[&q, &k, &v],
                    |x| attention.forward_with(x[0], x[1], x[2], &positions, rope, Implementation::Fused),
                    |x| attention.forward(x[0], x[1], x[2], &positions, rope),
                    // scores of order 10 are rounded to 1.2e-7 of themselves; sums of up to 150 terms
                    1e-5,
                )?;
                let packed = Tensor::cat(&[&q, &k, &v], 1)?;
                agree(
                    &[&packed],
                    |x| attention.forward_packed_with(x[0], &positions, rope, Implementation::Fused),
                    |x| attention.forward_packed(x[0], &positions, rope),
                    1e-5,
                )?;
                if attention.heads == attention.kv_heads {
                    agree(
                        &[&packed],
                        |x| attention.forward_packed_by_head_with(x[0], &positions, rope, Implementation::Fused),
                        |x| attention.forward_packed_by_head(x[0], &positions, rope),
                        1e-5,
                    )?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn results_do_not_depend_on_threads_or_neighbours() -> Result<()> {
    let attention = Attention { heads: 4, kv_heads: 2, ..Attention::causal(4, 24) };
    let positions = Positions::from_lengths([70, 5, 130]);
    let alone = Positions::from_lengths([5]);
    let [q, k, v] = inputs(&attention, positions.rows())?.map(|x| x.to_dtype(DType::F32).expect("a cast"));
    let run = |rows: std::ops::Range<usize>, positions: &Positions| -> Result<Vec<Vec<f64>>> {
        let tables = rope(&attention, positions, Pairing::Halves);
        let x = [&q, &k, &v].map(|x| Var::from_tensor(&x.narrow(0, rows.start, rows.len())?.contiguous()?));
        let [q, k, v] = x;
        let (q, k, v) = (q?, k?, v?);
        let y = attention.forward(&q, &k, &v, positions, Some(&tables))?;
        let gradients = y.sqr()?.sum_all()?.backward()?;
        let mut all = vec![flat(&y)?];
        for x in [&q, &k, &v] {
            all.push(flat(gradients.get(x).expect("differentiable"))?);
        }
        Ok(all)
    };
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    let one = pool(1).install(|| run(0..205, &positions))?;
    let three = pool(3).install(|| run(0..205, &positions))?;
    assert_eq!(one, three);
    let lonely = run(70..75, &alone)?;
    for (all, alone) in one.iter().zip(&lonely) {
        let width = alone.len() / 5;
        assert_eq!(all[70 * width..75 * width], alone[..]);
    }
    Ok(())
}

#[test]
fn senseless_shapes_are_refused() -> Result<()> {
    let positions = Positions::from_lengths([2]);
    let x = wave(&[2, 12], 1)?;
    let attention = Attention { heads: 3, kv_heads: 2, ..Attention::causal(3, 4) };
    assert!(attention.forward(&x, &x, &x, &positions, None).is_err());
    let attention = Attention { window: Some(0), ..Attention::causal(3, 4) };
    assert!(attention.forward(&x, &x, &x, &positions, None).is_err());
    for cap in [0.0, -1.0, f64::NAN] {
        let attention = Attention { soft_cap: Some(cap), ..Attention::causal(3, 4) };
        let error = attention.forward(&x, &x, &x, &positions, None).unwrap_err();
        assert!(error.to_string().contains("scores cannot be capped softly"), "{error}");
    }
    let attention = Attention { heads: 4, kv_heads: 2, ..Attention::causal(4, 2) };
    let packed = wave(&[2, 16], 1)?;
    let error = attention.forward_packed_by_head(&packed, &positions, None).unwrap_err();
    assert!(error.to_string().contains("2 key-value heads are not packed with 4 query heads"), "{error}");
    let attention = Attention::causal(2, 4);
    let error = attention.forward(&x, &x, &x, &positions, None).unwrap_err();
    assert!(error.to_string().contains("q of the shape [2, 12], expected [2, 8]"), "{error}");
    Ok(())
}

/// Rounding to bf16 is half of 2^-8 of each number: a head whose scores are of order 1 moves by about that.
#[test]
fn products_in_bf16_differ_by_their_rounding() -> Result<()> {
    if !Products::Bf16.run_here() {
        return Ok(()); // nothing to test without AVX512-BF16
    }
    let positions = Positions::from_lengths([1, 19, 150]);
    for attention in shapes() {
        let rounded = Attention { products: Products::Bf16, ..attention.clone() };
        let [q, k, v] = inputs(&attention, positions.rows())?.map(|x| x.to_dtype(DType::F32));
        let (q, k, v) = ((q? * 0.2)?, k?, v?);
        let run = |attention: &Attention| -> Result<[Vec<f64>; 2]> {
            let q = Var::from_tensor(&q)?;
            let y = attention.forward_with(&q, &k, &v, &positions, None, Implementation::Fused)?;
            let gradients = (&y * &y)?.sum_all()?.backward()?;
            Ok([flat(&y)?, flat(gradients.get(&q).expect("q is a variable"))?])
        };
        for (found, want) in run(&rounded)?.iter().zip(&run(&attention)?) {
            let largest = want.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            let error = found.iter().zip(want).fold(0.0, |m: f64, (x, y)| m.max((x - y).abs())) / largest;
            assert!(error > 1e-5 && error < 4.0 * 2f64.powi(-8), "{attention:?}: {error}");
        }
    }
    Ok(())
}

#[test]
fn tangents_are_central_differences_and_transposes() -> Result<()> {
    let positions = Positions::from_lengths([1, 4, 6]);
    let single = |x: Tensor| x.to_dtype(DType::F32)?.to_dtype(DType::F64);
    for attention in shapes() {
        let rope = rope(&attention, &positions, Pairing::Halves);
        for rope in [None, Some(&rope)] {
            let [q, k, v] = inputs(&attention, positions.rows())?.map(single);
            let (q, k, v) = (q?, k?, v?);
            let separate = |x: &[Traced]| attention.trace(&x[0], &x[1], &x[2], &positions, rope);
            tangents(&[&q, &k, &v], separate, 1e-8)?;
            // as for gradients in f32: sums of products of order 4, and a softmax of them
            tangents_agree(&[&q, &k, &v], separate, separate, 2e-5)?;
            let packed = Tensor::cat(&[&q, &k, &v], 1)?;
            let by_kind = |x: &[Traced]| attention.trace_packed(&x[0], &positions, rope);
            tangents(&[&packed], by_kind, 1e-8)?;
            if attention.heads == attention.kv_heads {
                let by_head = |x: &[Traced]| attention.trace_packed_by_head(&x[0], &positions, rope);
                tangents(&[&packed], by_head, 1e-8)?;
                tangents_agree(&[&packed], by_head, by_head, 2e-5)?;
            }
        }
    }
    Ok(())
}

const BETWEEN_HEADS: usize = 2;
const BETWEEN_WIDTH: usize = 3;

/// Two examples: 2 queries and 4 keys, 3 queries and 1 key.
fn two_sequences() -> [Positions; 2] {
    [Positions::from_lengths([2, 3]), Positions::from_lengths([4, 1])]
}

fn between_two() -> Attention {
    Attention { scale: 0.7, mask: Mask::Bidirectional, ..Attention::causal(BETWEEN_HEADS, BETWEEN_WIDTH) }
}

/// `softmax(0.7 q kᵀ + bias) v` by loops; all matrices row by row, `bias[h][i][j]` at `[(h · 4 + i) · 4 + j]`.
fn definition_between(q: &[f64], k: &[f64], v: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
    let [queries, keys] = two_sequences();
    let (d, width) = (BETWEEN_WIDTH, BETWEEN_HEADS * BETWEEN_WIDTH);
    let mut y = vec![0.0; queries.rows() * width];
    for (rows, seen) in queries.iter().zip(keys.iter()) {
        for (i, r) in rows.clone().enumerate() {
            for h in 0..BETWEEN_HEADS {
                let score = |j: usize| {
                    let dot: f64 =
                        (0..d).map(|c| q[r * width + h * d + c] * k[(seen.start + j) * width + h * d + c]).sum();
                    0.7 * dot + bias.map_or(0.0, |bias| bias[(h * 4 + i) * 4 + j])
                };
                let sum: f64 = (0..seen.len()).map(|j| score(j).exp()).sum();
                for c in 0..d {
                    y[r * width + h * d + c] =
                        (0..seen.len()).map(|j| score(j).exp() / sum * v[(seen.start + j) * width + h * d + c]).sum();
                }
            }
        }
    }
    y
}

/// Values, gradients at queries, keys and values, and tangents, all against the definition.
#[test]
fn attention_between_two_sequences_is_its_definition() -> Result<()> {
    let [queries, keys] = two_sequences();
    let width = BETWEEN_HEADS * BETWEEN_WIDTH;
    let (q, k, v) = (wave(&[5, width], 1)?, wave(&[5, width], 2)?, wave(&[5, width], 3)?);
    let seed = wave(&[5, width], 4)?;
    let table = wave(&[BETWEEN_HEADS, 4, 4], 5)?;
    for bias in [None, Some(&table)] {
        let between = Between { bias, keys: &keys, ..Between::within(&queries, None) };
        let bias = bias.map(flat).transpose()?;
        let all = [flat(&q)?, flat(&k)?, flat(&v)?];
        let run = |all: &[Vec<f64>; 3]| definition_between(&all[0], &all[1], &all[2], bias.as_deref());
        let want = run(&all);
        let tape = Tape::default();
        // all three stand in one input, so that one pass gives all gradients
        let input = tape.input(Tensor::cat(&[&q, &k, &v], 0)?, Gradient::Wanted);
        let part = |n: usize| trace_rows(&input, 5 * n, 5);
        let y = between_two().trace_between([&part(0)?, &part(1)?, &part(2)?], between)?;
        for (found, want) in flat(y.value())?.iter().zip(&want) {
            assert!((found - want).abs() < 1e-13, "{found} {want}");
        }
        let found = flat(&tape.backward(&input, &y, seed.clone())?.expect("wanted"))?;
        let (seeds, step) = (flat(&seed)?, 1e-5);
        let mut moving = vec![0.0; want.len()];
        for (place, found) in found.iter().enumerate() {
            let (n, i) = (place / (5 * width), place % (5 * width));
            let at = |step: f64| {
                let mut all = all.clone();
                all[n][i] += step;
                run(&all)
            };
            let slopes: Vec<f64> =
                at(step).iter().zip(at(-step)).map(|(up, down)| (up - down) / (2.0 * step)).collect();
            let want: f64 = slopes.iter().zip(&seeds).map(|(slope, seed)| slope * seed).sum();
            assert!((found - want).abs() < 1e-8, "[{n}][{i}]: {found} {want}"); // h² + ε/h
            let direction = (place as f64 * 0.9).cos();
            moving.iter_mut().zip(&slopes).for_each(|(sum, slope)| *sum += direction * slope);
        }
        let direction: Vec<f64> = (0..15 * width).map(|place| (place as f64 * 0.9).cos()).collect();
        let direction = Tensor::from_vec(direction, (15, width), q.device())?;
        // two directions, the second of which is twice the first
        let both = Tensor::cat(&[&direction, &direction.affine(2.0, 0.0)?], 0)?;
        let input = Traced::constant(Tensor::cat(&[&q, &k, &v], 0)?).moving(Some(both))?;
        let part = |n: usize| trace_rows(&input, 5 * n, 5);
        let y = between_two().trace_between([&part(0)?, &part(1)?, &part(2)?], between)?;
        let found = flat(y.tangents().expect("the inputs move"))?;
        for (i, found) in found.iter().enumerate() {
            let want = moving[i % moving.len()] * (1 + i / moving.len()) as f64;
            assert!((found - want).abs() < 1e-7, "{i}: {found} {want}");
        }
    }
    Ok(())
}

/// Blocks of queries over fewer and over more keys, and biases under a mask, a window, a cap and with shared keys.
#[test]
fn fused_agrees_with_composed_between_two_sequences() -> Result<()> {
    let same = Positions::from_lengths([1, 19, 150]);
    let other = Positions::from_lengths([70, 3, 90]);
    let bidirectional = Attention { mask: Mask::Bidirectional, ..Attention::causal(2, 6) };
    let grouped = Attention { heads: 6, kv_heads: 2, scale: 0.3, ..bidirectional.clone() };
    let cases = [
        (bidirectional.clone(), &other),
        (grouped.clone(), &other),
        (Attention { scale: 1.0, ..bidirectional.clone() }, &same),
        (Attention { mask: Mask::Causal, ..grouped.clone() }, &same),
        (Attention { window: Some(30), ..bidirectional.clone() }, &same),
        (Attention { soft_cap: Some(1.5), ..bidirectional }, &other),
    ];
    for (attention, keys) in cases {
        // rows and columns beyond those that are needed
        let bias = wave(&[attention.heads, 152, 151], 7)?;
        for bias in [None, Some(&bias)] {
            let q = inputs(&attention, same.rows())?[0].clone();
            let [_, k, v] = inputs(&attention, keys.rows())?;
            let run = |x: &[&Tensor], implementation| {
                let bias = bias.map(|bias| bias.to_dtype(x[0].dtype())).transpose()?;
                let between = Between { keys, bias: bias.as_ref(), ..Between::within(&same, None) };
                attention.between_with([x[0], x[1], x[2]], between, implementation)
            };
            // scores of order 10 are rounded to 1.2e-7 of themselves; sums of up to 150 terms
            agree(&[&q, &k, &v], |x| run(x, Implementation::Fused), |x| run(x, Implementation::Composed), 1e-5)?;
        }
    }
    Ok(())
}

#[test]
fn sequences_that_do_not_belong_together_are_refused() -> Result<()> {
    let [queries, keys] = two_sequences();
    let x = Traced::constant(wave(&[5, BETWEEN_HEADS * BETWEEN_WIDTH], 1)?);
    let run = |attention: Attention, between: Between<'_>| {
        attention.trace_between([&x, &x, &x], between).expect_err("refused").to_string()
    };
    let between = Between { keys: &keys, ..Between::within(&queries, None) };
    let causal = Attention { mask: Mask::Causal, ..between_two() };
    assert!(run(causal, between).contains("a mask or window as many of both"));
    let windowed = Attention { window: Some(2), ..between_two() };
    assert!(run(windowed, between).contains("a mask or window as many of both"));
    let none = Positions::from_lengths([5, 0]);
    assert!(run(between_two(), Between { keys: &none, ..between }).contains("of the same examples"));
    let small = wave(&[BETWEEN_HEADS, 2, 2], 1)?;
    let error = run(between_two(), Between { bias: Some(&small), ..between });
    assert!(error.contains("bias of the shape [2, 2, 2], expected at least [2, 3, 4]"), "{error}");
    Ok(())
}
