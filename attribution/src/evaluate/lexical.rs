//! Scores that know words alone: the baselines that a method has to beat, and filters before it.

use std::collections::{BTreeMap, HashMap};

use ascribe_curvature::LabelDraw;
use ascribe_curvature::random::{stream, uniforms, words};

/// How the words that two texts share are weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighting {
    /// BM25 (Robertson and Zaragoza 2009) with k₁ = 1.2, b = 0.75 and `ln(1 + (N - n + 0.5) / (n + 0.5))` for a word that
    /// n of N texts have.
    Bm25,
    /// The cosine of `count · (1 + ln((1 + N) / (1 + n)))` of both texts' words.
    TfIdf,
}

const K1: f64 = 1.2;
const B: f64 = 0.75;

/// The words of many texts, by word: an inverted index in memory, of 8 bytes for each different word of each text.
#[derive(Debug)]
pub struct Lexicon {
    weighting: Weighting,
    /// The number of each word.
    numbers: HashMap<String, usize>,
    /// For each word the texts that have it, in their order, and how often.
    postings: Vec<Vec<(u32, u32)>>,
    /// What each text's scores are divided by: for BM25 its share in k₁, for TF-IDF its norm.
    sizes: Vec<f64>,
}

/// A lexicon that texts are added to.
#[derive(Debug)]
pub struct LexiconBuilder {
    weighting: Weighting,
    numbers: HashMap<String, usize>,
    postings: Vec<Vec<(u32, u32)>>,
    /// Words of each text, every repetition counted.
    lengths: Vec<f64>,
    /// Whether words that are not in `numbers` are left out.
    is_closed: bool,
}

impl LexiconBuilder {
    /// Of no text yet, for these queries alone: the words that no query has are not kept where no score depends on them,
    /// which is so for BM25.
    pub fn new<'t>(weighting: Weighting, queries: impl IntoIterator<Item = &'t str>) -> Self {
        let mut numbers = HashMap::new();
        for word in queries.into_iter().flat_map(counts) {
            let next = numbers.len();
            numbers.entry(word.0).or_insert(next);
        }
        let postings = vec![vec![]; numbers.len()];
        Self { weighting, numbers, postings, lengths: vec![], is_closed: weighting == Weighting::Bm25 }
    }

    /// Adds the next text.
    ///
    /// # Panics
    /// At the 2³²nd text.
    pub fn push(&mut self, text: &str) {
        let place = u32::try_from(self.lengths.len()).expect("fewer texts than 2³²");
        let mut length = 0.0;
        for (word, count) in counts(text) {
            length += f64::from(count);
            let number = match self.numbers.get(&word) {
                Some(&number) => number,
                None if self.is_closed => continue,
                None => {
                    self.numbers.insert(word, self.postings.len());
                    self.postings.push(vec![]);
                    self.postings.len() - 1
                }
            };
            self.postings[number].push((place, count));
        }
        self.lengths.push(length);
    }

    /// The lexicon of all texts that were added.
    pub fn finish(self) -> Lexicon {
        let Self { weighting, numbers, postings, lengths, .. } = self;
        let n = lengths.len();
        let sizes = match weighting {
            Weighting::Bm25 => {
                let mean = lengths.iter().sum::<f64>() / n.max(1) as f64;
                // no text has a word: none is longer than another
                let relative = |length: &f64| if mean > 0.0 { length / mean } else { 1.0 };
                lengths.iter().map(|length| K1 * (1.0 - B + B * relative(length))).collect()
            }
            Weighting::TfIdf => {
                let mut squares = vec![0.0f64; n];
                for found in &postings {
                    let rarity = rarity(n, found.len());
                    found.iter().for_each(|&(at, count)| squares[at as usize] += (f64::from(count) * rarity).powi(2));
                }
                squares.into_iter().map(f64::sqrt).collect()
            }
        };
        Lexicon { weighting, numbers, postings, sizes }
    }
}

impl Lexicon {
    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// A score for each text: 0 where it shares no word with the query, which is one of those that the lexicon is for.
    pub fn scores(&self, query: &str) -> Vec<f32> {
        let mut scores = vec![0.0f64; self.len()];
        let n = self.len();
        let mut norm = 0.0;
        for (word, often) in counts(query) {
            let found = self.numbers.get(&word).map_or(&[][..], |&number| &self.postings[number]);
            let often = f64::from(often);
            match self.weighting {
                Weighting::Bm25 => {
                    let texts = found.len() as f64;
                    let weight = often * (1.0 + (n as f64 - texts + 0.5) / (texts + 0.5)).ln();
                    for &(at, count) in found {
                        let (at, count) = (at as usize, f64::from(count));
                        scores[at] += weight * count * (K1 + 1.0) / (count + self.sizes[at]);
                    }
                }
                Weighting::TfIdf => {
                    let rarity = rarity(n, found.len());
                    norm += (often * rarity).powi(2);
                    for &(at, count) in found {
                        scores[at as usize] += often * f64::from(count) * rarity * rarity;
                    }
                }
            }
        }
        if self.weighting == Weighting::TfIdf {
            let both = self.sizes.iter().map(|size| size * norm.sqrt());
            scores.iter_mut().zip(both).for_each(|(score, both)| *score /= if both > 0.0 { both } else { 1.0 });
        }
        scores.into_iter().map(|score| score as f32).collect()
    }
}

/// Scores of query `q` that mean nothing, between 0 and 1: that of example m is the first uniform of counter (position m,
/// example q), stream `BASELINE`.
pub fn random_scores(seed: u64, q: usize, examples: usize) -> Vec<f32> {
    let draw = LabelDraw { seed, stream: stream::BASELINE, draw: 0 };
    (0..examples).map(|m| uniforms(words(draw, q as u64, m as u32, 0)).0 as f32).collect()
}

/// `1 + ln((1 + N) / (1 + n))`.
fn rarity(texts: usize, with_word: usize) -> f64 {
    1.0 + ((1 + texts) as f64 / (1 + with_word) as f64).ln()
}

/// How often each word stands in a text: runs of letters and digits, in lower case. In the order of words, so that sums
/// do not depend on the order of a table.
fn counts(text: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        *counts.entry(word.to_lowercase()).or_insert(0u32) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 4] = ["The lamp, the LAMP burns.", "A lamp", "Rain; nothing else at all", ""];

    fn lexicon(weighting: Weighting, query: &str) -> Lexicon {
        let mut builder = LexiconBuilder::new(weighting, [query]);
        TEXTS.iter().for_each(|text| builder.push(text));
        builder.finish()
    }

    #[test]
    fn bm25_is_its_formula() {
        let query = "lamp the lamp? owl";
        let found = lexicon(Weighting::Bm25, query).scores(query);
        // lengths 5, 2, 5, 0
        let (mean, n) = (3.0, 4.0);
        let idf = |texts: f64| f64::ln(1.0 + (n - texts + 0.5) / (texts + 0.5));
        let part = |count: f64, length: f64| count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean));
        let want =
            [2.0 * idf(2.0) * part(2.0, 5.0) + idf(1.0) * part(2.0, 5.0), 2.0 * idf(2.0) * part(1.0, 2.0), 0.0, 0.0];
        for (found, want) in found.iter().zip(want) {
            assert!((f64::from(*found) - want).abs() < 1e-6, "{found} {want}");
        }
    }

    #[test]
    fn tf_idf_is_a_cosine() {
        let lexicon = lexicon(Weighting::TfIdf, "a Lamp");
        let found = lexicon.scores("a Lamp");
        let idf = |texts: f64| 1.0 + f64::ln(5.0 / (1.0 + texts));
        let (a, lamp, the, burns) = (idf(1.0), idf(2.0), idf(1.0), idf(1.0));
        let query = (a * a + lamp * lamp).sqrt();
        let first = (4.0 * the * the + 4.0 * lamp * lamp + burns * burns).sqrt();
        let want = [2.0 * lamp * lamp / (first * query), 1.0, 0.0, 0.0];
        for (found, want) in found.iter().zip(want) {
            assert!((f64::from(*found) - want).abs() < 1e-6, "{found} {want}");
        }
        assert_eq!(lexicon.scores("owl"), [0.0; 4]);
    }

    #[test]
    fn texts_without_words_score_nothing() {
        for weighting in [Weighting::Bm25, Weighting::TfIdf] {
            let mut builder = LexiconBuilder::new(weighting, ["a", "…"]);
            ["", "?", "—"].iter().for_each(|text| builder.push(text));
            let lexicon = builder.finish();
            assert_eq!((lexicon.scores("a"), lexicon.scores("…")), (vec![0.0; 3], vec![0.0; 3]));
        }
    }

    #[test]
    fn chance_depends_on_seed_query_and_example_alone() {
        let scores = random_scores(3, 1, 200);
        assert_eq!(random_scores(3, 1, 50), scores[..50]);
        assert!(random_scores(3, 2, 200) != scores && random_scores(4, 1, 200) != scores);
        let mean = scores.iter().sum::<f32>() / 200.0;
        // uniform: a standard deviation of 0.29 / √200 = 0.02
        assert!(scores.iter().all(|score| (0.0..1.0).contains(score)) && (mean - 0.5).abs() < 0.08, "{mean}");
    }
}
