//! Which experts see which tokens, and how their outputs become one again: the parts of a mixture of experts
//! (Shazeer et al. 2017, section 2) between its linear layers.
//!
//! The choice of experts is not differentiated; the weights of the chosen ones are, through the softmax.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use ascribe_curvature::{Positions, TangentRule, Traced};

/// By what the softmax of a router divides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertWeights {
    /// The sum over all experts: the weights of the chosen ones add up to less than 1.
    OfAll,
    /// The sum over the chosen experts: their weights add up to 1.
    OfChosen,
}

/// For every row of a batch the experts that see it, the most probable ones.
#[derive(Debug, Clone)]
pub struct Routes {
    /// Experts of each row, `[R, k]`.
    chosen: Tensor,
    /// Rows in the order of the experts that see them, `[R k]`.
    rows: Tensor,
    /// The places of each row's experts among `rows`, `[R k]`.
    places: Tensor,
    lengths: Vec<usize>,
    positions: Vec<Arc<Positions>>,
}

impl Routes {
    /// The `k` experts with the largest logits of every row; of equal ones the first.
    ///
    /// # Shapes
    /// `logits: [R, E]`, `positions` those of the R rows.
    ///
    /// # Errors
    /// If there are fewer than `k` experts, or `positions` has another number of rows.
    pub fn new(logits: &Tensor, k: usize, positions: &Positions) -> Result<Self> {
        let (count, experts) = logits.dims2()?;
        if k == 0 || k > experts || positions.rows() != count {
            candle_core::bail!("{k} of {experts} experts for {count} rows of {}", positions.rows());
        }
        let values = logits.to_dtype(DType::F64)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f64>()?;
        let mut chosen: Vec<u32> = Vec::with_capacity(count * k);
        for logits in values.chunks_exact(experts) {
            let mut order: Vec<u32> = (0..experts as u32).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
            chosen.extend(&order[..k]);
        }
        let mut lengths = vec![0; experts];
        chosen.iter().for_each(|&expert| lengths[expert as usize] += 1);
        let mut next: Vec<usize> = lengths
            .iter()
            .scan(0, |start, length| {
                *start += length;
                Some(*start - length)
            })
            .collect();
        let (mut rows, mut at) = (vec![0u32; count * k], vec![0u32; count * k]);
        for (choice, &expert) in chosen.iter().enumerate() {
            let place = &mut next[expert as usize];
            (rows[*place], at[choice]) = ((choice / k) as u32, *place as u32);
            *place += 1;
        }
        let mut seen = vec![vec![0; positions.examples()]; experts];
        for (example, of) in positions.iter().enumerate() {
            chosen[of.start * k..of.end * k].iter().for_each(|&expert| seen[expert as usize][example] += 1);
        }
        let device = logits.device();
        let places: Vec<usize> = match positions.places() {
            Some(places) => rows.iter().map(|&row| places[row as usize]).collect(),
            None => rows.iter().map(|&row| row as usize).collect(),
        };
        let mut start = 0;
        let of_experts = seen.into_iter().map(|lengths| {
            let positions = Positions::from_lengths(lengths);
            let own = start..start + positions.rows();
            start = own.end;
            Arc::new(positions.at_places(places[own].iter().copied()))
        });
        let of_experts = of_experts.collect();
        Ok(Self {
            chosen: Tensor::from_vec(chosen, (count, k), device)?,
            rows: Tensor::from_vec(rows, count * k, device)?,
            places: Tensor::from_vec(at, count * k, device)?,
            lengths,
            positions: of_experts,
        })
    }

    /// How many rows each expert sees.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Whose the rows of an expert are.
    ///
    /// # Panics
    /// If there is no such expert.
    pub fn positions(&self, expert: usize) -> &Arc<Positions> {
        &self.positions[expert]
    }

    /// The rows that the experts see, those of the first expert first: `[R, D]` to `[R k, D]`.
    ///
    /// # Errors
    /// If `x` has another number of rows.
    pub fn dispatch(&self, x: &Traced) -> Result<Traced> {
        x.linear_map(|x| x.index_select(&self.rows, 0))
    }

    /// The sum of each row's experts, each times its weight: `[R k, D]` in the order of [`Routes::dispatch`] and the
    /// logits `[R, E]` to `[R, D]`.
    ///
    /// # Errors
    /// If the shapes are others.
    pub fn combine(&self, outputs: &Traced, logits: &Traced, weights: ExpertWeights) -> Result<Traced> {
        let rule = |[outputs, logits]: [&Tensor; 2], [outputs_moving, logits_moving]: [&Tensor; 2]| {
            let moving = self.weights_moving(logits, logits_moving, weights)?;
            let weights = self.weights(logits, weights)?;
            self.weighted(outputs_moving, &weights)? + self.weighted(outputs, &moving)?
        };
        let combined = |[outputs, logits]: [&Tensor; 2]| self.weighted(outputs, &self.weights(logits, weights)?);
        Traced::composed_with([outputs, logits], combined, TangentRule::Each(&rule))
    }

    /// The weights of every row's chosen experts, `[R, k]`.
    fn weights(&self, logits: &Tensor, weights: ExpertWeights) -> Result<Tensor> {
        let largest = logits.detach().max_keepdim(1)?;
        let powers = logits.broadcast_sub(&largest)?.exp()?;
        let of_chosen = powers.gather(&self.chosen, 1)?;
        let sum = match weights {
            ExpertWeights::OfAll => powers.sum_keepdim(1)?,
            ExpertWeights::OfChosen => of_chosen.sum_keepdim(1)?,
        };
        of_chosen.broadcast_div(&sum)
    }

    /// The movement of the weights `w` for one movement `l̇` of the logits, `ẇ = w ⊙ (l̇ - Σ p l̇)`, with `p` the softmax
    /// over all experts or over the chosen ones. The choice itself does not move.
    fn weights_moving(&self, logits: &Tensor, moving: &Tensor, weights: ExpertWeights) -> Result<Tensor> {
        let of_chosen = self.weights(logits, weights)?;
        let moving_chosen = moving.gather(&self.chosen, 1)?;
        let mean = match weights {
            ExpertWeights::OfChosen => (&of_chosen * &moving_chosen)?.sum_keepdim(1)?,
            ExpertWeights::OfAll => {
                let powers = logits.broadcast_sub(&logits.max_keepdim(1)?)?.exp()?;
                (powers.broadcast_div(&powers.sum_keepdim(1)?)? * moving)?.sum_keepdim(1)?
            }
        };
        of_chosen * moving_chosen.broadcast_sub(&mean)?
    }

    /// The sum of each row's experts `[R k, D]` with these weights `[R, k]`.
    fn weighted(&self, outputs: &Tensor, weights: &Tensor) -> Result<Tensor> {
        let (rows, k) = weights.dims2()?;
        let by_row = outputs.index_select(&self.places, 0)?.reshape((rows, k, ()))?; // [R, k, D]
        by_row.broadcast_mul(&weights.unsqueeze(2)?)?.sum(1)
    }
}

/// Every row of `x: [R, D]` times the logistic function of its gate `[R, 1]`.
///
/// # Errors
/// If the shapes are others.
pub fn trace_sigmoid_gated(gate: &Traced, x: &Traced) -> Result<Traced> {
    // 1/(1 + e⁻ᵍ), which overflows nowhere in this form
    let sigmoid = |gate: &Tensor| ((gate * 0.5)?.tanh()? * 0.5)?.affine(1.0, 0.5);
    let rule = |[gate, x]: [&Tensor; 2], [gate_moving, x_moving]: [&Tensor; 2]| {
        let sigmoid = sigmoid(gate)?;
        let slopes = (&sigmoid * sigmoid.affine(-1.0, 1.0)?)?;
        x_moving.broadcast_mul(&sigmoid)? + x.broadcast_mul(&(slopes * gate_moving)?)?
    };
    Traced::composed_with([gate, x], |[gate, x]| x.broadcast_mul(&sigmoid(gate)?), TangentRule::Each(&rule))
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::tangents;
    use super::*;
    use ascribe_curvature::{Gradient, Tape};

    const ROWS: usize = 5;
    const EXPERTS: usize = 4;
    const K: usize = 2;

    fn numbers(n: usize, step: f64) -> Vec<f64> {
        (0..n).map(|k| (k as f64 * step + 0.2).sin() * 1.5).collect()
    }

    /// The definition: `y_t = Σ_{e chosen} w_e(t) f_e(x_t)` with `f_e(x) = (e + 1) x + x²`, and none of expert 3.
    fn definition(x: &[f64], logits: &[f64], weights: ExpertWeights) -> Vec<f64> {
        let mut y = vec![];
        for (x, logits) in x.chunks(3).zip(logits.chunks(EXPERTS)) {
            let mut order: Vec<usize> = (0..EXPERTS).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let of = match weights {
                ExpertWeights::OfAll => &order[..],
                ExpertWeights::OfChosen => &order[..K],
            };
            let sum: f64 = of.iter().map(|&e| logits[e].exp()).sum();
            y.extend(x.iter().map(|x| {
                order[..K].iter().map(|&e| logits[e].exp() / sum * ((e + 1) as f64 * x + x * x)).sum::<f64>()
            }));
        }
        y
    }

    fn run(x: &Traced, logits: &Traced, weights: ExpertWeights, positions: &Positions) -> Result<Traced> {
        let routes = Routes::new(logits.value(), K, positions)?;
        let outputs = routes
            .dispatch(x)?
            .in_groups(routes.lengths(), |e, x| Traced::composed([x], |[x]| (x * (e + 1) as f64)? + x.sqr()?))?;
        routes.combine(&outputs, logits, weights)
    }

    #[test]
    fn every_row_is_seen_by_the_experts_with_the_largest_logits() -> Result<()> {
        let logits = Tensor::new(
            &[[1f32, 5.0, 5.0, 0.0], [9.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, -1.0], [3.0, 2.0, 1.0, 0.0]],
            &Device::Cpu,
        )?;
        let routes = Routes::new(&logits, 2, &Positions::from_lengths([1, 0, 3]))?;
        assert_eq!(routes.chosen.to_vec2::<u32>()?, [[1, 2], [0, 2], [2, 1], [0, 1]]);
        assert_eq!(routes.rows.to_vec1::<u32>()?, [1, 3, 0, 2, 3, 0, 1, 2]);
        assert_eq!(routes.lengths(), [2, 3, 3, 0]);
        let lengths = |e: usize| routes.positions(e).iter().map(|rows| rows.len()).collect::<Vec<_>>();
        assert_eq!([lengths(0), lengths(1), lengths(2), lengths(3)], [[0, 0, 2], [1, 0, 2], [1, 0, 2], [0, 0, 0]]);
        assert_eq!(routes.positions(1).places(), Some(&[0, 2, 3][..]));
        assert!(Routes::new(&logits, 5, &Positions::single(4)).is_err());
        assert!(Routes::new(&logits, 2, &Positions::single(3)).is_err());
        Ok(())
    }

    #[test]
    fn values_and_gradients_are_those_of_the_definition() -> Result<()> {
        let (x, seed) = (numbers(ROWS * 3, 0.7), numbers(ROWS * 3, 1.9));
        let mut logits = numbers(ROWS * EXPERTS, 1.3);
        logits.chunks_mut(EXPERTS).for_each(|row| row[3] -= 9.0);
        let positions = Positions::from_lengths([2, 3]);
        for weights in [ExpertWeights::OfAll, ExpertWeights::OfChosen] {
            // both read one input, so that the tape gives both gradients
            let both: Vec<f64> =
                (0..ROWS).flat_map(|t| [&x[t * 3..][..3], &logits[t * EXPERTS..][..EXPERTS]].concat()).collect();
            let tape = Tape::default();
            let input = tape.input(Tensor::from_slice(&both, (ROWS, 3 + EXPERTS), &Device::Cpu)?, Gradient::Wanted);
            let part = |start, length| Traced::composed([&input], |[both]| both.narrow(1, start, length)?.contiguous());
            let y = run(&part(0, 3)?, &part(3, EXPERTS)?, weights, &positions)?;
            let found = y.value().flatten_all()?.to_vec1::<f64>()?;
            for (found, want) in found.iter().zip(definition(&x, &logits, weights)) {
                assert!((found - want).abs() < 1e-13, "{weights:?}: {found} {want}");
            }
            let seed_tensor = Tensor::from_slice(&seed, (ROWS, 3), &Device::Cpu)?;
            let gradient = tape.backward(&input, &y, seed_tensor)?.expect("wanted").flatten_all()?.to_vec1::<f64>()?;
            for (k, found) in gradient.iter().enumerate() {
                let (t, i) = (k / (3 + EXPERTS), k % (3 + EXPERTS));
                let value = |step: f64| {
                    let (mut x, mut logits) = (x.clone(), logits.clone());
                    if i < 3 {
                        x[t * 3 + i] += step
                    } else {
                        logits[t * EXPERTS + i - 3] += step
                    }
                    definition(&x, &logits, weights).iter().zip(&seed).map(|(y, s)| y * s).sum::<f64>()
                };
                let want = (value(1e-5) - value(-1e-5)) / 2e-5;
                assert!((found - want).abs() < 1e-8, "{weights:?}, [{t}, {i}]: {found} {want}");
            }
        }
        Ok(())
    }

    /// Tokens and logits move together; the choice stays where no two logits are near each other.
    #[test]
    fn tangents_are_central_differences_and_the_transpose_of_the_backward_pass() -> Result<()> {
        let x = Tensor::from_vec(numbers(ROWS * 3, 0.7), (ROWS, 3), &Device::Cpu)?;
        let mut logits = numbers(ROWS * EXPERTS, 1.3);
        // no token sees the last expert
        logits.chunks_mut(EXPERTS).for_each(|row| row[3] -= 9.0);
        for row in logits.chunks(EXPERTS) {
            let mut row = row.to_vec();
            row.sort_by(f64::total_cmp);
            assert!(row.windows(2).all(|two| two[1] - two[0] > 0.01), "{row:?}");
        }
        let logits = Tensor::from_vec(logits, (ROWS, EXPERTS), &Device::Cpu)?;
        let positions = Positions::from_lengths([2, 3]);
        for weights in [ExpertWeights::OfAll, ExpertWeights::OfChosen] {
            let mixture = |inputs: &[Traced]| {
                let routes = Routes::new(inputs[1].value(), K, &positions)?;
                let outputs = routes.dispatch(&inputs[0])?.in_groups(routes.lengths(), |e, x| {
                    let f = |[x]: [&Tensor; 1]| (x * (e + 1) as f64)? + x.sqr()?;
                    Traced::composed_with([x], f, TangentRule::Elementwise)
                })?;
                routes.combine(&outputs, &inputs[1], weights)
            };
            tangents(&[&x, &logits], mixture, 1e-9)?;
        }
        let gates = Tensor::new(&[[-30.0], [-2.0], [0.0], [1.5], [40.0]], &Device::Cpu)?;
        tangents(&[&gates, &x], |inputs| trace_sigmoid_gated(&inputs[0], &inputs[1]), 1e-9)
    }

    #[test]
    fn a_gate_of_any_size_is_differentiated() -> Result<()> {
        let gates: [f64; 5] = [-1000.0, -2.0, 0.0, 3.0, 1000.0];
        let tape = Tape::default();
        let gate = tape.input(Tensor::from_slice(&gates, (5, 1), &Device::Cpu)?, Gradient::Wanted);
        let x = Traced::constant(Tensor::from_vec(numbers(10, 0.4), (5, 2), &Device::Cpu)?);
        let y = trace_sigmoid_gated(&gate, &x)?;
        let found = tape.backward(&gate, &y, Tensor::ones((5, 2), DType::F64, &Device::Cpu)?)?.expect("wanted");
        let (y, x, found) = (y.value().to_vec2::<f64>()?, x.value().to_vec2::<f64>()?, found.to_vec2::<f64>()?);
        for (t, gate) in gates.iter().enumerate() {
            let s = 1.0 / (1.0 + (-gate).exp());
            assert!((y[t][1] - s * x[t][1]).abs() < 1e-15);
            assert!((found[t][0] - s * (1.0 - s) * (x[t][0] + x[t][1])).abs() < 1e-15, "{t}");
        }
        Ok(())
    }
}
