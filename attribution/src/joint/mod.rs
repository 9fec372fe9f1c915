//! Joint solves: the queries' vectors as solutions of systems `(H + δ) x = q`, H the Gauss-Newton matrix of all tracked
//! layers together, in a space that is spanned either by products with H ([`refine_queries`]) or, with none, by what
//! EK-FAC gives with several dampings ([`solve_in_subspace`]); or H the Fisher matrix of sampled gradients, inverted
//! without being formed ([`MatrixFree`]).

mod block;
mod matrix_free;
mod positive;
mod refine;
mod solved_map;
mod subspace;
mod vectors;

pub use matrix_free::{MatrixFree, MatrixFreeSystems, sample_gradients};
pub use refine::{Refined, Refinement, refine_queries};
pub use solved_map::SolvedMap;
pub use subspace::{Subspace, SubspaceSolved, SubspaceSystem, solve_in_subspace};
