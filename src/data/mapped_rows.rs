//! The batches of rows that a mapped data set has: the processes of `datasets`' `map` have a share of the rows each, one
//! share behind the other, and every share has batches of its own.

/// Rows of a batch, and processes that have a share each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MappedRows {
    /// Rows of a batch; `None` if a share is one.
    pub rows: Option<usize>,
    /// Processes; 0 counts as 1.
    pub processes: usize,
}

impl MappedRows {
    /// Where each share of `n` rows ends, counted in rows: the first shares have one row more where the rows do not
    /// divide. A data set with fewer rows than processes has a share for each row.
    fn shares(self, n: usize) -> impl Iterator<Item = usize> {
        let processes = self.processes.clamp(1, n.max(1));
        let (each, more) = (n / processes, n % processes);
        (1..=processes).map(move |k| k * each + k.min(more))
    }

    /// The numbers of rows behind which a batch ends, ascending; the last one is `n`.
    pub fn ends(self, n: usize) -> impl Iterator<Item = usize> {
        let mut start = 0;
        self.shares(n).flat_map(move |end| {
            let step = self.rows.unwrap_or(usize::MAX).max(1);
            let begun = std::mem::replace(&mut start, end);
            let within = std::iter::successors(begun.checked_add(step), move |at| at.checked_add(step));
            within.take_while(move |&at| at < end).chain([end])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_datasets() {
        let ends = |rows, processes, n| MappedRows { rows, processes }.ends(n).collect::<Vec<_>>();
        assert_eq!(ends(Some(1000), 1, 2500), [1000, 2000, 2500]);
        assert_eq!(ends(Some(1000), 0, 2500), [1000, 2000, 2500]);
        assert_eq!(ends(None, 1, 2500), [2500]);
        // numpy.array_split's sizes: 4, 3, 3
        assert_eq!(ends(None, 3, 10), [4, 7, 10]);
        assert_eq!(ends(Some(2), 3, 10), [2, 4, 6, 7, 9, 10]);
        assert_eq!(ends(Some(1000), 2, 4000), ends(Some(1000), 1, 4000));
        assert_eq!(ends(Some(9), 8, 3), [1, 2, 3]);
        assert_eq!(ends(Some(9), 3, 0), [0]);
    }
}
