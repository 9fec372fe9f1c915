//! What a network computes of a batch, counted while it is built: the rows that each layer sees, and the products with
//! weights and of attention that come with them.

use crate::nn::Mask;

/// Rows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowsOf {
    /// One for each position.
    Positions,
    /// One for each position of the encoder.
    Encoder,
    /// One for each position of the decoder, or of a network that has no encoder beside it.
    Decoder,
    /// One for each example.
    Examples,
}

impl RowsOf {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Positions, Self::Encoder, Self::Decoder, Self::Examples];
}

/// The rows of a batch that a layer sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerRows {
    /// What there is a row for.
    pub of: RowsOf,
    /// Which share of these rows: of a convolution's places to pixels, of the experts that a token goes to. 1 for most.
    pub share: f64,
}

impl LayerRows {
    /// All of these rows.
    pub const fn all(of: RowsOf) -> Self {
        Self { of, share: 1.0 }
    }

    /// This share of the positions.
    pub(super) fn share(share: f64) -> Self {
        Self { of: RowsOf::Positions, share }
    }
}

/// Pairs of a query and a key that it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PairsOf {
    /// Of each position with itself and those before it.
    Before,
    /// Of all positions of an example.
    All,
    /// Of all positions of the encoder.
    Encoder,
    /// Of each position of the decoder with itself and those before it.
    Decoder,
    /// Of each position of the decoder with each of the encoder.
    Across,
}

impl PairsOf {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Before, Self::All, Self::Encoder, Self::Decoder, Self::Across];
}

/// Products that a network computes forwards, beside those of a language model's head.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Operations {
    linear: [f64; RowsOf::ALL.len()],
    attention: [u64; PairsOf::ALL.len()],
}

impl Operations {
    /// Numbers of weights, tracked or not, that each row of a kind is multiplied with.
    pub fn linear(&self, of: RowsOf) -> f64 {
        self.linear[of as usize]
    }

    /// Numbers in all heads' queries that meet the keys of each pair of a kind, over all blocks.
    pub fn attention(&self, of: PairsOf) -> u64 {
        self.attention[of as usize]
    }

    /// Adds a matrix of so many numbers.
    pub(crate) fn add_linear(&mut self, rows: LayerRows, numbers: usize) {
        self.linear[rows.of as usize] += rows.share * numbers as f64;
    }

    /// Adds an attention with queries in rows of this kind, whose heads have so many numbers together. A window is not
    /// counted: long texts have fewer pairs.
    pub(crate) fn add_attention(&mut self, rows: RowsOf, numbers: usize, mask: Mask) {
        let pairs = match (rows, mask) {
            (RowsOf::Encoder, _) => PairsOf::Encoder,
            (RowsOf::Decoder, Mask::Causal) => PairsOf::Decoder,
            (RowsOf::Decoder, Mask::Bidirectional) => PairsOf::Across,
            (_, Mask::Causal) => PairsOf::Before,
            (_, Mask::Bidirectional) => PairsOf::All,
        };
        self.attention[pairs as usize] += numbers as u64;
    }
}
