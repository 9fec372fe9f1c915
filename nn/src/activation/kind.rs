//! Which activation a block applies, and the constants in their formulas.

/// A function applied to every element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `max(x, 0)`; its gradient at 0 is 0.
    Relu,
    /// `max(x, 0)²`.
    SquaredRelu,
    /// Hyperbolic tangent.
    Tanh,
    /// `x Φ(x)`, Φ the normal distribution.
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `x / (1 + e^{-1.702 x})`.
    QuickGelu,
    /// `x / (1 + e⁻ˣ)`.
    Silu,
    /// `x tanh(ln(1 + eˣ))` (Misra 2019).
    Mish,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `x`.
    Identity,
}

pub(super) const GELU_SLOPE: f64 = 0.797_884_560_802_865_4; // √(2/π)
pub(super) const GELU_CUBIC: f64 = 0.044715;
pub(super) const QUICK_GELU: f64 = 1.702;
/// Where `mish(x)` is `x` in f64: `tanh(ln(1 + eˣ)) = 1 - 2 / (n + 2)` with `n = eˣ (eˣ + 2)`.
pub(super) const MISH_LINEAR: f64 = 20.0;
