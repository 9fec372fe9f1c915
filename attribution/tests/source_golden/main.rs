//! Source against the golden file: closed forms, exact differentiation, and the whole pipeline on networks of a few
//! parameters, in f64. Tolerances are those of `docs/method.md`, Numerics, 1e-9 where scores are compared.

mod golden;
mod layer_rates;
mod limits;
mod mlp;
mod network;
mod quadratic;
mod regression;
mod spectral;
mod unrolled;
