//! The functions and their derivatives, sixteen numbers at a time, and the loops over slices.

use super::super::kernel::{self, LANES, Lanes, vectorised};
use super::kind::{Activation, GELU_CUBIC, GELU_SLOPE, MISH_LINEAR, QUICK_GELU};

/// A function of sixteen numbers, and its value together with its derivative.
trait Curve {
    fn value<V: Lanes>(x: V) -> V;
    fn value_and_slope<V: Lanes>(x: V) -> (V, V);
}

struct Relu;
impl Curve for Relu {
    #[inline(always)]
    fn value<V: Lanes>(x: V) -> V {
        x.at_least(V::splat(0.0))
    }
    #[inline(always)]
    fn value_and_slope<V: Lanes>(x: V) -> (V, V) {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        (x.at_least(zero), zero.choose_below(x, one, zero))
    }
}

struct Tanh;
impl Curve for Tanh {
    #[inline(always)]
    fn value<V: Lanes>(x: V) -> V {
        kernel::tanh(x)
    }
    #[inline(always)]
    fn value_and_slope<V: Lanes>(x: V) -> (V, V) {
        let y = kernel::tanh(x);
        (y, V::splat(1.0) - y * y)
    }
}

struct Gelu;
impl Curve for Gelu {
    #[inline(always)]
    fn value<V: Lanes>(x: V) -> V {
        let (tail, _) = kernel::gaussian_tail(x);
        x * x.choose_below(V::splat(0.0), tail, V::splat(1.0) - tail)
    }
    #[inline(always)]
    fn value_and_slope<V: Lanes>(x: V) -> (V, V) {
        let (tail, density) = kernel::gaussian_tail(x);
        let below = x.choose_below(V::splat(0.0), tail, V::splat(1.0) - tail);
        let density = density * V::splat(0.398_942_3); // 1/√(2π)
        (x * below, x.times_plus(density, below))
    }
}

/// `x · sigmoid(u)`: with `u = 2 √(2/π) (x + 0.044715 x³)` that is the tanh form of GELU.
struct GeluTanh;
impl Curve for GeluTanh {
    #[inline(always)]
    fn value<V: Lanes>(x: V) -> V {
        Self::value_and_slope(x).0
    }
    #[inline(always)]
    fn value_and_slope<V: Lanes>(x: V) -> (V, V) {
        let (a, b) = (2.0 * GELU_SLOPE, 2.0 * GELU_SLOPE * GELU_CUBIC);
        // Beyond 30 the sigmoid is 0 or 1; the cube of a larger number could overflow.
        let c = x.at_least(V::splat(-30.0)).at_most(V::splat(30.0));
        let square = c * c;
        let u = c * square.times_plus(V::splat(b as f32), V::splat(a as f32));
        let (s, rest) = kernel::sigmoid_and_rest(u);
        let du = square.times_plus(V::splat(3.0 * b as f32), V::splat(a as f32));
        let ds = s * rest * du;
        (x * s, c.times_plus(ds, s))
    }
}

struct QuickGelu;
impl Curve for QuickGelu {
    #[inline(always)]
    fn value<V: Lanes>(x: V) -> V {
        x * kernel::sigmoid(x * V::splat(QUICK_GELU as f32))
    }
    #[inline(always)]
    fn value_and_slope<V: Lanes>(x: V) -> (V, V) {
        let u = x * V::splat(QUICK_GELU as f32);
        let (s, rest) = kernel::sigmoid_and_rest(u);
        (x * s, (u * rest).times_plus(s, s))
    }
}

struct Silu;
impl Curve for Silu {
    #[inline(always)]
    fn value<V: Lanes>(x: V) -> V {
        x * kernel::sigmoid(x)
    }
    #[inline(always)]
    fn value_and_slope<V: Lanes>(x: V) -> (V, V) {
        let (s, rest) = kernel::sigmoid_and_rest(x);
        (x * s, (x * rest).times_plus(s, s))
    }
}

struct SquaredRelu;
impl Curve for SquaredRelu {
    #[inline(always)]
    fn value<V: Lanes>(x: V) -> V {
        let x = x.at_least(V::splat(0.0));
        x * x
    }
    #[inline(always)]
    fn value_and_slope<V: Lanes>(x: V) -> (V, V) {
        let x = x.at_least(V::splat(0.0));
        (x * x, x + x)
    }
}

/// `x n / (n + 2)` with `n = eˣ (eˣ + 2)`, which is `x tanh(ln(1 + eˣ))`.
struct Mish;
impl Curve for Mish {
    #[inline(always)]
    fn value<V: Lanes>(x: V) -> V {
        Self::value_and_slope(x).0
    }
    #[inline(always)]
    fn value_and_slope<V: Lanes>(x: V) -> (V, V) {
        let (one, two) = (V::splat(1.0), V::splat(2.0));
        // beyond, the function is x, and n² would overflow
        let c = x.at_most(V::splat(MISH_LINEAR as f32));
        let e = kernel::exp(c);
        let n = e * (e + two);
        let rest = one / (n + two);
        let t = n * rest;
        // n' = 2 e (e + 1), and the slope of n / (n + 2) is 2 n' / (n + 2)²
        let slope = V::splat(4.0) * (e * rest) * ((e + one) * rest);
        // of a number so small that its power is 0 the product is 0, not the product with infinity
        (x * t, c.at_least(V::splat(-110.0)).times_plus(slope, t))
    }
}

struct Sigmoid;
impl Curve for Sigmoid {
    #[inline(always)]
    fn value<V: Lanes>(x: V) -> V {
        kernel::sigmoid(x)
    }
    #[inline(always)]
    fn value_and_slope<V: Lanes>(x: V) -> (V, V) {
        let (s, rest) = kernel::sigmoid_and_rest(x);
        (s, s * rest)
    }
}

struct Identity;
impl Curve for Identity {
    #[inline(always)]
    fn value<V: Lanes>(x: V) -> V {
        x
    }
    #[inline(always)]
    fn value_and_slope<V: Lanes>(x: V) -> (V, V) {
        (x, V::splat(1.0))
    }
}

/// Runs `$run::<V, C>` with the curve C of the activation.
macro_rules! with_curve {
    ($activation:expr, $run:ident($($argument:expr),*)) => {
        match $activation {
            Activation::Relu => $run::<V, Relu>($($argument),*),
            Activation::SquaredRelu => $run::<V, SquaredRelu>($($argument),*),
            Activation::Tanh => $run::<V, Tanh>($($argument),*),
            Activation::Gelu => $run::<V, Gelu>($($argument),*),
            Activation::GeluTanh => $run::<V, GeluTanh>($($argument),*),
            Activation::QuickGelu => $run::<V, QuickGelu>($($argument),*),
            Activation::Silu => $run::<V, Silu>($($argument),*),
            Activation::Mish => $run::<V, Mish>($($argument),*),
            Activation::Sigmoid => $run::<V, Sigmoid>($($argument),*),
            Activation::Identity => $run::<V, Identity>($($argument),*),
        }
    };
}

vectorised!(
    pub(super) fn values(activation: Activation, x: &[f32], y: &mut [f32]) = values_lanes
);
vectorised!(
    pub(super) fn slopes(activation: Activation, x: &[f32], gradient: &[f32], dx: &mut [f32]) = slopes_lanes
);
vectorised!(
    pub(super) fn gated_values(activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) = gated_values_lanes
);
vectorised!(
    pub(super) fn gated_slopes(
        activation: Activation,
        gate: &[f32],
        up: &[f32],
        gradient: &[f32],
        d_gate: &mut [f32],
        d_up: &mut [f32],
    ) = gated_slopes_lanes
);

#[inline(always)]
pub(super) fn values_lanes<V: Lanes>(activation: Activation, x: &[f32], y: &mut [f32]) {
    with_curve!(activation, map(x, y));
}

#[inline(always)]
pub(super) fn slopes_lanes<V: Lanes>(activation: Activation, x: &[f32], gradient: &[f32], dx: &mut [f32]) {
    with_curve!(activation, map_backward(x, gradient, dx));
}

#[inline(always)]
pub(super) fn gated_values_lanes<V: Lanes>(activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    with_curve!(activation, gate_map(gate, up, y));
}

#[inline(always)]
pub(super) fn gated_slopes_lanes<V: Lanes>(
    activation: Activation,
    gate: &[f32],
    up: &[f32],
    gradient: &[f32],
    d_gate: &mut [f32],
    d_up: &mut [f32],
) {
    with_curve!(activation, gate_backward(gate, up, gradient, d_gate, d_up));
}

#[inline(always)]
fn map<V: Lanes, C: Curve>(x: &[f32], y: &mut [f32]) {
    let (x, x_tail) = x.as_chunks::<LANES>();
    let (y, y_tail) = y.as_chunks_mut::<LANES>();
    for (x, y) in x.iter().zip(y) {
        C::value(V::load(x)).store(y);
    }
    C::value(V::load_part(x_tail, 0.0)).store_part(y_tail);
}

#[inline(always)]
fn map_backward<V: Lanes, C: Curve>(x: &[f32], gradient: &[f32], dx: &mut [f32]) {
    let (x, x_tail) = x.as_chunks::<LANES>();
    let (g, g_tail) = gradient.as_chunks::<LANES>();
    let (dx, dx_tail) = dx.as_chunks_mut::<LANES>();
    for ((x, g), dx) in x.iter().zip(g).zip(dx) {
        let (_, slope) = C::value_and_slope(V::load(x));
        (V::load(g) * slope).store(dx);
    }
    let (_, slope) = C::value_and_slope(V::load_part(x_tail, 0.0));
    (V::load_part(g_tail, 0.0) * slope).store_part(dx_tail);
}

#[inline(always)]
fn gate_map<V: Lanes, C: Curve>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    let (gate, gate_tail) = gate.as_chunks::<LANES>();
    let (up, up_tail) = up.as_chunks::<LANES>();
    let (y, y_tail) = y.as_chunks_mut::<LANES>();
    for ((gate, up), y) in gate.iter().zip(up).zip(y) {
        (C::value(V::load(gate)) * V::load(up)).store(y);
    }
    (C::value(V::load_part(gate_tail, 0.0)) * V::load_part(up_tail, 0.0)).store_part(y_tail);
}

#[inline(always)]
fn gate_backward<V: Lanes, C: Curve>(gate: &[f32], up: &[f32], gradient: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
    let (gate, gate_tail) = gate.as_chunks::<LANES>();
    let (up, up_tail) = up.as_chunks::<LANES>();
    let (g, g_tail) = gradient.as_chunks::<LANES>();
    let (d_gate, d_gate_tail) = d_gate.as_chunks_mut::<LANES>();
    let (d_up, d_up_tail) = d_up.as_chunks_mut::<LANES>();
    for i in 0..gate.len() {
        let (value, slope) = C::value_and_slope(V::load(&gate[i]));
        let g = V::load(&g[i]);
        (g * value).store(&mut d_up[i]);
        (g * V::load(&up[i]) * slope).store(&mut d_gate[i]);
    }
    let (value, slope) = C::value_and_slope(V::load_part(gate_tail, 0.0));
    let g = V::load_part(g_tail, 0.0);
    (g * value).store_part(d_up_tail);
    (g * V::load_part(up_tail, 0.0) * slope).store_part(d_gate_tail);
}
