//! From scores to the examples that matter: the highest and the lowest scores of each query.
//!
//! The order is total and documented, so that a ranking depends on the scores alone: proponents by
//! falling score, opponents by rising score, equal scores by the example's place in the training set.
//! NaN and infinity have no place in it and are refused.

use ascribe_curvature::Hint;
use serde::Serialize;

/// A score's place among all, `[queries, examples]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScorePlace {
    /// The query's row.
    pub query: usize,
    /// The training example's column.
    pub column: usize,
}

/// Scores in memory, `[queries, examples]`, row-major.
#[derive(Debug, Clone, Copy)]
pub struct ScoreRows<'a> {
    values: &'a [f32],
    queries: usize,
    examples: usize,
}

impl<'a> ScoreRows<'a> {
    /// Borrows `[queries, examples]`.
    ///
    /// # Errors
    /// [`RankingError::Length`] if `values` has another size.
    pub fn new(values: &'a [f32], queries: usize, examples: usize) -> Result<Self, RankingError> {
        if queries.checked_mul(examples) != Some(values.len()) {
            return Err(RankingError::Length { found: values.len(), queries, examples });
        }
        Ok(Self { values, queries, examples })
    }

    /// Q.
    pub fn queries(self) -> usize {
        self.queries
    }

    /// N, or the number of examples in this part.
    pub fn examples(self) -> usize {
        self.examples
    }

    /// The scores of query `q`.
    ///
    /// # Panics
    /// If there is no query `q`.
    pub fn row(self, q: usize) -> &'a [f32] {
        &self.values[q * self.examples..(q + 1) * self.examples]
    }
}

/// The extreme scores of one query, as (example, score).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ranking {
    /// The query's index.
    pub query: usize,
    /// The k highest scores, highest first. Where fewer than k examples have a positive score, the rest
    /// of the list is not positive: see [`signed`](Self::signed).
    pub proponents: Vec<(usize, f32)>,
    /// The k lowest scores, lowest first.
    pub opponents: Vec<(usize, f32)>,
}

impl Ranking {
    /// Only positive proponents and negative opponents: an example that lowers the gain is no proponent
    /// for want of better ones.
    #[must_use]
    pub fn signed(mut self) -> Self {
        self.proponents.retain(|&(_, score)| score > 0.0);
        self.opponents.retain(|&(_, score)| score < 0.0);
        self
    }
}

/// Why scores cannot be ranked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RankingError {
    /// The matrix has another size than its axes say.
    #[error("scores hold {found} values, expected {queries} queries x {examples} examples")]
    Length {
        /// Number of values.
        found: usize,
        /// Q.
        queries: usize,
        /// N.
        examples: usize,
    },
    /// NaN or infinity has no rank.
    #[error("the score of query {query} and example {example} is {value}")]
    NonFinite {
        /// The query's index.
        query: usize,
        /// The example's index.
        example: usize,
        /// The score.
        value: f32,
    },
    /// A part has scores for another number of queries, or keeps another number of examples.
    #[error("a part {what} {found}, expected {expected}")]
    Part {
        /// `has queries:` or `keeps:`.
        what: &'static str,
        /// The part's number.
        found: usize,
        /// This one's.
        expected: usize,
    },
    /// Two parts overlap.
    #[error("example {example} was ranked twice for query {query}")]
    Duplicate {
        /// The query's index.
        query: usize,
        /// The example's index.
        example: usize,
    },
    /// There are more examples than an index can tell apart.
    #[error("example {example} is beyond the last index that a ranking can hold")]
    Index {
        /// The example's index.
        example: usize,
    },
}

impl Hint for RankingError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NonFinite { .. } => {
                "look for a non-finite loss of that example or query, or raise the damping".to_owned()
            }
            Self::Duplicate { .. } => "merge each range of training examples once".to_owned(),
            _ => return None,
        })
    }
}

/// Ranks a matrix of scores; lists are shorter than `k` if there are fewer examples.
///
/// # Errors
/// [`RankingError::NonFinite`].
pub fn rank(scores: ScoreRows<'_>, k: usize) -> Result<Vec<Ranking>, RankingError> {
    let mut top = TopK::new(scores.queries(), k);
    top.add_block(0, scores)?;
    top.finish()
}

/// The k highest and k lowest scores of each query, while scores pass by in any order and parts.
///
/// Memory is O(Q · k) whatever the number of examples: a list holds at most 2k entries and is then cut
/// to its best k by partial selection, O(1) for each score on average. The result does not depend on
/// the order in which examples came, nor on how they were split and merged.
#[derive(Debug, Clone)]
pub struct TopK {
    k: usize,
    queries: Vec<(Extreme, Extreme)>,
}

impl TopK {
    /// Nothing seen yet.
    pub fn new(queries: usize, k: usize) -> Self {
        let empty = (Extreme::new(Side::Highest, k), Extreme::new(Side::Lowest, k));
        Self { k, queries: vec![empty; queries] }
    }

    /// One score. Each place may come once.
    ///
    /// # Errors
    /// [`RankingError::NonFinite`].
    ///
    /// # Panics
    /// If there is no such query.
    pub fn add(&mut self, at: ScorePlace, score: f32) -> Result<(), RankingError> {
        let ScorePlace { query, column: example } = at;
        let Ok(index) = u32::try_from(example) else { return Err(RankingError::Index { example }) };
        if !score.is_finite() {
            return Err(RankingError::NonFinite { query, example, value: score });
        }
        let (highest, lowest) = &mut self.queries[query];
        highest.add(Entry { score, example: index });
        lowest.add(Entry { score, example: index });
        Ok(())
    }

    /// One training example: its scores for all queries, `[Q]`.
    ///
    /// # Errors
    /// [`RankingError::NonFinite`]; [`RankingError::Part`] for another number of queries.
    pub fn add_column(&mut self, example: usize, scores: &[f32]) -> Result<(), RankingError> {
        self.require_queries(scores.len())?;
        scores.iter().enumerate().try_for_each(|(query, &score)| self.add(ScorePlace { query, column: example }, score))
    }

    /// A range of training examples that starts at `first`.
    ///
    /// # Errors
    /// [`RankingError::NonFinite`]; [`RankingError::Part`] for another number of queries.
    pub fn add_block(&mut self, first: usize, scores: ScoreRows<'_>) -> Result<(), RankingError> {
        self.require_queries(scores.queries())?;
        for query in 0..scores.queries() {
            for (m, &score) in scores.row(query).iter().enumerate() {
                self.add(ScorePlace { query, column: first + m }, score)?;
            }
        }
        Ok(())
    }

    /// Takes over what another one saw, of other examples.
    ///
    /// # Errors
    /// [`RankingError::Part`] if it has another number of queries or keeps another number of examples.
    pub fn merge(&mut self, other: Self) -> Result<(), RankingError> {
        self.require_queries(other.queries.len())?;
        if other.k != self.k {
            return Err(RankingError::Part { what: "keeps:", found: other.k, expected: self.k });
        }
        for (mine, theirs) in self.queries.iter_mut().zip(other.queries) {
            theirs.0.entries.into_iter().for_each(|entry| mine.0.add(entry));
            theirs.1.entries.into_iter().for_each(|entry| mine.1.add(entry));
        }
        Ok(())
    }

    /// The rankings, one for each query in order.
    ///
    /// # Errors
    /// [`RankingError::Duplicate`] if an example shows up twice in a list. (Two entries of one example
    /// of which only one is extreme go unseen.)
    pub fn finish(self) -> Result<Vec<Ranking>, RankingError> {
        let rankings = self.queries.into_iter().enumerate().map(|(query, (highest, lowest))| {
            let (proponents, opponents) = (highest.finish(query)?, lowest.finish(query)?);
            Ok(Ranking { query, proponents, opponents })
        });
        rankings.collect()
    }

    fn require_queries(&self, found: usize) -> Result<(), RankingError> {
        let expected = self.queries.len();
        if found == expected { Ok(()) } else { Err(RankingError::Part { what: "has queries:", found, expected }) }
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    score: f32,
    example: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Highest,
    Lowest,
}

/// The k entries of one query at one side, and up to k candidates.
#[derive(Debug, Clone)]
struct Extreme {
    side: Side,
    k: usize,
    entries: Vec<Entry>,
    /// The last entry that still counted at the last cut: what comes after it cannot be among the k.
    bar: Option<Entry>,
}

impl Extreme {
    fn new(side: Side, k: usize) -> Self {
        Self { side, k, entries: Vec::new(), bar: None }
    }

    /// Whether `a` ranks before `b`. Scores are finite, and equal ones (zeros of both signs too) are told
    /// apart by the example.
    fn before(side: Side, a: &Entry, b: &Entry) -> std::cmp::Ordering {
        let by_score = match side {
            Side::Highest => b.score.partial_cmp(&a.score),
            Side::Lowest => a.score.partial_cmp(&b.score),
        };
        by_score.unwrap_or(std::cmp::Ordering::Equal).then(a.example.cmp(&b.example))
    }

    fn add(&mut self, entry: Entry) {
        if self.k == 0 || self.bar.is_some_and(|bar| Self::before(self.side, &entry, &bar).is_gt()) {
            return;
        }
        self.entries.push(entry);
        if self.entries.len() >= self.k.saturating_mul(2) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.entries.len() > self.k {
            let side = self.side;
            self.entries.select_nth_unstable_by(self.k - 1, |a, b| Self::before(side, a, b));
            self.entries.truncate(self.k);
            self.bar = self.entries.last().copied();
        }
    }

    fn finish(mut self, query: usize) -> Result<Vec<(usize, f32)>, RankingError> {
        self.cut();
        let side = self.side;
        self.entries.sort_unstable_by(|a, b| Self::before(side, a, b));
        let mut examples: Vec<u32> = self.entries.iter().map(|entry| entry.example).collect();
        examples.sort_unstable();
        if let Some(pair) = examples.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(RankingError::Duplicate { query, example: pair[0] as usize });
        }
        Ok(self.entries.into_iter().map(|entry| (entry.example as usize, entry.score)).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first and the last `k` of a full sort of one row.
    fn by_sorting(row: &[f32], k: usize) -> [Vec<(usize, f32)>; 2] {
        let mut all: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
        all.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("finite"));
        let proponents = all[..k.min(all.len())].to_vec();
        all.sort_by(|a, b| a.1.partial_cmp(&b.1).expect("finite").then(a.0.cmp(&b.0)));
        all.truncate(k);
        [proponents, all]
    }

    #[test]
    fn equal_scores_keep_the_order_of_the_data() {
        let scores = [0.0, 2.0, -1.0, 2.0, -0.0, -1.0, 0.5];
        let ranking = &rank(ScoreRows::new(&scores, 1, 7).expect("one row"), 4).expect("finite")[0];
        assert_eq!(ranking.proponents, [(1, 2.0), (3, 2.0), (6, 0.5), (0, 0.0)]);
        assert_eq!(ranking.opponents, [(2, -1.0), (5, -1.0), (0, 0.0), (4, -0.0)]);
        let signed = ranking.clone().signed();
        assert_eq!((signed.proponents.len(), signed.opponents.len()), (3, 2));
    }

    #[test]
    fn what_has_no_rank_is_refused() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let scores = [1.0, 2.0, 3.0, 4.0, value, 6.0];
            let error = rank(ScoreRows::new(&scores, 2, 3).expect("2 x 3"), 1).expect_err("not finite");
            assert_eq!(error.to_string(), format!("the score of query 1 and example 1 is {value}"));
        }
        assert!(ScoreRows::new(&[0.0; 5], 2, 3).is_err());
        assert!(TopK::new(2, 1).add_column(0, &[0.0; 3]).is_err());
        assert!(TopK::new(2, 1).merge(TopK::new(2, 2)).is_err());
        let mut twice = TopK::new(1, 3);
        let at = ScorePlace { query: 0, column: 5 };
        twice.add(at, 1.0).and_then(|()| twice.add(at, 2.0)).expect("finite");
        assert_eq!(twice.finish(), Err(RankingError::Duplicate { query: 0, example: 5 }));
    }

    #[test]
    fn memory_does_not_grow_with_examples() {
        let mut top = TopK::new(1, 3);
        for example in 0..10_000 {
            // Rising scores: each one is a new highest.
            top.add_column(example, &[example as f32]).expect("finite");
            assert!(top.queries[0].0.entries.len() <= 6 && top.queries[0].1.entries.len() <= 6);
        }
        let ranking = &top.finish().expect("no example twice")[0];
        assert_eq!(ranking.proponents, [(9999, 9999.0), (9998, 9998.0), (9997, 9997.0)]);
        assert_eq!(ranking.opponents, [(0, 0.0), (1, 1.0), (2, 2.0)]);
    }

    proptest! {
        #[test]
        fn any_order_and_split_gives_the_sorted_ends(
            row in prop::collection::vec(-3i8..4, 0..60), // few values: many ties
            k in 0usize..9,
            rotate in 0usize..60,
            split in 0usize..60,
        ) {
            let row: Vec<f32> = row.into_iter().map(f32::from).collect();
            let n = row.len();
            let (mut a, mut b) = (TopK::new(1, k), TopK::new(1, k));
            for at in 0..n {
                let m = (at * 7 + rotate) % n.max(1); // a permutation unless 7 divides n
                let m = if n.is_multiple_of(7) { at } else { m };
                if at < split { a.add_column(m, &[row[m]]) } else { b.add_column(m, &[row[m]]) }.expect("finite");
            }
            b.merge(a).expect("same sizes");
            let merged = b.finish().expect("no example twice");
            let whole = rank(ScoreRows::new(&row, 1, n).expect("one row"), k).expect("finite");
            prop_assert_eq!(&merged, &whole);
            let [proponents, opponents] = by_sorting(&row, k);
            prop_assert_eq!((&whole[0].proponents, &whole[0].opponents), (&proponents, &opponents));
        }
    }
}
