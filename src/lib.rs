//! Training data attribution: which training examples pushed a model's answer up or down, and by how much.

pub mod data;
pub mod exact;
pub mod hub;
pub mod job;
pub mod model;
pub mod presence;
pub mod trajectory;

pub use ascribe_attribution as attribution;
pub use ascribe_attribution::foreign_file;
pub use ascribe_curvature as curvature;
pub use ascribe_curvature::Hint;
pub use ascribe_nn as nn;
