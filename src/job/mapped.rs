//! How much of the files that are mapped into memory stays there between uses.

use std::cell::Cell;

use super::Plan;

/// Bytes of mapped query vectors, or of factors, that stay in memory between two uses if no budget says less: what is
/// read again for every batch should cost no page faults while it is small.
pub(super) const STAYS: u64 = 160 << 20;

/// What becomes of mapped numbers between two uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterUse {
    /// They stay where they are, as long as the system lets them.
    Stay,
    /// Their pages are given back; the next use maps them again.
    Forgotten,
}

/// Room for mapped numbers, taken in order: what comes when it is used up does not stay.
#[derive(Debug)]
pub(super) struct MappedRoom(Cell<u64>);

impl MappedRoom {
    pub(super) fn new(bytes: u64) -> Self {
        Self(Cell::new(bytes))
    }

    /// Takes room for so many bytes, if there is any.
    pub(super) fn take(&self, bytes: u64) -> AfterUse {
        match self.0.get().checked_sub(bytes) {
            Some(left) => {
                self.0.set(left);
                AfterUse::Stay
            }
            None => AfterUse::Forgotten,
        }
    }
}

impl Plan {
    /// Room for what one file holds.
    pub(super) fn mapped_room(&self) -> MappedRoom {
        MappedRoom::new(self.memory.mapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_does_not_stay_and_takes_no_room() {
        let room = MappedRoom::new(10);
        let found = [6, 5, 4, 1].map(|bytes| room.take(bytes));
        assert_eq!(found, [AfterUse::Stay, AfterUse::Forgotten, AfterUse::Stay, AfterUse::Forgotten]);
    }
}
