//! Training data attribution: which training examples pushed a model's answer up or down, and by how much.

pub mod data;
pub mod foreign_file;
pub mod job;
pub mod model;
pub mod nn;
pub mod trajectory;

pub use ascribe_attribution as attribution;
pub use ascribe_curvature as curvature;
