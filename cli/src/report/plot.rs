//! The report's drawings: bars on a common axis and the distribution of a query's scores, as paths of SVG.
//!
//! Each says in a text beside it what it shows, and a number stands wherever a length or a colour does.

use serde::Serialize;

use crate::words;

/// Width of a bar's axis, with zero in the middle.
const BAR: f64 = 200.0;

/// A score as a bar from the middle of an axis that all bars of a query share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Bar {
    /// Where it begins, from the left.
    pub(crate) x: f64,
    /// How long it is; at least visible.
    pub(crate) width: f64,
}

impl Bar {
    /// A score where the longest bar is `largest`.
    pub(crate) fn of(score: f32, largest: f32) -> Self {
        let share = if largest > 0.0 { f64::from(score / largest).clamp(-1.0, 1.0) } else { 0.0 };
        let width = (share.abs() * BAR / 2.0).max(1.0);
        let x = if share < 0.0 { BAR / 2.0 - width } else { BAR / 2.0 };
        Self { x: tenth(x), width: tenth(width) }
    }
}

/// An interval of scores as a line on the axis of bars.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Span {
    /// Its left end, from the left.
    pub(crate) x: f64,
    /// How long it is; at least visible.
    pub(crate) width: f64,
}

impl Span {
    /// From the lowest to the highest, where the longest bar is `largest`.
    pub(crate) fn of([low, high]: [f32; 2], largest: f32) -> Self {
        let place = |score: f32| {
            let share = if largest > 0.0 { f64::from(score / largest).clamp(-1.0, 1.0) } else { 0.0 };
            BAR / 2.0 * (1.0 + share)
        };
        Self { x: tenth(place(low)), width: tenth((place(high) - place(low)).max(1.0)) }
    }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 96.0;
const BINS: usize = 64;

/// The distribution of all scores of a query.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Histogram {
    /// Columns whose height is the logarithm of a count, as a path.
    pub(crate) columns: String,
    /// Marks of the positive scores that are shown as cards, as a path.
    pub(crate) helping: String,
    /// Marks of the negative scores that are shown as cards, as a path.
    pub(crate) hurting: String,
    /// Where zero is.
    pub(crate) zero: f64,
    /// The ends of the axis.
    pub(crate) ends: [String; 2],
    /// What it shows, in words.
    pub(crate) words: String,
}

impl Histogram {
    /// Of all scores, with the shown ones marked; none if there is nothing to tell apart.
    pub(crate) fn of(scores: &[f32], shown: &[f32]) -> Option<Self> {
        let mut sorted: Vec<f32> = scores.iter().copied().filter(|score| score.is_finite()).collect();
        sorted.sort_by(f32::total_cmp);
        let (low, high) = (sorted.first()?.min(0.0), sorted.last()?.max(0.0));
        if high <= low || sorted.len() < 3 {
            return None;
        }
        let place = |score: f32| f64::from(score - low) / f64::from(high - low);
        let mut counts = [0usize; BINS];
        for score in &sorted {
            counts[((place(*score) * BINS as f64) as usize).min(BINS - 1)] += 1;
        }
        let most = counts.iter().copied().max().unwrap_or(1) as f64;
        let step = WIDTH / BINS as f64;
        let mut columns = String::new();
        for (bin, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            // a single score is a column that is seen
            let height = HEIGHT * (1.0 + *count as f64).ln() / (1.0 + most).ln();
            columns.push_str(&format!(
                "M{:.1} {HEIGHT}v-{height:.1}h{:.1}v{height:.1}z",
                bin as f64 * step,
                step - 1.0
            ));
        }
        let marks = |of: fn(&f32) -> bool| {
            let ticks = shown.iter().filter(|score| of(score));
            ticks.map(|score| format!("M{:.1} {:.1}v8", place(*score) * WIDTH, HEIGHT + 2.0)).collect::<String>()
        };
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        let positive = sorted.iter().filter(|score| **score > 0.0).count();
        Some(Self {
            columns,
            helping: marks(|score| *score > 0.0),
            hurting: marks(|score| *score < 0.0),
            zero: tenth(place(0.0) * WIDTH),
            ends: [low, high].map(words::score),
            words: format!(
                "All {} training examples: {} of them helped, the others hurt or did nothing. Half of all scores lie \
                 between {} and {}. Columns count examples on a logarithmic scale; the ticks below are those listed \
                 here.",
                words::count(sorted.len() as u64),
                words::count(positive as u64),
                words::score(at(0.25)),
                words::score(at(0.75)),
            ),
        })
    }
}

/// One of nine steps from -4 to 4, for the shade of a cell of which the number is written in it.
pub(crate) fn shade(score: f32, largest: f32) -> i8 {
    if largest > 0.0 { (score / largest * 4.0).round().clamp(-4.0, 4.0) as i8 } else { 0 }
}

/// The name of a shade in the page's style.
pub(crate) fn shade_class(step: i8) -> String {
    match step {
        0 => "z".to_owned(),
        step if step > 0 => format!("p{step}"),
        step => format!("n{}", -step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_start_in_the_middle() {
        assert_eq!(Bar::of(2.0, 4.0), Bar { x: 100.0, width: 50.0 });
        assert_eq!(Bar::of(-4.0, 4.0), Bar { x: 0.0, width: 100.0 });
        assert_eq!(Bar::of(0.0, 0.0), Bar { x: 100.0, width: 1.0 });
    }

    #[test]
    fn intervals_lie_on_the_axis_of_bars() {
        assert_eq!(Span::of([-1.0, 2.0], 4.0), Span { x: 75.0, width: 75.0 });
        assert_eq!(Span::of([3.0, 3.0], 4.0), Span { x: 175.0, width: 1.0 });
        assert_eq!(Span::of([0.0, 0.0], 0.0), Span { x: 100.0, width: 1.0 });
    }

    #[test]
    fn a_histogram_says_what_it_shows() {
        let scores = [-1.0, 0.0, 0.1, 0.2, 3.0, f32::NAN];
        let found = Histogram::of(&scores, &[3.0, -1.0]).expect("scores differ");
        assert!(found.words.starts_with("All 5 training examples: 3 of them helped"), "{}", found.words);
        assert_eq!((found.zero, found.ends.clone()), (160.0, ["-1.000".to_owned(), "+3.000".to_owned()]));
        assert_eq!((found.helping.as_str(), found.hurting.as_str()), ("M640.0 98.0v8", "M0.0 98.0v8"));
        assert_eq!(Histogram::of(&[0.0, 0.0, 0.0, 0.0], &[]), None);
    }

    #[test]
    fn shades_are_nine() {
        assert_eq!([shade(1.0, 1.0), shade(-0.5, 1.0), shade(0.1, 1.0), shade(1.0, 0.0)], [4, -2, 0, 0]);
    }
}
