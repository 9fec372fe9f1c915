//! The activations with their first and second derivatives in f64, one number at a time: what second derivatives of a
//! network need.

use candle_core::cpu::erf::erf_f64;

use super::kind::{Activation, GELU_CUBIC, GELU_SLOPE, MISH_LINEAR, QUICK_GELU};

impl Activation {
    /// The function at `x` with its first and its second derivative. At the corner of `relu` both derivatives are 0, as
    /// PyTorch has the first; so is the second of `relu2` there.
    pub fn derivatives(self, x: f64) -> [f64; 3] {
        match self {
            Self::Relu if x > 0.0 => [x, 1.0, 0.0],
            Self::SquaredRelu if x > 0.0 => [x * x, 2.0 * x, 2.0],
            Self::Relu | Self::SquaredRelu => [0.0; 3],
            Self::Identity => [x, 1.0, 0.0],
            Self::Tanh => {
                let y = x.tanh();
                let slope = 1.0 - y * y;
                [y, slope, -2.0 * y * slope]
            }
            Self::Sigmoid => sigmoid(x),
            Self::Gelu => {
                let below = 0.5 * (1.0 + erf_f64(x * std::f64::consts::FRAC_1_SQRT_2));
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                [x * below, below + x * density, density * (2.0 - x * x)]
            }
            Self::GeluTanh => {
                let (a, b) = (2.0 * GELU_SLOPE, 2.0 * GELU_SLOPE * GELU_CUBIC);
                gated(x, [a * x + b * x * x * x, a + 3.0 * b * x * x, 6.0 * b * x])
            }
            Self::QuickGelu => gated(x, [QUICK_GELU * x, QUICK_GELU, 0.0]),
            Self::Silu => gated(x, [x, 1.0, 0.0]),
            Self::Mish => mish(x),
        }
    }
}

/// `x n / (n + 2)` with `n = eˣ (eˣ + 2)`, and its derivatives.
fn mish(x: f64) -> [f64; 3] {
    if x > MISH_LINEAR {
        return [x, 1.0, 0.0];
    }
    let e = x.exp();
    let [n, dn, ddn] = [e * (e + 2.0), 2.0 * e * (e + 1.0), 2.0 * e * (2.0 * e + 1.0)];
    let rest = 1.0 / (n + 2.0);
    let [t, dt, ddt] = [n * rest, 2.0 * dn * rest * rest, (2.0 * ddn - 4.0 * dn * dn * rest) * rest * rest];
    [x * t, t + x * dt, 2.0 * dt + x * ddt]
}

/// `1 / (1 + e⁻ᵘ)` and its derivatives.
fn sigmoid(u: f64) -> [f64; 3] {
    // of the negative side by its own exponential, which cannot overflow
    let tail = (-u.abs()).exp();
    let (near, far) = (1.0 / (1.0 + tail), tail / (1.0 + tail));
    let (value, rest) = if u >= 0.0 { (near, far) } else { (far, near) };
    let slope = value * rest;
    [value, slope, slope * (rest - value)]
}

/// `x · sigmoid(u(x))`, from `u` and its derivatives.
fn gated(x: f64, [u, du, ddu]: [f64; 3]) -> [f64; 3] {
    let [s, ds, dds] = sigmoid(u);
    [x * s, s + x * ds * du, 2.0 * ds * du + x * (dds * du * du + ds * ddu)]
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::Activation;
    use crate::implementation::Implementation;

    #[test]
    fn values_are_those_of_the_network_and_derivatives_those_of_differences() {
        let points: Vec<f64> = (-60..=60).map(|k| 0.117 * f64::from(k) + 0.003).collect();
        for name in Activation::NAMES {
            let activation = Activation::from_name(name).expect("a name of the list");
            let x = Tensor::from_slice(&points, points.len(), &Device::Cpu).expect("numbers");
            let values = activation.forward_with(&x, Implementation::Composed).expect("f64");
            let values: Vec<f64> = values.to_vec1().expect("numbers");
            for (&x, value) in points.iter().zip(values) {
                let step = 1e-5;
                let [[below, slope_below, _], [y, slope, bend], [above, slope_above, _]] =
                    [x - step, x, x + step].map(|x| activation.derivatives(x));
                assert!((y - value).abs() < 1e-13, "{name} at {x}: {y} and {value}");
                assert!((slope - (above - below) / (2.0 * step)).abs() < 1e-8, "{name}: slope at {x}");
                assert!((bend - (slope_above - slope_below) / (2.0 * step)).abs() < 1e-8, "{name}: bend at {x}");
            }
        }
    }
}
