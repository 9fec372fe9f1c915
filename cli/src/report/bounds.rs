//! How much of a run a page has room for.

use super::folder::RunFolder;

/// Queries, cards of all queries, and characters of all texts that a report holds: a page stays below 10 MB.
const MOST_QUERIES: usize = 1000;
const MOST_CARDS: usize = 3000;
const ROOM: usize = 1_500_000;

/// Shaded tokens of all cards: each is an element of the page.
const TOKENS: usize = 60_000;

/// Other fields of a card, where there are few cards and where there are many.
const FIELDS: [usize; 2] = [10, 3];
pub(super) const MANY_CARDS: usize = 1000;

/// How much of a run a page has room for.
pub(super) struct Bounds {
    pub(super) queries: usize,
    /// Cards on each side of a query.
    pub(super) cards: usize,
    /// Characters of a card's text, and of a query's.
    pub(super) card: usize,
    pub(super) query: usize,
    /// Other fields of a card.
    pub(super) fields: usize,
    /// Shaded tokens of a card, and of a query.
    pub(super) tokens: usize,
    pub(super) query_tokens: usize,
}

impl Bounds {
    pub(super) fn of(run: &RunFolder, left_out: &mut Vec<String>) -> Self {
        let all = run.rankings.len();
        let queries = all.min(MOST_QUERIES);
        if queries < all {
            left_out.push(format!("The first {queries} of {all} queries are shown; `ranking.jsonl` has them all."));
        }
        let longest = run.rankings.iter().map(|ranking| ranking.proponents.len().max(ranking.opponents.len()));
        let longest = longest.max().unwrap_or(0).max(1);
        let cards = longest.min((MOST_CARDS / 2 / queries.max(1)).max(2));
        if cards < longest {
            left_out.push(format!(
                "The strongest {cards} of {longest} listed examples of each side are shown; `ranking.jsonl` has them all."
            ));
        }
        let card = (ROOM / (2 * cards * queries.max(1))).clamp(240, 4000);
        let fields = FIELDS[usize::from(2 * cards * queries > MANY_CARDS)];
        let tokens = (TOKENS / (2 * cards * queries.max(1))).clamp(30, 1000);
        let query_tokens = (TOKENS / queries.max(1)).clamp(30, 1000);
        Self { queries, cards, card, tokens, query_tokens, query: (ROOM / 2 / queries.max(1)).clamp(240, 4000), fields }
    }
}
