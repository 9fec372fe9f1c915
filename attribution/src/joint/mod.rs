//! Joint solves: the queries' vectors as solutions of systems `(H + δ) x = q`, H the Gauss-Newton matrix of all tracked
//! layers together, in a space that is spanned either by products with H ([`refine_queries`]) or, with none, by what
//! EK-FAC gives with several dampings ([`solve_in_subspace`]); or H the Fisher matrix of sampled gradients, inverted
//! without being formed ([`MatrixFree`]). Queries of Source are carried through its segments by functions of H in a space
//! of products ([`carry_queries`]).

mod block;
mod carry;
mod matrix_free;
mod positive;
mod products;
mod refine;
mod solved_map;
mod space;
mod subspace;
mod vectors;

pub use carry::{Carrying, Checkpoints, Visit, carry_queries};
pub use matrix_free::{MatrixFree, MatrixFreeSystems, sample_gradients};
pub use refine::{Blocks, Refined, Refinement, refine_queries};
pub use solved_map::SolvedMap;
pub use subspace::{Subspace, SubspaceSolved, SubspaceSystem, solve_in_subspace};
