//! Heads: what stands between a trunk's last hidden states and the loss. A language model's predicts the next token at
//! every position, a masked one's the token of the position itself; a classifier's gives some numbers for a whole text.

pub(super) mod adapter;
pub(super) mod head;
pub(super) mod labels;
pub(super) mod masked;
pub(super) mod next_token;
pub(super) mod sequence;
pub(super) mod steps;
