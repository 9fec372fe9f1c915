//! Validated examples in memory: token sequences, labelled texts, or rows of numbers.

use serde_json::{Map, Value};

use super::example::Examples;
use super::row_dataset::RowDataset;
use super::tokens::TokenDataset;

/// Validated examples in memory, numbered from 0 in the file's order.
///
/// Methods that take an example's number panic if there is no such example, as slices do.
#[derive(Debug)]
pub struct Dataset {
    kind: Kind,
}

/// What the examples are.
#[derive(Debug)]
#[non_exhaustive]
pub enum Kind {
    /// Token sequences.
    Tokens(TokenDataset),
    /// Rows of numbers.
    Rows(RowDataset),
}

impl Dataset {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind }
    }

    /// Lets what lies in files leave the memory; it is found there again.
    pub(super) fn forget(&self) {
        match &self.kind {
            Kind::Tokens(tokens) => tokens.forget(),
            Kind::Rows(rows) => rows.forget(),
        }
    }

    /// What the examples are.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Number of examples, N or Q. At least 1.
    pub fn len(&self) -> usize {
        self.examples().len()
    }

    /// Never: an empty file is an error on reading.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Id of example `i`: its own, or the number of its line (from 1) or row (from 0).
    pub fn id(&self, i: usize) -> &str {
        self.examples().id(i)
    }

    /// A number that stands for the contents of example `i` (tokens and targets, or row and target), for
    /// random draws that must not depend on order or file names. Equal examples have equal keys.
    ///
    /// # Source
    /// `docs/method.md`, Curvature: the generator's `example`.
    pub fn key(&self, i: usize) -> u64 {
        self.examples().key(i)
    }

    /// The fields of example `i` that are neither its id nor its contents.
    pub fn metadata(&self, i: usize) -> Map<String, Value> {
        match &self.kind {
            Kind::Tokens(tokens) => tokens.examples().metadata(i),
            Kind::Rows(rows) => rows.metadata(i),
        }
    }

    /// One readable line about example `i`, of at most `max_chars` characters: its text, `prompt|completion`,
    /// or `row 17, target 3`.
    pub fn excerpt(&self, i: usize, max_chars: usize) -> String {
        match &self.kind {
            Kind::Tokens(tokens) => tokens.excerpt(i, max_chars),
            Kind::Rows(rows) => rows.excerpt(i, max_chars),
        }
    }

    /// Number of positions of example `i`, T: its tokens, 1 for a row of numbers, patches or pixels of an
    /// image. Of a text for an encoder and one for a decoder, those of both.
    pub fn positions(&self, i: usize) -> usize {
        match &self.kind {
            Kind::Tokens(tokens) => tokens.positions(i),
            Kind::Rows(rows) => rows.positions(),
        }
    }

    /// Number of positions of example `i` that may have a target: those of the decoder alone where there is an encoder.
    pub fn target_positions(&self, i: usize) -> usize {
        match &self.kind {
            Kind::Tokens(tokens) => tokens.rows(i).len(),
            Kind::Rows(rows) => rows.positions(),
        }
    }

    /// Numbers that the inputs of an example take; 0 for tokens, whose examples have different lengths.
    pub fn width(&self) -> usize {
        match &self.kind {
            Kind::Tokens(_) => 0,
            Kind::Rows(rows) => rows.width(),
        }
    }

    /// Bytes that the inputs of rows and images take in memory; 0 for tokens.
    pub fn input_bytes(&self) -> usize {
        match &self.kind {
            Kind::Tokens(_) => 0,
            Kind::Rows(rows) => rows.input_bytes(),
        }
    }

    /// Bytes of its tokens that lie in files and not in memory, of [`super::BYTES_OF_TOKEN`] for each.
    pub fn bytes_in_files(&self) -> u64 {
        match &self.kind {
            Kind::Tokens(tokens) => tokens.bytes_in_files(),
            Kind::Rows(_) => 0,
        }
    }

    /// BLAKE3 hash over all examples' ids and contents, in order. Metadata is not part of it: no number
    /// depends on that.
    pub fn content_hash(&self) -> [u8; 32] {
        self.examples().content_hash()
    }

    /// `count` examples at equal distances, in their order, without texts and metadata: a sample that depends on nothing
    /// but the data and the count. Every example if there are no more.
    pub fn sample(&self, count: usize) -> Self {
        let n = self.len();
        let count = count.clamp(1, n);
        // in 128 bits: the product of two lengths
        let place = |k: usize| (k as u128 * n as u128 / count as u128) as usize;
        self.at(&(0..count).map(place).collect::<Vec<_>>())
    }

    /// Every other example, from `first` (0 or 1) on, without texts and metadata.
    pub fn every_other(&self, first: usize) -> Self {
        self.at(&(first..self.len()).step_by(2).collect::<Vec<_>>())
    }

    /// The examples at these places as a dataset, without their texts and metadata. Its content hash is that of the places
    /// and of this dataset.
    pub fn at(&self, places: &[usize]) -> Self {
        let kind = match &self.kind {
            Kind::Tokens(tokens) => Kind::Tokens(tokens.sample(places)),
            Kind::Rows(rows) => Kind::Rows(rows.sample(places)),
        };
        Self { kind }
    }

    /// Each of these examples of tokens with one of its targets alone, by its place among the example's tokens.
    ///
    /// # Panics
    /// If the examples are rows, or a token is no target of its example.
    pub fn with_one_target(&self, of: &[(usize, usize)]) -> Self {
        match &self.kind {
            Kind::Tokens(tokens) => Self { kind: Kind::Tokens(tokens.with_one_target(of)) },
            Kind::Rows(_) => panic!("rows have no target tokens"),
        }
    }

    fn examples(&self) -> &Examples {
        match &self.kind {
            Kind::Tokens(tokens) => tokens.examples(),
            Kind::Rows(rows) => rows.examples(),
        }
    }
}
