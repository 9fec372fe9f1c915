//! What a report says, before it is HTML or Markdown.

use serde::Serialize;

use super::plot::{Bar, Histogram, Span, shade, shade_class};
use super::shading::{LossText, ShadedText};
use super::text::ShownText;
use crate::words;

/// A finished run as a person reads it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The run folder's name.
    pub(crate) run: String,
    /// The program that made the scores.
    pub(crate) version: String,
    /// What was asked, of which model and data, with which method.
    pub(crate) asked: Vec<Fact>,
    /// What a score is, in one sentence.
    pub(crate) meaning: String,
    /// What its sign is, for a person.
    pub(crate) sign: String,
    /// What the words of the page are.
    pub(crate) terms: Vec<Term>,
    /// What to distrust in this run.
    pub(crate) cautions: Vec<Caution>,
    /// How the scores were computed, what gives no reason for distrust.
    pub(crate) computed: Vec<String>,
    /// The queries, in the order of the run.
    pub(crate) queries: Vec<QueryView>,
    /// Training examples that are among the strongest of several queries.
    pub(crate) leaders: Vec<Leader>,
    /// Source's segments.
    pub(crate) segments: Vec<SegmentRow>,
    /// Other methods, dampings and time scales of the run beside the first.
    pub(crate) agreements: Vec<Agreement>,
    /// What does not stand in the report and why.
    pub(crate) left_out: Vec<String>,
}

impl Report {
    /// Whether queries or examples are images that are shown.
    pub(crate) fn has_pictures(&self) -> bool {
        let cards = |query: &QueryView| {
            query.sides().iter().any(|side| side.cards.iter().any(|card| card.text.image.is_some()))
        };
        self.queries.iter().any(|query| query.text.image.is_some() || cards(query))
    }
}

/// A name and what it is.
#[derive(Debug, Serialize)]
pub(crate) struct Fact {
    pub(crate) name: &'static str,
    pub(crate) value: String,
}

/// A word that not everybody knows.
#[derive(Debug, Serialize)]
pub(crate) struct Term {
    pub(crate) name: String,
    pub(crate) says: String,
}

/// A reason to distrust numbers of this run.
#[derive(Debug, Serialize)]
pub(crate) struct Caution {
    /// What was found.
    pub(crate) found: String,
    /// What follows, empty if it says it itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) follows: String,
}

/// A query with its ranking.
#[derive(Debug, Serialize)]
pub(crate) struct QueryView {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) id: String,
    pub(crate) text: ShownText,
    /// The text by its tokens, shaded by their losses, where the run has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) losses: Option<LossText>,
    /// What was measured, and its value now.
    pub(crate) measured: String,
    pub(crate) value: f64,
    /// A sentence on the query's measurement at another checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<String>,
    /// The ranking in a sentence.
    pub(crate) sentence: String,
    /// How sure it is, where the run has variants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sure: Option<String>,
    /// What the choice of candidates kept of the ranking, a sentence for each side; empty if every example is scored.
    pub(crate) kept: Vec<String>,
    pub(crate) proponents: Vec<Card>,
    pub(crate) opponents: Vec<Card>,
    pub(crate) histogram: Option<Histogram>,
    pub(crate) groups: Option<GroupTable>,
    /// Scores of the shown examples by layer set or stage.
    pub(crate) parts: Vec<PartTable>,
    /// Scores of shown examples by block and module of the network.
    pub(crate) grids: Vec<PartGrid>,
}

impl QueryView {
    /// Both sides with their names: the heading, what the page calls it, and whether it helps.
    pub(crate) fn sides(&self) -> [Side<'_>; 2] {
        [
            Side { name: "Helped", field: "proponents", letter: 'p', cards: &self.proponents, helps: true },
            Side { name: "Hurt", field: "opponents", letter: 'o', cards: &self.opponents, helps: false },
        ]
    }

    /// The strongest proponent's score.
    pub(crate) fn top(&self) -> Option<&Card> {
        self.proponents.first()
    }
}

/// Examples that helped a query, or hurt it.
#[derive(Debug)]
pub(crate) struct Side<'a> {
    pub(crate) name: &'static str,
    pub(crate) field: &'static str,
    pub(crate) letter: char,
    pub(crate) cards: &'a [Card],
    pub(crate) helps: bool,
}

/// A training example in a ranking.
#[derive(Debug, Serialize)]
pub(crate) struct Card {
    /// From 1.
    pub(crate) rank: usize,
    pub(crate) id: String,
    pub(crate) score: f32,
    pub(crate) bar: Bar,
    /// The lowest and the highest of the score and its variants, in words and as a line on the bar's axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interval: Option<(String, Span)>,
    pub(crate) text: ShownText,
    /// The text by its tokens, where the run divided scores over them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<ShadedText>,
    /// The targets of the query by what each adds to the score, where the run divided scores over them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) moved: Option<ShadedText>,
    /// The pairs of a target and a token of the text that add most, in words; empty if the run has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) token_pairs: String,
    /// The calibrated amount with its interval, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) amount: Option<String>,
    /// Its score for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) self_influence: Option<String>,
    /// Its score over the square root of that, where examples are listed by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) relatif: Option<String>,
    /// Its other fields.
    pub(crate) fields: Vec<(String, String)>,
    /// Whether it is a text, whose length says something.
    pub(crate) is_text: bool,
    /// Others with the same text, or nearly the same.
    #[serde(skip_serializing_if = "CardCopies::is_empty")]
    pub(crate) copies: CardCopies,
}

/// Training examples that stand behind a card as its copies.
#[derive(Debug, Serialize)]
pub(crate) struct CardCopies {
    /// What they are.
    pub(crate) are: &'static str,
    /// How many there are.
    pub(crate) count: u64,
    /// The first of them with their scores.
    pub(crate) named: Vec<(String, f32)>,
    /// What their scores and the card's add up to, in words; none if the ranking lists each by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total: Option<String>,
}

impl CardCopies {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds one that the ranking lists by itself.
    pub(super) fn name(&mut self, id: String, score: f32) {
        self.count += 1;
        self.named.push((id, score));
    }

    /// Their names and scores.
    pub(crate) fn text(&self) -> String {
        let named = self.named.iter().take(8).map(|(id, score)| format!("{id} ({})", words::score(*score)));
        let mut text = named.collect::<Vec<_>>().join(", ");
        let more = self.count.saturating_sub(self.named.len().min(8) as u64);
        if more > 0 {
            text.push_str(&format!(" and {} more", words::count(more)));
        }
        match &self.total {
            Some(total) => format!("{text}; {total}"),
            None => text,
        }
    }
}

impl Card {
    pub(crate) fn score_text(&self) -> String {
        words::score(self.score)
    }

    /// How long the text is.
    pub(crate) fn length(&self) -> String {
        words::counted(self.text.length as u64, "characters")
    }
}

/// Sums of scores over groups of training examples.
#[derive(Debug, Serialize)]
pub(crate) struct GroupTable {
    /// The field that groups them.
    pub(crate) field: String,
    pub(crate) rows: Vec<GroupRow>,
    /// Groups between the best and the worst that are not listed.
    pub(crate) left_out: usize,
}

/// A group.
#[derive(Debug, Serialize)]
pub(crate) struct GroupRow {
    pub(crate) name: String,
    pub(crate) examples: usize,
    pub(crate) score: f32,
    pub(crate) bar: Bar,
}

impl GroupRow {
    pub(crate) fn score_text(&self) -> String {
        words::score(self.score)
    }
}

/// Where a query's scores come from: layer sets, or stages of training.
#[derive(Debug, Serialize)]
pub(crate) struct PartTable {
    pub(crate) title: &'static str,
    /// Whether parts add up.
    pub(crate) says: &'static str,
    /// What its columns are.
    pub(crate) columns: Vec<String>,
    /// Parts with smaller numbers that have no column.
    pub(crate) left_out: usize,
    pub(crate) rows: Vec<PartRow>,
    /// The largest of all, for the shades.
    pub(crate) largest: f32,
}

/// A shown example and its parts.
#[derive(Debug, Serialize)]
pub(crate) struct PartRow {
    pub(crate) id: String,
    pub(crate) score: f32,
    pub(crate) parts: Vec<f32>,
}

impl PartRow {
    /// Each part's number and shade.
    pub(crate) fn cells(&self, largest: f32) -> Vec<(String, String)> {
        let class = |part: f32| shade_class(shade(part, largest));
        self.parts.iter().map(|part| (words::score(*part), class(*part))).collect()
    }

    pub(crate) fn score_text(&self) -> String {
        words::score(self.score)
    }
}

/// The score of an example by the network's blocks, below each other, and their modules, side by side.
#[derive(Debug, Serialize)]
pub(crate) struct PartGrid {
    pub(crate) id: String,
    pub(crate) score: f32,
    /// Whether it is the strongest example of its side.
    pub(crate) is_first: bool,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<GridRow>,
    /// Sum of each column.
    pub(crate) sums: Vec<String>,
}

impl PartGrid {
    pub(crate) fn score_text(&self) -> String {
        words::score(self.score)
    }
}

/// A block of the network.
#[derive(Debug, Serialize)]
pub(crate) struct GridRow {
    pub(crate) name: String,
    /// Each module's number and shade; none where the block has no such module.
    pub(crate) cells: Vec<Option<(String, String)>>,
    pub(crate) sum: String,
}

/// A training example that is listed for several queries.
#[derive(Debug, Serialize)]
pub(crate) struct Leader {
    pub(crate) id: String,
    pub(crate) line: String,
    /// Numbers of the queries that it helped, and of those that it hurt.
    pub(crate) helped: Vec<usize>,
    pub(crate) hurt: Vec<usize>,
}

/// A segment of training, of Source.
#[derive(Debug, Serialize)]
pub(crate) struct SegmentRow {
    pub(crate) name: String,
    pub(crate) steps: u64,
    pub(crate) checkpoints: String,
    /// The share of an older change that it makes forgotten.
    pub(crate) forgotten: Option<f64>,
}

impl SegmentRow {
    pub(crate) fn forgotten_text(&self) -> String {
        self.forgotten.map_or_else(|| "not recorded".to_owned(), |share| format!("{:.0} %", 100.0 * share))
    }
}

/// How far another answer of the run lists the same examples.
#[derive(Debug, Serialize)]
pub(crate) struct Agreement {
    pub(crate) answer: String,
    /// Mean over queries of the share of the first answer's listed proponents that this one lists too.
    pub(crate) shared: f64,
}

impl Agreement {
    pub(crate) fn shared_text(&self) -> String {
        format!("{:.0} %", 100.0 * self.shared)
    }
}
