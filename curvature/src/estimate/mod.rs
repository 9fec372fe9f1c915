//! Curvature of layers: covariances summed over a pass, their eigenbases, Λ, the factors made of them, functions of
//! their eigenvalues, and products with the Gauss-Newton matrix itself.

pub(crate) mod covariance;
pub(crate) mod covariance_blocks;
pub(crate) mod eigenbasis;
pub(crate) mod factors;
pub(crate) mod gauss_newton;
pub(crate) mod lambda;
pub(crate) mod momentum;
pub(crate) mod pair_weights;
pub(crate) mod side;
pub(crate) mod spectral;
pub(crate) mod truncation;
