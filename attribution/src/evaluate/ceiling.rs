//! How well a perfect prediction could do, given that retraining itself is noisy.
//!
//! Seeds are split in halves; `r` is the rank correlation of the halves' means. By Spearman and Brown
//! the reliability of the mean over all S seeds is `k r / (1 + (k − 1) r)` with `k = S / ⌊S/2⌋`, and a
//! prediction of the expected outcome correlates with that mean by the root of its reliability.
//!
//! # Source
//! `docs/evaluation.md`.

use ascribe_curvature::LabelDraw;
use ascribe_curvature::random::{stream, uniforms, words};
use rayon::prelude::*;
use serde::Serialize;

use super::EvaluateError;
use super::outcomes::{Outcomes, PerSeed};
use super::spearman::spearman;

/// Splits over which the ceiling is averaged by default.
pub const SPLITS: usize = 50;

/// The figure that no method can be expected to pass.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ceiling {
    /// S.
    pub seeds: usize,
    /// Splits averaged over.
    pub splits: usize,
    /// Half against half: mean over splits and queries.
    pub half_against_half: f64,
    /// From `half_against_half`; comparable with an LDS, which is also a mean over queries.
    pub ceiling: f64,
    /// From each query's own correlation of halves.
    pub per_query: Vec<f64>,
}

/// Averages over `splits` splits of the seeds: all different ones if there are no more than that,
/// random ones otherwise.
///
/// # Errors
/// [`EvaluateError::TooFew`] without two seeds, two subsets or a query.
pub fn noise_ceiling(outcomes: &Outcomes, splits: usize, seed: u64) -> Result<Ceiling, EvaluateError> {
    let (subsets, queries) = (outcomes.subsets(), outcomes.queries());
    let seeds = outcomes.per_seed().map_or(1, |every| every.seeds);
    for (axis, needed, found) in [("seeds", 2, seeds), ("subsets", 2, subsets), ("queries", 1, queries)] {
        if found < needed {
            return Err(EvaluateError::TooFew { figure: "the noise ceiling", axis, needed, found });
        }
    }
    let splits = splits.max(1);
    let halves = every_split(seeds, splits).unwrap_or_else(|| random_splits(seeds, splits, seed));
    let correlations: Vec<Vec<f64>> = halves
        .par_iter()
        .map(|(first, second)| split_half(outcomes, first, second).unwrap_or_else(|| vec![0.0; queries]))
        .collect();
    let of_query = |q: usize| correlations.iter().map(|split| split[q]).sum::<f64>() / correlations.len() as f64;
    let per_query: Vec<f64> = (0..queries).map(of_query).collect();
    let half_against_half = per_query.iter().sum::<f64>() / queries as f64;
    Ok(Ceiling {
        seeds,
        splits: halves.len(),
        half_against_half,
        ceiling: from_halves(half_against_half, seeds),
        per_query: per_query.iter().map(|&r| from_halves(r, seeds)).collect(),
    })
}

/// For each query, the rank correlation over subsets between the means of two groups of seeds; none if
/// the outcomes have no seeds or a group is empty or names a seed that is not there.
pub fn split_half(outcomes: &Outcomes, first: &[usize], second: &[usize]) -> Option<Vec<f64>> {
    let PerSeed { values, seeds } = outcomes.per_seed()?;
    let valid = |group: &[usize]| !group.is_empty() && group.iter().all(|s| s < seeds);
    if !valid(first) || !valid(second) {
        return None;
    }
    let (subsets, queries) = (outcomes.subsets(), outcomes.queries());
    let mean = |group: &[usize], q: usize| -> Vec<f64> {
        let value = |j: usize, s: usize| f64::from(values[(j * seeds + s) * queries + q]);
        (0..subsets).map(|j| group.iter().map(|&s| value(j, s)).sum::<f64>() / group.len() as f64).collect()
    };
    Some((0..queries).map(|q| spearman(&mean(first, q), &mean(second, q))).collect())
}

fn from_halves(r: f64, seeds: usize) -> f64 {
    let k = seeds as f64 / (seeds / 2) as f64;
    // A negative r says that nothing is reproducible.
    let r = r.max(0.0);
    (k * r / (1.0 + (k - 1.0) * r)).sqrt()
}

type Halves = (Vec<usize>, Vec<usize>);

/// Every pair of disjoint groups of ⌊S/2⌋ seeds, if there are at most `limit`.
fn every_split(seeds: usize, limit: usize) -> Option<Vec<Halves>> {
    // 10 seeds have 126 splits, 12 have 462.
    if seeds > 12 {
        return None;
    }
    let half = (seeds / 2) as u32;
    let groups: Vec<u32> = (0..1u32 << seeds).filter(|group| group.count_ones() == half).collect();
    let members = |group: u32| (0..seeds).filter(|s| group >> s & 1 == 1).collect();
    let mut splits = Vec::new();
    for (at, &first) in groups.iter().enumerate() {
        for &second in groups[at + 1..].iter().filter(|&&second| second & first == 0) {
            if splits.len() == limit {
                return None;
            }
            splits.push((members(first), members(second)));
        }
    }
    Some(splits)
}

/// Shuffles of the seeds: stream `BOOTSTRAP`, draw 2, example = number of the split, position = step.
fn random_splits(seeds: usize, splits: usize, seed: u64) -> Vec<Halves> {
    let draw = LabelDraw { seed, stream: stream::BOOTSTRAP, draw: 2 };
    let half = seeds / 2;
    let split = |number: usize| {
        let mut order: Vec<usize> = (0..seeds).collect();
        for i in 0..2 * half {
            let (u, _) = uniforms(words(draw, number as u64, i as u32, 0));
            order.swap(i, i + (u * (seeds - i) as f64) as usize);
        }
        (order[..half].to_vec(), order[half..2 * half].to_vec())
    };
    (0..splits).map(split).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::golden;
    use super::*;
    use ascribe_curvature::Hint;

    fn with_seeds(every: &[Vec<f32>], subsets: usize, queries: usize) -> Outcomes {
        // `every`: one [J, Q] matrix for each seed.
        let seeds = every.len();
        let mut values = Vec::new();
        for j in 0..subsets {
            every.iter().for_each(|seed| values.extend_from_slice(&seed[j * queries..(j + 1) * queries]));
        }
        let per_seed = Some(PerSeed { values, seeds });
        Outcomes::new("gain", every[0].clone(), subsets, queries, per_seed, None).expect("finite")
    }

    #[test]
    fn golden_halves_and_ceiling() {
        let golden = &golden::evaluation()["noise_ceiling"];
        let runs = golden["gain_by_seed"].as_array().expect("a list");
        let every: Vec<Vec<f32>> = runs.iter().map(|run| golden::by_subset(&golden::matrix(run))).collect();
        let outcomes = with_seeds(&every, 10, 3);
        let halves = split_half(&outcomes, &[0, 1], &[2, 3]).expect("four seeds");
        let wants = golden::list(&golden["split_half"]).into_iter().zip(golden::list(&golden["ceiling"]));
        for (&found, (half, ceiling)) in halves.iter().zip(wants) {
            // Rank sums are whole numbers; one root and one quotient.
            assert!((found - half).abs() < 1e-14, "{found} {half}");
            assert!((from_halves(found, 4) - ceiling).abs() < 1e-14);
        }
        let all = noise_ceiling(&outcomes, SPLITS, 0).expect("four seeds");
        assert_eq!((all.seeds, all.splits), (4, 3));
        let others = [([0, 2], [1, 3]), ([0, 3], [1, 2])];
        let others = others.map(|(a, b)| split_half(&outcomes, &a, &b).expect("four seeds"));
        for q in 0..3 {
            let mean = (halves[q] + others[0][q] + others[1][q]) / 3.0;
            assert!((all.per_query[q] - from_halves(mean, 4)).abs() < 1e-14);
        }
    }

    #[test]
    fn splits_are_disjoint_halves() {
        for (seeds, count) in [(2, 1), (3, 3), (4, 3), (5, 15), (6, 10), (8, 35)] {
            assert_eq!(every_split(seeds, 50).map(|splits| splits.len()), Some(count), "{seeds} seeds");
        }
        assert!(every_split(7, 50).is_none() && every_split(10, 50).is_none(), "70 and 126 splits");
        for (first, second) in random_splits(7, 50, 3).into_iter().chain(every_split(5, 50).expect("15")) {
            let mut both = [first.clone(), second.clone()].concat();
            both.sort_unstable();
            both.dedup();
            assert_eq!((first.len(), both.len()), (second.len(), 2 * first.len()));
        }
    }

    #[test]
    fn one_seed_has_no_ceiling_and_pure_noise_none_above_zero() {
        let one = with_seeds(&[vec![1.0, 2.0, 3.0]], 3, 1);
        let error = noise_ceiling(&one, 50, 0).expect_err("one seed");
        assert_eq!(error.to_string(), "the noise ceiling needs at least 2 seeds, there are 1");
        assert!(error.hint().is_some());
        assert_eq!(split_half(&one, &[0], &[1]), None);
        let opposed = with_seeds(&[vec![1.0, 2.0, 3.0], vec![3.0, 2.0, 1.0]], 3, 1);
        let ceiling = noise_ceiling(&opposed, 50, 0).expect("two seeds");
        assert_eq!((ceiling.half_against_half, ceiling.ceiling), (-1.0, 0.0));
    }

    #[test]
    #[allow(clippy::print_stderr, reason = "a test says what it lacks")]
    fn recorded_ceilings_of_real_retraining() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
        for (set, name, half, ceiling) in
            [("fashion-mnist-mlp", "margin", 0.767, 0.944), ("concrete-mlp", "prediction", 0.899, 0.973)]
        {
            let path = folder.join(set).join("outcomes.safetensors");
            if !path.exists() {
                eprintln!("skipped: no {}", path.display());
                continue;
            }
            let outcomes = Outcomes::read(&path, name, None).expect("a readable file");
            let found = noise_ceiling(&outcomes, SPLITS, 0).expect("several seeds");
            // Recorded from 50 random splits, to three digits.
            assert!((found.half_against_half - half).abs() < 0.005, "{set}: {}", found.half_against_half);
            assert!((found.ceiling - ceiling).abs() < 0.005, "{set}: {}", found.ceiling);
        }
    }
}
