//! Examples that belong together, as they are joined and as they are read.

use std::collections::BTreeMap;

/// Examples that are joined pair by pair; each set is known by its first example. An example that was never joined takes
/// no memory.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// For each joined example but the first of its set, an example of the set that comes before it.
    before: BTreeMap<usize, usize>,
}

impl Joined {
    /// The first example of the set.
    pub(super) fn first(&mut self, example: usize) -> usize {
        let mut at = example;
        while let Some(&before) = self.before.get(&at) {
            if let Some(&further) = self.before.get(&before) {
                self.before.insert(at, further);
            }
            at = before;
        }
        at
    }

    /// Puts two sets together.
    pub(super) fn join(&mut self, a: usize, b: usize) {
        let [a, b] = [self.first(a), self.first(b)];
        if a != b {
            self.before.insert(a.max(b), a.min(b));
        }
    }
}

/// Sets of two examples and more, in the order of their first examples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clusters {
    /// Members of all clusters, one cluster after the other, in the order of the examples within each.
    members: Vec<usize>,
    /// Where each cluster ends in `members`.
    ends: Vec<usize>,
    /// Each member with its cluster, in the order of the members.
    of_member: Vec<(usize, usize)>,
}

impl Clusters {
    pub(super) fn of(mut joined: Joined) -> Self {
        // of every set its members but the first, in their order
        let others: Vec<usize> = joined.before.keys().copied().collect();
        let others: Vec<(usize, usize)> = others.into_iter().map(|example| (joined.first(example), example)).collect();
        let mut sizes = BTreeMap::new();
        for &(first, _) in &others {
            *sizes.entry(first).or_insert(1_usize) += 1;
        }
        let (mut ends, mut next) = (vec![], vec![]);
        let mut end = 0;
        let mut of_member = vec![];
        let mut numbers = BTreeMap::new();
        for (cluster, (first, size)) in sizes.into_iter().enumerate() {
            next.push(end);
            end += size;
            ends.push(end);
            of_member.push((first, cluster));
            numbers.insert(first, cluster);
        }
        of_member.extend(others.iter().map(|(first, example)| (*example, numbers[first])));
        of_member.sort_unstable();
        let mut members = vec![0; end];
        for &(example, cluster) in &of_member {
            members[next[cluster]] = example;
            next[cluster] += 1;
        }
        Self { members, ends, of_member }
    }

    /// Sets as they are given.
    #[cfg(test)]
    pub(crate) fn from_sets(sets: &[&[usize]]) -> Self {
        let mut joined = Joined::default();
        sets.iter().for_each(|set| set.iter().for_each(|&example| joined.join(set[0], example)));
        Self::of(joined)
    }

    /// Number of clusters.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether no example is a copy of another.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Examples that are in a cluster and not the first of it: what would go if each text were kept once.
    pub fn copies(&self) -> usize {
        self.members.len() - self.ends.len()
    }

    /// Examples of the largest cluster.
    pub fn largest(&self) -> usize {
        self.iter().map(<[usize]>::len).max().unwrap_or(0)
    }

    /// The examples of cluster `k`, in their order.
    ///
    /// # Panics
    /// If there is no such cluster.
    pub fn members(&self, k: usize) -> &[usize] {
        let start = if k == 0 { 0 } else { self.ends[k - 1] };
        &self.members[start..self.ends[k]]
    }

    /// All clusters.
    pub fn iter(&self) -> impl Iterator<Item = &[usize]> {
        (0..self.len()).map(|k| self.members(k))
    }

    /// The cluster of an example; none if it has no copies.
    pub fn cluster_of(&self, example: usize) -> Option<usize> {
        let place = self.of_member.binary_search_by_key(&example, |&(member, _)| member).ok()?;
        Some(self.of_member[place].1)
    }
}
