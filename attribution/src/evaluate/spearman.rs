//! Rank correlation with average ranks, for a sample and for resamples of it.
//!
//! A bootstrap resample is a list of multiplicities, so its ranks follow from one sort of the original
//! values: walking the sorted order and adding up multiplicities costs O(n), where ranking anew costs a
//! sort. Ranks are kept as `2 · rank − (n + 1)`, which are whole numbers: all sums are exact, whatever
//! their order.

/// Ranks from 1, lowest value first; equal values share the mean of their ranks.
///
/// Values must not be NaN.
pub fn average_ranks(values: &[f64]) -> Vec<f64> {
    let mut centred = vec![0.0; values.len()];
    Order::new(values).ranks(&vec![1; values.len()], &mut centred);
    let n = values.len() as f64;
    centred.iter().map(|d| (d + n + 1.0) / 2.0).collect()
}

/// Spearman's correlation, with average ranks for ties; 0 if either side is constant.
///
/// # Panics
/// If the lengths differ.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "both sides of a correlation have one value for each item");
    let ones = vec![1; a.len()];
    let (mut ranks_a, mut ranks_b) = (vec![0.0; a.len()], vec![0.0; b.len()]);
    Order::new(a).ranks(&ones, &mut ranks_a);
    Order::new(b).ranks(&ones, &mut ranks_b);
    correlation(&ones, &ranks_a, &ranks_b)
}

/// The sorted order of a list, with its classes of equal values.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// Items from lowest to highest value.
    items: Vec<u32>,
    /// Where in `items` each class of equal values ends.
    ends: Vec<u32>,
}

impl Order {
    pub(super) fn new(values: &[f64]) -> Self {
        let mut items: Vec<u32> = (0..values.len() as u32).collect();
        items.sort_by(|&i, &j| values[i as usize].total_cmp(&values[j as usize]));
        let value = |at: usize| values[items[at] as usize];
        let ends = (1..=items.len()).filter(|&at| at == items.len() || value(at) != value(at - 1));
        let ends = ends.map(|at| at as u32).collect();
        Self { items, ends }
    }

    /// `2 · rank − (n + 1)` of each item in the resample that holds item `i` `weights[i]` times, where
    /// `n = Σ weights`. Items of weight 0 get the number of the place where they would stand.
    pub(super) fn ranks(&self, weights: &[u32], ranks: &mut [f64]) {
        let total: i64 = weights.iter().map(|&w| i64::from(w)).sum();
        let (mut start, mut below) = (0, 0i64);
        for &end in &self.ends {
            let class = &self.items[start..end as usize];
            let held: i64 = class.iter().map(|&i| i64::from(weights[i as usize])).sum();
            // The class holds the ranks below + 1 ..= below + held, on average below + (held + 1) / 2.
            let rank = (2 * below + held - total) as f64;
            for &i in class {
                ranks[i as usize] = rank;
            }
            below += held;
            start = end as usize;
        }
    }
}

/// Correlation of two lists of centred ranks in which item `i` occurs `weights[i]` times.
pub(super) fn correlation(weights: &[u32], a: &[f64], b: &[f64]) -> f64 {
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for ((&w, &x), &y) in weights.iter().zip(a).zip(b) {
        let w = f64::from(w);
        ab += w * x * y;
        aa += w * x * x;
        bb += w * y * y;
    }
    if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks by counting, as `docs/evaluation.md` and the golden file's generator define them.
    fn ranks_by_definition(x: &[f64]) -> Vec<f64> {
        let count = |holds: &dyn Fn(f64) -> bool| x.iter().filter(|&&y| holds(y)).count() as f64;
        x.iter().map(|&v| count(&|y| y < v) + (count(&|y| y == v) + 1.0) / 2.0).collect()
    }

    fn pearson(a: &[f64], b: &[f64]) -> f64 {
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let (ma, mb) = (mean(a), mean(b));
        let ab: f64 = a.iter().zip(b).map(|(x, y)| (x - ma) * (y - mb)).sum();
        let aa: f64 = a.iter().map(|x| (x - ma).powi(2)).sum();
        let bb: f64 = b.iter().map(|y| (y - mb).powi(2)).sum();
        if aa * bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
    }

    #[test]
    fn ranks_share_ties_and_zero_has_one_sign() {
        let x = [0.5, -0.0, 3.0, 0.0, 0.5, 0.5, -7.0];
        assert_eq!(average_ranks(&x), ranks_by_definition(&x));
        assert_eq!(average_ranks(&x), [5.0, 2.5, 7.0, 2.5, 5.0, 5.0, 1.0]);
    }

    #[test]
    fn spearman_is_the_correlation_of_ranks() {
        let (a, b) = ([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0], [2.0, 7.0, 1.0, 8.0, 2.0, 8.0, 1.0]);
        let want = pearson(&ranks_by_definition(&a), &ranks_by_definition(&b));
        assert!((spearman(&a, &b) - want).abs() < 1e-15); // sums of whole numbers, one root, one quotient
        assert_eq!(spearman(&a, &[4.0; 7]), 0.0, "a constant side predicts nothing");
        assert_eq!(spearman(&a, &a), 1.0);
        assert_eq!(spearman(&a, &a.map(|x| -x)), -1.0);
    }

    #[test]
    fn multiplicities_are_a_resample() {
        let (a, b) = ([3.0, 1.0, 4.0, 1.0, 5.0], [2.0, 7.0, 1.0, 8.0, 2.0]);
        let chosen = [4usize, 1, 1, 0, 3, 1, 4];
        let mut weights = [0u32; 5];
        chosen.iter().for_each(|&i| weights[i] += 1);
        let (mut ranks_a, mut ranks_b) = ([0.0; 5], [0.0; 5]);
        Order::new(&a).ranks(&weights, &mut ranks_a);
        Order::new(&b).ranks(&weights, &mut ranks_b);
        let (x, y): (Vec<f64>, Vec<f64>) = chosen.iter().map(|&i| (a[i], b[i])).unzip();
        assert_eq!(correlation(&weights, &ranks_a, &ranks_b), spearman(&x, &y));
    }
}
