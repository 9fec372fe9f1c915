//! Which ids were read already, and in which row: of many rows in little memory.

use std::collections::HashMap;

/// The ids of a dataset's rows, each by 96 bits of its BLAKE3 hash: among 10 million ids that differ, two have the same bits
/// with a probability of 10⁻¹⁵.
#[derive(Debug, Default)]
pub(super) struct SeenIds {
    /// The row's number, in two halves so that an entry has no bytes between its parts.
    rows: HashMap<[u32; 3], [u32; 2]>,
}

impl SeenIds {
    /// Notes an id; the number of the row that had it before, if one had.
    pub(super) fn insert(&mut self, id: &str, row: usize) -> Option<usize> {
        let digest = blake3::hash(id.as_bytes());
        let [a, b, c, ..] = *digest.as_bytes().as_chunks().0 else { unreachable!("a hash has 32 bytes") };
        let number = row as u64;
        let before = self.rows.insert([a, b, c].map(u32::from_le_bytes), [number as u32, (number >> 32) as u32]);
        before.map(|[low, high]| (u64::from(high) << 32 | u64::from(low)) as usize)
    }

    /// How many ids there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_by_its_first_row() {
        let mut seen = SeenIds::default();
        assert_eq!((0..1000).find_map(|row| seen.insert(&format!("id-{row}"), row + (5 << 32))), None);
        assert_eq!(seen.insert("id-999", 3), Some(999 + (5 << 32)));
        assert_eq!(seen.insert("other", 4), None);
        assert_eq!(seen.len(), 1001);
        assert_eq!(size_of::<([u32; 3], [u32; 2])>(), 20);
    }
}
