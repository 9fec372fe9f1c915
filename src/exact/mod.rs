//! Exact differentiation through training: by how much a query's gain changes when the weight of a training example does,
//! through every step that training made. It is what approximations are held to.
//!
//! Exact differentiation is there for small models: multilayer perceptrons trained by stochastic gradient descent, with or without momentum.
//! Training is done again in f64 from a recipe ([`Recipe`]), its states are kept along the way ([`Replay`]), and the
//! derivatives of all queries go back through the steps, one Hessian-vector product for each query and step. The
//! definition is in `docs/method.md`, Exact differentiation.

mod error;
mod job;
mod perceptron;
mod recipe;
mod reverse;
#[cfg(test)]
mod tests;
mod training;

pub use error::ExactError;
pub use job::{ExactJob, ExactReport, ExactRun, name_of};
pub use perceptron::Perceptron;
pub use recipe::{Descent, Recipe, Step, drawn_start};
pub use reverse::Replay;
pub use training::{State, Training};
