//! Attention of T5 (Raffel et al. 2020, section 2.1): from the positions of one sequence to those of the same or of another
//! one, with a bias by distance in place of embeddings of positions.
//!
//! The attention is composed of candle's ops, an example at a time. On the CPU the backward pass forms scores again, so
//! that nothing but queries, keys, values and outputs is kept; elsewhere candle differentiates.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, D, DType, Device, Layout, Result, Shape, Tensor};

use super::attention::Mask;
use super::implementation::elements;
use ascribe_curvature::{Positions, TangentRule, Traced};

/// `softmax(q kᵀ + bias) v` within each example and head, with queries of one sequence and keys of another.
///
/// # Shapes
/// `q: [R, heads · d]` at the rows of the queries, `k` and `v`: `[S, heads · d]` at those of the keys, the output as `q`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BiasedAttention {
    /// H.
    pub heads: usize,
    /// Width of a head, d.
    pub head_dimension: usize,
}

/// Whose the rows of queries and of keys are, and what is added to their scores.
#[derive(Debug, Clone, Copy)]
pub struct Between<'a> {
    /// Rows of queries.
    pub queries: &'a Positions,
    /// Rows of keys, of as many examples.
    pub keys: &'a Positions,
    /// `[H, T, T]` of the longest example, of which a shorter one has the first rows and columns; none: nothing is added,
    /// and every key is seen.
    pub bias: Option<&'a Tensor>,
}

impl BiasedAttention {
    /// Attends.
    ///
    /// # Errors
    /// If the shapes do not fit each other or the positions.
    pub fn trace(&self, [q, k, v]: [&Traced; 3], between: Between<'_>) -> Result<Traced> {
        self.check([q.value(), k.value(), v.value()], between)?;
        let tangent = |values: [&Tensor; 3], moving: [&Tensor; 3]| self.tangent(values, moving, between);
        let rule = TangentRule::Each(&tangent);
        if q.value().device().is_cpu() {
            let Between { queries, keys, bias } = between;
            let (queries, keys) = (queries.clone(), keys.clone());
            return q.op3_with(k, v, Op { attention: self.clone(), queries, keys, bias: bias.cloned() }, rule);
        }
        Traced::composed_with([q, k, v], |values| self.forward(values, between), rule)
    }

    fn forward(&self, values: [&Tensor; 3], between: Between<'_>) -> Result<Tensor> {
        self.by_example(between, |rows| {
            let [q, k, v] = self.heads_of(values, rows)?;
            self.probabilities(&q, &k, between.bias)?.matmul(&v)
        })
    }

    /// Gradients at queries, keys and values from the one at the output: with `p = softmax(q kᵀ + bias)` and `s` at the
    /// output, `pᵀ s` at the values, and with `u = p ⊙ (s vᵀ - Σ p ⊙ s vᵀ)` at the scores `u k` and `uᵀ q`.
    fn backward(&self, values: [&Tensor; 3], gradient: &Tensor, between: Between<'_>) -> Result<[Tensor; 3]> {
        let mut parts = [const { vec![] }; 3];
        for (queries, keys) in between.queries.iter().zip(between.keys.iter()) {
            let [q, k, v] = self.heads_of(values, [queries.clone(), keys])?;
            let s = self.by_head(gradient, &queries)?;
            let p = self.probabilities(&q, &k, between.bias)?;
            let at_p = scores(&s, &v)?;
            let along = (&p * &at_p)?.sum_keepdim(D::Minus1)?;
            let u = (&p * at_p.broadcast_sub(&along)?)?;
            let turned = |x: &Tensor| x.transpose(1, 2)?.contiguous();
            let found = [u.matmul(&k)?, turned(&u)?.matmul(&q)?, turned(&p)?.matmul(&s)?];
            for (parts, found) in parts.iter_mut().zip(found) {
                parts.push(self.joined(&found)?);
            }
        }
        let [q, k, v] = parts.map(|parts| Tensor::cat(&parts, 0));
        Ok([q?, k?, v?])
    }

    /// The movement of the output for one movement of queries, keys and values: with `p = softmax(u)`,
    /// `ṗ = p ⊙ (u̇ - Σ p ⊙ u̇)`, and `p v` moves by `ṗ v + p v̇`.
    fn tangent(&self, values: [&Tensor; 3], moving: [&Tensor; 3], between: Between<'_>) -> Result<Tensor> {
        self.by_example(between, |rows| {
            let [q, k, v] = self.heads_of(values, rows.clone())?;
            let [q_moving, k_moving, v_moving] = self.heads_of(moving, rows)?;
            let moves = (scores(&q_moving, &k)? + scores(&q, &k_moving)?)?;
            let p = self.probabilities(&q, &k, between.bias)?;
            let along = (&p * &moves)?.sum_keepdim(D::Minus1)?;
            let p_moving = (&p * moves.broadcast_sub(&along)?)?;
            p_moving.matmul(&v)? + p.matmul(&v_moving)?
        })
    }

    /// What `f` makes of the rows of queries and of keys of each example, `[H, T, d]`, one example below the other.
    fn by_example(&self, between: Between<'_>, f: impl Fn([Range<usize>; 2]) -> Result<Tensor>) -> Result<Tensor> {
        let pairs = between.queries.iter().zip(between.keys.iter());
        let outputs = pairs.map(|(queries, keys)| self.joined(&f([queries, keys])?)).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&outputs, 0)
    }

    /// `[H, T, d]` to `[T, H · d]`.
    fn joined(&self, of_heads: &Tensor) -> Result<Tensor> {
        let length = of_heads.dim(1)?;
        of_heads.transpose(0, 1)?.contiguous()?.reshape((length, self.heads * self.head_dimension))
    }

    /// Rows of one example by head, `[H, T, d]`.
    fn by_head(&self, x: &Tensor, rows: &Range<usize>) -> Result<Tensor> {
        let x = x.narrow(0, rows.start, rows.len())?.reshape((rows.len(), self.heads, self.head_dimension))?;
        x.transpose(0, 1)?.contiguous()
    }

    /// Queries, keys and values of one example by head, `[H, T, d]`.
    fn heads_of(&self, [q, k, v]: [&Tensor; 3], [queries, keys]: [Range<usize>; 2]) -> Result<[Tensor; 3]> {
        Ok([self.by_head(q, &queries)?, self.by_head(k, &keys)?, self.by_head(v, &keys)?])
    }

    /// What each query sees of the keys, `[H, T, S]`.
    fn probabilities(&self, q: &Tensor, k: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut scores = scores(q, k)?;
        if let Some(bias) = bias {
            let (_, queries, keys) = scores.dims3()?;
            scores = (scores + bias.narrow(1, 0, queries)?.narrow(2, 0, keys)?)?;
        }
        let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
    }

    fn check(&self, [q, k, v]: [&Tensor; 3], Between { queries, keys, bias }: Between<'_>) -> Result<()> {
        let width = self.heads * self.head_dimension;
        for (name, x, rows) in [("q", q, queries.rows()), ("k", k, keys.rows()), ("v", v, keys.rows())] {
            if x.dims() != [rows, width] {
                candle_core::bail!("attention got {name} of the shape {:?}, expected {:?}", x.dims(), [rows, width]);
            }
        }
        let no_rows = |positions: &Positions| positions.iter().any(|rows| rows.is_empty());
        if queries.examples() != keys.examples() || no_rows(queries) || no_rows(keys) {
            candle_core::bail!(
                "attention needs positions of the same examples on both sides, and one of each at least"
            );
        }
        let needed = [self.heads, queries.longest(), keys.longest()];
        if let Some(bias) = bias
            && (bias.rank() != 3 || bias.dims().iter().zip(needed).any(|(&found, needed)| found < needed))
        {
            candle_core::bail!("attention got a bias of the shape {:?}, expected at least {needed:?}", bias.dims());
        }
        Ok(())
    }
}

/// Attention with the backward pass of its own, on the CPU.
struct Op {
    attention: BiasedAttention,
    queries: Positions,
    keys: Positions,
    bias: Option<Tensor>,
}

impl Op {
    fn between(&self) -> Between<'_> {
        Between { queries: &self.queries, keys: &self.keys, bias: self.bias.as_ref() }
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "biased-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let [q, k, v] = [tensor(q, q_layout)?, tensor(k, k_layout)?, tensor(v, v_layout)?];
        let y = self.attention.forward([&q, &k, &v], self.between())?;
        let shape = y.shape().clone();
        let y = y.flatten_all()?;
        let storage = match y.dtype() {
            DType::F64 => CpuStorage::F64(y.to_vec1()?),
            _ => CpuStorage::F32(y.to_vec1()?),
        };
        Ok((storage, shape))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _output: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [q, k, v] = self.attention.backward([q, k, v], gradient, self.between())?;
        Ok((Some(q), Some(k), Some(v)))
    }
}

/// A copy of a contiguous storage.
fn tensor(storage: &CpuStorage, layout: &Layout) -> Result<Tensor> {
    let shape = layout.shape().clone();
    match storage {
        CpuStorage::F64(_) => Tensor::from_slice(elements::<f64>(storage, layout)?, shape, &Device::Cpu),
        _ => Tensor::from_slice(elements::<f32>(storage, layout)?, shape, &Device::Cpu),
    }
}

/// `q kᵀ`, by head.
fn scores(q: &Tensor, k: &Tensor) -> Result<Tensor> {
    q.matmul(&k.transpose(1, 2)?.contiguous()?)
}

/// Which distances have one bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelativeBuckets {
    /// Rows of the table of biases.
    pub count: usize,
    /// The distance from which on all have one bucket.
    pub max_distance: usize,
    /// Whether keys behind the query are seen; then half of the buckets are theirs.
    pub mask: Mask,
}

impl RelativeBuckets {
    /// Whether there are buckets for distances of their own and for ranges of them, and the ranges do not end before they
    /// begin.
    pub fn are_sound(self) -> bool {
        let exact = self.of_side() / 2;
        exact > 0 && self.max_distance > exact
    }

    /// Buckets of keys to one side of the query.
    fn of_side(self) -> usize {
        match self.mask {
            Mask::Causal => self.count,
            Mask::Bidirectional => self.count / 2,
        }
    }

    /// The bucket of a key at this place as seen from the query.
    ///
    /// Near keys have a bucket for each distance, farther ones share buckets of logarithmic width. The logarithm is
    /// taken in `f32`, as transformers does: at the edge of a bucket it decides.
    pub fn of(self, query: usize, key: usize) -> usize {
        let side = self.of_side();
        let (first, distance) = match self.mask {
            Mask::Causal => (0, query.saturating_sub(key)),
            Mask::Bidirectional => (if key > query { side } else { 0 }, query.abs_diff(key)),
        };
        let exact = side / 2;
        if distance < exact {
            return first + distance;
        }
        let range = (self.max_distance as f64 / exact as f64).ln() as f32;
        let along = (distance as f32 / exact as f32).ln() / range * (side - exact) as f32;
        first + (exact + along as usize).min(side - 1)
    }

    /// What is added to the scores of an example of `length` positions, `[H, T, T]`, from a table `[buckets, H]`: minus
    /// infinity where a key is not seen.
    ///
    /// # Errors
    /// If the table has fewer rows than there are buckets.
    pub fn bias(self, table: &Tensor, length: usize) -> Result<Tensor> {
        let (_, heads) = table.dims2()?;
        let buckets: Vec<u32> = (0..length).flat_map(|i| (0..length).map(move |j| self.of(i, j) as u32)).collect();
        let buckets = Tensor::from_vec(buckets, length * length, table.device())?;
        let bias = table.index_select(&buckets, 0)?.t()?.contiguous()?.reshape((heads, length, length))?;
        if self.mask == Mask::Bidirectional {
            return Ok(bias);
        }
        let hidden: Vec<f64> =
            (0..length).flat_map(|i| (0..length).map(move |j| if j > i { f64::NEG_INFINITY } else { 0.0 })).collect();
        let hidden = Tensor::from_vec(hidden, (1, length, length), &Device::Cpu)?.to_dtype(table.dtype())?;
        bias.broadcast_add(&hidden.to_device(table.device())?)
    }
}

/// Rows of `x` from `first` on, `[count, D]`.
///
/// # Errors
/// If there are fewer rows.
pub fn trace_rows(x: &Traced, first: usize, count: usize) -> Result<Traced> {
    let part = |x: &Tensor| x.narrow(0, first, count)?.contiguous();
    let tangent = |_: [&Tensor; 1], [moving]: [&Tensor; 1]| part(moving);
    Traced::composed_with([x], |[x]| part(x), TangentRule::Each(&tangent))
}

/// The rows of `above`, and those of `below` under them.
///
/// # Errors
/// If they have different widths.
pub fn trace_stacked(above: &Traced, below: &Traced) -> Result<Traced> {
    let tangent = |_: [&Tensor; 2], moving: [&Tensor; 2]| Tensor::cat(&moving, 0);
    Traced::composed_with([above, below], |both| Tensor::cat(&both, 0), TangentRule::Each(&tangent))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use candle_core::Var;

    use super::super::gradient_check::{flat, wave};
    use super::*;
    use ascribe_curvature::{Gradient, Tape};

    const HEADS: usize = 2;
    const D: usize = 3;

    fn attention() -> BiasedAttention {
        BiasedAttention { heads: HEADS, head_dimension: D }
    }

    /// Two examples: 2 queries and 4 keys, 3 queries and 1 key.
    fn positions() -> [Positions; 2] {
        [Positions::from_lengths([2, 3]), Positions::from_lengths([4, 1])]
    }

    /// `softmax(q kᵀ + bias) v` by loops; all matrices row by row, `bias[h][i][j]` at `[(h · 4 + i) · 4 + j]`.
    fn definition(q: &[f64], k: &[f64], v: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
        let [queries, keys] = positions();
        let width = HEADS * D;
        let mut y = vec![0.0; queries.rows() * width];
        for (rows, seen) in queries.iter().zip(keys.iter()) {
            for (i, r) in rows.clone().enumerate() {
                for h in 0..HEADS {
                    let score = |j: usize| {
                        let dot: f64 =
                            (0..D).map(|c| q[r * width + h * D + c] * k[(seen.start + j) * width + h * D + c]).sum();
                        dot + bias.map_or(0.0, |bias| bias[(h * 4 + i) * 4 + j])
                    };
                    let sum: f64 = (0..seen.len()).map(|j| score(j).exp()).sum();
                    for c in 0..D {
                        y[r * width + h * D + c] = (0..seen.len())
                            .map(|j| score(j).exp() / sum * v[(seen.start + j) * width + h * D + c])
                            .sum();
                    }
                }
            }
        }
        y
    }

    /// Values, gradients at queries, keys and values, and tangents, all against the definition.
    #[test]
    fn attention_between_two_sequences_is_its_definition() -> Result<()> {
        let [queries, keys] = positions();
        let width = HEADS * D;
        let (q, k, v) = (wave(&[5, width], 1)?, wave(&[5, width], 2)?, wave(&[5, width], 3)?);
        let seed = wave(&[5, width], 4)?;
        let table = wave(&[HEADS, 4, 4], 5)?;
        for bias in [None, Some(&table)] {
            let between = Between { queries: &queries, keys: &keys, bias };
            let bias = bias.map(flat).transpose()?;
            let all = [flat(&q)?, flat(&k)?, flat(&v)?];
            let run = |all: &[Vec<f64>; 3]| definition(&all[0], &all[1], &all[2], bias.as_deref());
            let want = run(&all);
            let tape = Tape::default();
            // all three stand in one input, so that one pass gives all gradients
            let input = tape.input(Tensor::cat(&[&q, &k, &v], 0)?, Gradient::Wanted);
            let part = |n: usize| trace_rows(&input, 5 * n, 5);
            let y = attention().trace([&part(0)?, &part(1)?, &part(2)?], between)?;
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
            let direction = Tensor::from_vec(direction, (15, width), &Device::Cpu)?;
            // two directions, the second of which is twice the first
            let both = Tensor::cat(&[&direction, &direction.affine(2.0, 0.0)?], 0)?;
            let input = Traced::constant(Tensor::cat(&[&q, &k, &v], 0)?).moving(Some(both))?;
            let part = |n: usize| trace_rows(&input, 5 * n, 5);
            let y = attention().trace([&part(0)?, &part(1)?, &part(2)?], between)?;
            let found = flat(y.tangents().expect("the inputs move"))?;
            for (i, found) in found.iter().enumerate() {
                let want = moving[i % moving.len()] * (1 + i / moving.len()) as f64;
                assert!((found - want).abs() < 1e-7, "{i}: {found} {want}");
            }
        }
        Ok(())
    }

    /// What runs where there is no CPU differentiates alike.
    #[test]
    fn both_backward_passes_agree() -> Result<()> {
        let [queries, keys] = positions();
        let width = HEADS * D;
        let table = wave(&[HEADS, 4, 4], 5)?;
        let between = Between { queries: &queries, keys: &keys, bias: Some(&table) };
        let values = [1, 2, 3].map(|shift| Var::from_tensor(&wave(&[5, width], shift).unwrap()).unwrap());
        let [q, k, v] = values.each_ref().map(|var| var.as_tensor());
        let seed = wave(&[5, width], 4)?;
        let store = (attention().forward([q, k, v], between)? * &seed)?.sum_all()?.backward()?;
        let found = attention().backward([q, k, v], &seed, between)?;
        for (found, value) in found.iter().zip([q, k, v]) {
            for (found, want) in flat(found)?.iter().zip(flat(store.get(value).expect("a gradient"))?) {
                assert!((found - want).abs() < 1e-14, "{found} {want}");
            }
        }
        Ok(())
    }

    #[test]
    fn rows_that_were_apart_are_one_below_the_other() -> Result<()> {
        let x = wave(&[5, 2], 1)?;
        let tape = Tape::default();
        let input = tape.input(x.clone(), Gradient::Wanted);
        let turned = trace_stacked(&trace_rows(&input, 3, 2)?, &trace_rows(&input, 0, 3)?)?;
        let want = Tensor::cat(&[x.narrow(0, 3, 2)?, x.narrow(0, 0, 3)?], 0)?;
        assert_eq!(flat(turned.value())?, flat(&want)?);
        let seed = wave(&[5, 2], 2)?;
        let found = tape.backward(&input, &turned, seed.clone())?.expect("wanted");
        let want = Tensor::cat(&[seed.narrow(0, 2, 3)?, seed.narrow(0, 0, 2)?], 0)?;
        assert_eq!(flat(&found)?, flat(&want)?);
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() -> Result<()> {
        let [queries, keys] = positions();
        let x = Traced::constant(wave(&[5, HEADS * D], 1)?);
        let narrow = Traced::constant(wave(&[5, D], 1)?);
        let small = wave(&[HEADS, 2, 2], 1)?;
        let between = Between { queries: &queries, keys: &keys, bias: None };
        let error = attention().trace([&narrow, &x, &x], between).unwrap_err();
        assert!(error.to_string().contains("q of the shape [5, 3], expected [5, 6]"), "{error}");
        let error = attention().trace([&x, &x, &x], Between { bias: Some(&small), ..between }).unwrap_err();
        assert!(error.to_string().contains("bias of the shape [2, 2, 2], expected at least [2, 3, 4]"), "{error}");
        let none = Positions::from_lengths([5, 0]);
        let error = attention().trace([&x, &x, &x], Between { keys: &none, ..between }).unwrap_err();
        assert!(error.to_string().contains("one of each at least"), "{error}");
        Ok(())
    }

    /// The first distance of each bucket, as `T5Attention._relative_position_bucket` of transformers 5.23 has them.
    #[test]
    fn buckets_begin_where_those_of_transformers_do() {
        for (count, max_distance, mask, first) in BUCKETS {
            let buckets = RelativeBuckets { count, max_distance, mask };
            assert!(buckets.are_sound());
            for distance in 0..300 {
                let want = first.iter().rposition(|&first| first <= distance).unwrap();
                // to the left, and to the right
                assert_eq!(buckets.of(distance, 0), want, "{count}, {max_distance}, {mask:?}, {distance}");
                let right = match mask {
                    Mask::Causal => 0,
                    Mask::Bidirectional if distance > 0 => want + count / 2,
                    Mask::Bidirectional => 0,
                };
                assert_eq!(buckets.of(0, distance), right, "{count}, {max_distance}, {mask:?}, {distance}");
            }
        }
        for (count, max_distance) in [(2, 128), (32, 8), (32, 16)] {
            let mask = if max_distance == 16 { Mask::Causal } else { Mask::Bidirectional };
            assert!(!RelativeBuckets { count, max_distance, mask }.are_sound());
        }
    }

    /// Each key's row of the table stands at its place, and keys behind the query are hidden from a decoder.
    #[test]
    fn biases_are_the_rows_of_the_table() -> Result<()> {
        let table = wave(&[8, 3], 1)?;
        let rows = table.to_vec2::<f64>()?;
        for mask in [Mask::Causal, Mask::Bidirectional] {
            let buckets = RelativeBuckets { count: 8, max_distance: 20, mask };
            let bias = buckets.bias(&table, 5)?;
            assert_eq!((bias.dims(), bias.dtype()), (&[3, 5, 5][..], DType::F64));
            for (h, of_head) in bias.to_vec3::<f64>()?.iter().enumerate() {
                for (i, row) in of_head.iter().enumerate() {
                    for (j, &found) in row.iter().enumerate() {
                        let hidden = mask == Mask::Causal && j > i;
                        let want = if hidden { f64::NEG_INFINITY } else { rows[buckets.of(i, j)][h] };
                        assert_eq!(found, want, "{mask:?} [{h}, {i}, {j}]");
                    }
                }
            }
        }
        Ok(())
    }

    /// Buckets, largest distance, mask, and the first distance to the left of each bucket that has one.
    const BUCKETS: [(usize, usize, Mask, &[usize]); 5] = [
        (32, 128, Mask::Bidirectional, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]),
        (
            32,
            128,
            Mask::Causal,
            &[
                0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67,
                77, 87, 99, 113,
            ],
        ),
        (8, 20, Mask::Causal, &[0, 1, 2, 3, 4, 6, 9, 14]),
        (12, 50, Mask::Bidirectional, &[0, 1, 2, 3, 8, 20]),
        (32, 100, Mask::Bidirectional, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 21, 29, 39, 54, 73]),
    ];
}
