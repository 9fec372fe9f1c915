//! Examples that belong together, as they are joined and as they are read.

/// Examples that are joined pair by pair; each set is known by its first example.
#[derive(Debug)]
pub(super) struct Joined {
    parents: Vec<usize>,
}

impl Joined {
    /// Every example by itself.
    pub(super) fn none(examples: usize) -> Self {
        Self { parents: (0..examples).collect() }
    }

    /// The first example of the set.
    pub(super) fn first(&mut self, example: usize) -> usize {
        let mut at = example;
        while self.parents[at] != at {
            let above = self.parents[self.parents[at]];
            self.parents[at] = above;
            at = above;
        }
        at
    }

    /// Puts two sets together.
    pub(super) fn join(&mut self, a: usize, b: usize) {
        let [a, b] = [self.first(a), self.first(b)];
        self.parents[a.max(b)] = a.min(b);
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
        let mut sizes = vec![0usize; joined.parents.len()];
        for example in 0..sizes.len() {
            sizes[joined.first(example)] += 1;
        }
        // a set's first example comes before the others, so its cluster is known when they come
        let (mut numbers, mut ends, mut next) = (std::collections::HashMap::new(), vec![], vec![]);
        let mut end = 0;
        let mut of_member = vec![];
        for example in 0..sizes.len() {
            let first = joined.first(example);
            if sizes[first] > 1 {
                let fresh = ends.len();
                let cluster = *numbers.entry(first).or_insert(fresh);
                if cluster == fresh {
                    next.push(end);
                    end += sizes[first];
                    ends.push(end);
                }
                of_member.push((example, cluster));
            }
        }
        let mut members = vec![0; end];
        for &(example, cluster) in &of_member {
            members[next[cluster]] = example;
            next[cluster] += 1;
        }
        Self { members, ends, of_member }
    }

    /// Sets as they are given, of examples below `examples`.
    #[cfg(test)]
    pub(crate) fn from_sets(examples: usize, sets: &[&[usize]]) -> Self {
        let mut joined = Joined::none(examples);
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
