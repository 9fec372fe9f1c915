//! Tables of embeddings, on disk and in memory: rows by number, of which a batch reads a few.

use std::ops::Range;
use std::sync::Arc;

use super::checkpoint_reader::{CheckpointReader, Embedding, StoredTensor};
use super::error::LoadError;
use super::residence::{Held, Residence};
use super::tracking::Tracking;
use crate::curvature::{LayerId, Positions, TableRows, TapRecorder, Traced};
use crate::data::TokenInputs;

/// How a table takes part in attribution.
#[derive(Debug, Clone, Copy)]
pub(super) struct TrackedTable {
    layer: LayerId,
    /// Its rows.
    size: usize,
    /// The row that PyTorch gives no gradient.
    padding: Option<u32>,
}

impl TrackedTable {
    /// The table's part, if it is tracked. `padding` is the row that training leaves as it is.
    pub(super) fn new(
        source: &CheckpointReader,
        tracking: &Tracking<'_>,
        tensor: &StoredTensor,
        [size, width]: [usize; 2],
        padding: Option<u32>,
    ) -> Option<Self> {
        if source.is_frozen(tensor) {
            return None;
        }
        let name = tensor.name().strip_suffix(".weight").unwrap_or(tensor.name());
        let layer = tracking.table(name, [size, width])?;
        tensor.count_tracked();
        if let Some(padding) = padding {
            source.note(format!(
                "`{name}`: row {padding} is padding (`pad_token_id`), which PyTorch gives no gradient, and so it has none here"
            ));
        }
        Some(Self { layer, size, padding })
    }

    /// This value, to which these rows of the table were added.
    pub(super) fn entered(self, x: &Traced, ids: &[u32], taps: &TapRecorder) -> candle_core::Result<Traced> {
        x.with_table(self.layer, self.rows(ids), taps)
    }

    /// This value, which is the rows of the tokens that an encoder reads and those that its decoder reads, all examples' of
    /// the one before all examples' of the other.
    pub(super) fn entered_both(
        self,
        x: &Traced,
        ids: &[u32],
        [encoder, decoder]: [&Positions; 2],
        taps: &TapRecorder,
    ) -> candle_core::Result<Traced> {
        let behind = encoder.rows();
        let of_example =
            |(read, written): (Range<usize>, Range<usize>)| read.chain(written.start + behind..written.end + behind);
        let order: Arc<[u32]> = encoder.iter().zip(decoder.iter()).flat_map(of_example).map(|row| row as u32).collect();
        let lengths = encoder.iter().zip(decoder.iter()).map(|(read, written)| read.len() + written.len());
        let positions = Positions::from_lengths(lengths).at_places(0..order.len());
        let rows = TableRows { order: Some(order), ..self.rows(ids) };
        x.with_table(self.layer, rows, &taps.at(&Arc::new(positions)))
    }

    fn rows(self, ids: &[u32]) -> TableRows {
        TableRows { ids: Arc::from(ids), size: self.size, fixed: self.padding, order: None }
    }
}

/// A table in memory, or read as it is needed.
#[derive(Debug)]
pub(super) struct Table {
    rows: Embedding,
    tracked: Option<TrackedTable>,
}

impl Table {
    /// A value, with these rows of the table added to it.
    pub(super) fn add(&self, x: &Traced, ids: &[u32], taps: &TapRecorder) -> candle_core::Result<Traced> {
        let sum = x.add(&x.beside(self.rows.rows(ids)?))?;
        match self.tracked {
            Some(tracked) => tracked.entered(&sum, ids, taps),
            None => Ok(sum),
        }
    }

    /// A value, with the rows of its tokens' types added to it: all are of the first text where nothing says otherwise.
    pub(super) fn add_types(
        &self,
        x: &Traced,
        inputs: &TokenInputs,
        taps: &TapRecorder,
    ) -> candle_core::Result<Traced> {
        let types = inputs.types.clone().unwrap_or_else(|| vec![0; inputs.ids.len()]);
        self.add(x, &types, taps)
    }

    /// Reads the table once, if it is not in memory, so that a damaged one is found before work.
    pub(super) fn check(&self) -> Result<(), LoadError> {
        self.rows.check()
    }
}

/// A [`Table`] on disk.
#[derive(Debug)]
pub(super) struct StoredTable {
    tensor: StoredTensor,
    tracked: Option<TrackedTable>,
}

impl StoredTable {
    /// A table of this shape; `padding` is the row that training leaves as it is.
    pub(super) fn new(
        source: &CheckpointReader,
        tracking: &Tracking<'_>,
        tensor: StoredTensor,
        shape: [usize; 2],
        padding: Option<u32>,
    ) -> Self {
        let tracked = TrackedTable::new(source, tracking, &tensor, shape, padding);
        Self { tensor, tracked }
    }

    /// The table, in memory or not.
    pub(super) fn held(self, residence: Residence) -> Result<Table, LoadError> {
        Ok(Table { rows: Held::new(self.tensor, residence)?, tracked: self.tracked })
    }
}
