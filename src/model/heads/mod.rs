//! Heads: what stands between a trunk's last hidden states and the loss. A language model's predicts the next token at
//! every position, a masked one's the token of the position itself; a classifier's gives some numbers for a whole text.

mod adapter;
mod head;
mod labels;
mod masked;
mod next_token;
mod sequence;
mod steps;

pub(super) use self::adapter::StoredHeadAdapter;
pub(super) use self::head::{Head, hessian_of_outputs, loss_of_outputs};
pub(super) use self::labels::labels;
pub(super) use self::masked::{MaskedNames, StoredMasked};
pub(super) use self::next_token::{NextToken, StoredNextToken};
pub(super) use self::sequence::{Pooling, Sequence, StoredSequence};
pub(super) use self::steps::Step;
