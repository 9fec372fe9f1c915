//! How much of the files that are mapped into memory stays there between uses.

use std::cell::Cell;

/// What becomes of mapped numbers between two uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) enum AfterUse {
    /// Mapped numbers stay in memory, as long as the system lets them.
    Stay,
    /// Pages of mapped numbers are given back; the next use maps them again.
    Forgotten,
}

/// Room for mapped numbers, taken in order: what comes when it is used up does not stay.
#[derive(Debug)]
pub(in crate::job) struct MappedRoom(Cell<u64>);

impl MappedRoom {
    pub(in crate::job) fn new(bytes: u64) -> Self {
        Self(Cell::new(bytes))
    }

    /// Takes room for so many bytes, if there is any.
    pub(in crate::job) fn take(&self, bytes: u64) -> AfterUse {
        match self.0.get().checked_sub(bytes) {
            Some(left) => {
                self.0.set(left);
                AfterUse::Stay
            }
            None => AfterUse::Forgotten,
        }
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
