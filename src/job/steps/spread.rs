//! A mean over checkpoints in which each checkpoint's scores have the same spread.
//!
//! With `s_a` the scores of one query at checkpoint `a`, each already times its weight `w_a`, and `d_a` the standard
//! deviation of `s_a / w_a` over the training examples, the mean is `(Σ_a w_a d_a) Σ_a s_a / d_a`: a checkpoint whose
//! scores are large for all examples does not outvote the others, and the unit of the scores stays.

/// The spread-normalised mean of some rows while checkpoints are added.
#[derive(Debug)]
pub(in crate::job) struct SpreadMean {
    /// `Σ_a w_a d_a` of each row so far.
    spreads: Vec<f64>,
}

/// What each row of one checkpoint is divided by.
#[derive(Debug)]
pub(in crate::job) struct Spreads {
    /// `d_a` of each row.
    of_row: Vec<f64>,
}

impl SpreadMean {
    /// A mean over no checkpoint yet, of this many rows.
    pub(in crate::job) fn new(rows: usize) -> Self {
        Self { spreads: vec![0.0; rows] }
    }

    /// Takes in the spread of a checkpoint's scores `[rows, examples]`, which were multiplied by `weight`.
    pub(in crate::job) fn add(&mut self, scores: &[f64], weight: f64) -> Spreads {
        let n = scores.len() / self.spreads.len().max(1);
        let spread = |row: &[f64]| {
            let mean = row.iter().sum::<f64>() / n as f64;
            let variance = row.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n as f64;
            if weight > 0.0 { variance.sqrt() / weight } else { 0.0 }
        };
        let of_row: Vec<f64> = scores.chunks_exact(n.max(1)).map(spread).collect();
        self.spreads.iter_mut().zip(&of_row).for_each(|(sum, spread)| *sum += weight * spread);
        Spreads { of_row }
    }

    /// Gives the sums of divided scores their unit back.
    pub(in crate::job) fn scale(&self, sums: &mut [f64]) {
        let n = sums.len() / self.spreads.len().max(1);
        for (row, spread) in sums.chunks_exact_mut(n.max(1)).zip(&self.spreads) {
            row.iter_mut().for_each(|score| *score *= spread);
        }
    }
}

impl Spreads {
    /// Adds scores `[rows, examples]`, divided by the spread of their row, to `sums`; a row without spread says nothing.
    pub(in crate::job) fn add_divided(&self, scores: &[f64], sums: &mut [f64]) {
        let n = scores.len() / self.of_row.len().max(1);
        let rows = sums.chunks_exact_mut(n.max(1)).zip(scores.chunks_exact(n.max(1)));
        for ((sums, scores), &spread) in rows.zip(&self.of_row) {
            if spread > 0.0 {
                sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score / spread);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two checkpoints, two queries, three examples, by the formula of the module's head.
    #[test]
    fn every_checkpoint_has_the_same_spread() {
        let plain = [[[1.0, 2.0, 6.0], [0.0, -3.0, 3.0]], [[-40.0, 10.0, 30.0], [5.0, 5.0, 5.0]]];
        let weights = [0.25, 0.75];
        let mut sums = vec![0.0; 6];
        let mut mean = SpreadMean::new(2);
        for (scores, weight) in plain.iter().zip(weights) {
            let weighted: Vec<f64> = scores.iter().flatten().map(|score| score * weight).collect();
            mean.add(&weighted, weight).add_divided(&weighted, &mut sums);
        }
        mean.scale(&mut sums);
        let deviation = |row: &[f64; 3]| {
            let mean = row.iter().sum::<f64>() / 3.0;
            (row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 3.0).sqrt()
        };
        for q in 0..2 {
            let unit: f64 = (0..2).map(|a| weights[a] * deviation(&plain[a][q])).sum();
            for m in 0..3 {
                let parts = (0..2).filter(|&a| deviation(&plain[a][q]) > 0.0);
                let want: f64 = parts.map(|a| weights[a] * plain[a][q][m] / deviation(&plain[a][q])).sum();
                assert!((sums[q * 3 + m] - unit * want).abs() < 1e-12, "{q} {m}");
            }
        }
    }

    #[test]
    fn equal_spreads_give_the_plain_mean() {
        let scores = [[1.0, -2.0, 4.0], [-2.0, 4.0, 1.0]];
        let (mut sums, mut mean) = (vec![0.0; 3], SpreadMean::new(1));
        for scores in scores {
            let half = scores.map(|score| score / 2.0);
            mean.add(&half, 0.5).add_divided(&half, &mut sums);
        }
        mean.scale(&mut sums);
        for (m, sum) in sums.iter().enumerate() {
            assert!((sum - (scores[0][m] + scores[1][m]) / 2.0).abs() < 1e-12, "{m}");
        }
    }
}
