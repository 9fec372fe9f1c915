//! Networks as the library sees them: tracked layers with the ops that record their taps, sections and the tape that
//! differentiate them, tangents of their weights, and the interface that a model implements.

pub(crate) mod addition;
pub(crate) mod convolution;
pub(crate) mod interface;
pub(crate) mod layer;
pub(crate) mod linear;
pub(crate) mod objective;
pub(crate) mod section;
pub(crate) mod seed;
pub(crate) mod slices;
pub(crate) mod table;
pub(crate) mod tangent;
pub(crate) mod tap;
pub(crate) mod tape;
pub(crate) mod vector;
pub(crate) mod window;
