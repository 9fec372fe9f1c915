//! What a filter missed, as a random sample of the examples that it left out shows it.

use serde::{Deserialize, Serialize};

use super::bootstrap::Interval;

/// What a filter before a run kept of one side of a query's ranking.
///
/// Candidates are the examples that the filter chose, the control sample is drawn at random from all others, and both have
/// exact scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlRecall {
    /// Candidates that are listed: the strongest on this side, as many as were asked for or as there are.
    pub listed: usize,
    /// The score that an example has to exceed to belong among them: that of the last listed candidate, 0 where fewer
    /// candidates than were asked for are on this side.
    pub threshold: f32,
    /// The strongest score of the control sample, on whichever side it is; none without a control sample.
    pub best_control: Option<f32>,
    /// Examples of the control sample beyond the threshold.
    pub beyond: usize,
    /// Of all examples at or beyond the threshold the share that is among the candidates, `listed / (listed + missed)`,
    /// where `missed` is the number left out times the share of the control sample that is beyond. None without a
    /// control sample, or if no example is beyond.
    pub recall: Option<f64>,
    /// 95 %: the recall at the ends of Clopper and Pearson's interval of that share. A control sample of everything that
    /// was left out leaves nothing open.
    pub interval: Option<Interval>,
}

/// Which side of a ranking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankedSide {
    /// The highest scores, above 0.
    Proponents,
    /// The lowest scores, below 0.
    Opponents,
}

/// Measures what a filter kept of the `top` strongest examples of one side. `scores` are a query's, `is_control` says
/// which of them are the control sample's, and `left_out` is the number of examples that are no candidates, those of the
/// control sample among them.
///
/// # Panics
/// If there are not as many flags as scores, or more of the control sample than were left out.
pub fn control_recall(
    scores: &[f32],
    is_control: &[bool],
    left_out: usize,
    top: usize,
    side: RankedSide,
) -> ControlRecall {
    assert_eq!(scores.len(), is_control.len(), "a flag for each score");
    let sign = if side == RankedSide::Proponents { 1.0 } else { -1.0 };
    let of = |control: bool| {
        scores.iter().zip(is_control).filter(move |(_, is)| **is == control).map(move |(score, _)| sign * score)
    };
    let mut candidates: Vec<f32> = of(false).filter(|score| *score > 0.0).collect();
    candidates.sort_by(|a, b| b.total_cmp(a));
    candidates.truncate(top);
    let listed = candidates.len();
    let threshold = if listed == top { candidates.last().copied().unwrap_or(0.0) } else { 0.0 };
    let (drawn, beyond) = (of(true).count(), of(true).filter(|score| *score > threshold).count());
    assert!(drawn <= left_out, "the control sample is of what was left out");
    let recall = |share: f64| {
        let all = listed as f64 + share * left_out as f64;
        (all > 0.0).then(|| listed as f64 / all)
    };
    let found = (drawn > 0 || left_out == 0).then(|| recall(beyond as f64 / drawn.max(1) as f64)).flatten();
    let interval = found.and_then(|found| {
        if drawn == left_out {
            return Some(Interval { low: found, high: found });
        }
        let (low, high) = clopper_pearson(beyond, drawn);
        // what was seen is there: no fewer are missed
        let at_least = (beyond as f64 / left_out as f64).max(low);
        Some(Interval { low: recall(high)?, high: recall(at_least).unwrap_or(1.0) })
    });
    ControlRecall {
        listed,
        threshold: sign * threshold,
        best_control: of(true).max_by(f32::total_cmp).map(|score| sign * score),
        beyond,
        recall: found,
        interval,
    }
}

/// 95 % interval of a share of which `found` of `drawn` independent draws tell. Draws without replacement tell more, so
/// that it is no narrower than it has to be.
///
/// # Source
/// Clopper and Pearson 1934.
fn clopper_pearson(found: usize, drawn: usize) -> (f64, f64) {
    const TAIL: f64 = 0.025;
    // P(at most k of n), falling in the share
    let at_most = |k: usize, share: f64| {
        let (odds, mut log) = ((share / (1.0 - share)).ln(), drawn as f64 * (1.0 - share).ln());
        let mut sum = log.exp();
        for j in 0..k {
            log += ((drawn - j) as f64 / (j + 1) as f64).ln() + odds;
            sum += log.exp();
        }
        sum
    };
    let solve = |k: usize, wanted: f64| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if at_most(k, middle) > wanted { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    };
    let low = if found == 0 { 0.0 } else { solve(found - 1, 1.0 - TAIL) };
    let high = if found == drawn { 1.0 } else { solve(found, TAIL) };
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::super::lexical::random_scores;
    use super::*;

    #[test]
    fn intervals_of_shares_are_those_of_exact_sums() {
        // binomial sums in Python's whole numbers, bisected
        for (found, drawn, low, high) in [
            (0, 10, 0.0, 0.308_497),
            (3, 10, 0.066_740, 0.652_453),
            (10, 10, 0.691_503, 1.0),
            (5, 200, 0.008_166, 0.057_374),
        ] {
            let (l, h) = clopper_pearson(found, drawn);
            assert!((l - low).abs() < 2e-6 && (h - high).abs() < 2e-6, "{found} of {drawn}: {l} {h}");
        }
    }

    #[test]
    fn recall_is_the_share_of_the_strongest_that_are_candidates() {
        let scores = [5.0, 4.0, -1.0, 3.0, 6.0, 4.5, 1.0, -7.0];
        let is_control = [false, false, false, false, true, true, true, true];
        // 4 of 8 left out are seen; two of them are beyond the second candidate, 4
        let of = |top, side| control_recall(&scores, &is_control, 8, top, side);
        let found = of(2, RankedSide::Proponents);
        assert_eq!((found.listed, found.threshold, found.best_control, found.beyond), (2, 4.0, Some(6.0), 2));
        assert_eq!(found.recall, Some(2.0 / 6.0));
        // three candidates help: whatever helps would be listed beside them
        let found = of(5, RankedSide::Proponents);
        assert_eq!((found.listed, found.threshold, found.beyond, found.recall), (3, 0.0, 3, Some(1.0 / 3.0)));
        let found = of(1, RankedSide::Opponents);
        assert_eq!((found.listed, found.threshold, found.best_control, found.beyond), (1, -1.0, Some(-7.0), 1));
        let none = control_recall(&scores[..4], &[false; 4], 4, 2, RankedSide::Proponents);
        assert_eq!((none.recall, none.interval, none.best_control), (None, None, None));
        let all = control_recall(&scores, &is_control, 4, 2, RankedSide::Proponents);
        assert_eq!((all.recall, all.interval), (Some(0.5), Some(Interval { low: 0.5, high: 0.5 })));
        let whole = control_recall(&scores[..4], &[false; 4], 0, 2, RankedSide::Proponents);
        assert_eq!((whole.recall, whole.interval), (Some(1.0), Some(Interval { low: 1.0, high: 1.0 })));
    }

    #[test]
    fn intervals_hold_the_true_recall() {
        // 50 candidates and 400 others, of which a random 60 are seen; how good the filter is differs
        let (mut held, mut sum, mut truth) = (0, 0.0, 0.0);
        for draw in 0..300 {
            let noise = random_scores(draw, 0, 450);
            let help = (draw % 5) as f32 * 0.2;
            let scores: Vec<f32> = (0..450).map(|m| noise[m] + if m < 50 { help } else { 0.0 }).collect();
            let order = random_scores(draw, 1, 450);
            let mut others: Vec<usize> = (50..450).collect();
            others.sort_by(|&a, &b| order[a].total_cmp(&order[b]));
            let seen: Vec<usize> = (0..50).chain(others[..60].iter().copied()).collect();
            let of_seen: Vec<f32> = seen.iter().map(|&m| scores[m]).collect();
            let is_control: Vec<bool> = seen.iter().map(|&m| m >= 50).collect();
            let found = control_recall(&of_seen, &is_control, 400, 10, RankedSide::Proponents);
            let beyond = scores[50..].iter().filter(|score| **score > found.threshold).count();
            let want = 10.0 / (10 + beyond) as f64;
            let interval = found.interval.expect("a control sample");
            held += usize::from(interval.low <= want && want <= interval.high);
            sum += found.recall.expect("a control sample");
            truth += want;
        }
        assert!(held >= 285, "{held} of 300");
        assert!((sum - truth).abs() / 300.0 < 0.08, "{} {}", sum / 300.0, truth / 300.0);
    }
}
