//! Are predicted amounts as large as what retraining gave?
//!
//! For each query the least-squares line, with intercept, of the measured over the predicted changes: its slope is 1
//! where amounts are right and below 1 where predictions are too large. The intercept takes up what all subsets share:
//! half a training set is half a training, whichever half it is.

use serde::Serialize;

use super::bootstrap::Intervals;

/// Slopes of outcome on prediction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slopes {
    /// Median over queries: a few queries whose predictions hardly vary have wild slopes.
    pub median: f64,
    /// None without resamples.
    pub intervals: Option<Intervals>,
    /// Every query by itself; none if all predictions are equal.
    pub per_query: Vec<Option<f64>>,
}

/// Predicted and measured changes of one query, centred.
#[derive(Debug, Clone)]
pub(super) struct Line {
    predicted: Vec<f64>,
    measured: Vec<f64>,
    /// A squared deviation below this is rounding.
    rounding: f64,
}

impl Line {
    pub(super) fn new(predicted: &[f64], measured: &[f64]) -> Self {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let centred = |values: &[f64]| -> Vec<f64> {
            let mean = mean(values);
            values.iter().map(|value| value - mean).collect()
        };
        let largest = predicted.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
        let rounding = (1e-12 * largest).powi(2);
        Self { predicted: centred(predicted), measured: centred(measured), rounding }
    }

    /// The slope in the resample that holds subset `j` `weights[j]` times; none if all its predictions are equal.
    pub(super) fn slope(&self, weights: &[u32]) -> Option<f64> {
        let (mut n, mut sum_x, mut sum_y) = (0.0, 0.0, 0.0);
        for ((&w, x), y) in weights.iter().zip(&self.predicted).zip(&self.measured) {
            let w = f64::from(w);
            n += w;
            sum_x += w * x;
            sum_y += w * y;
        }
        let (mean_x, mean_y) = (sum_x / n, sum_y / n);
        let (mut covariance, mut variance) = (0.0, 0.0);
        for ((&w, x), y) in weights.iter().zip(&self.predicted).zip(&self.measured) {
            let w = f64::from(w);
            covariance += w * (x - mean_x) * (y - mean_y);
            variance += w * (x - mean_x).powi(2);
        }
        (variance > n * self.rounding).then(|| covariance / variance)
    }
}

/// The middle value; between the two middle ones of an even number. None without values.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line through `(x, y)` by its normal equations.
    fn by_definition(x: &[f64], y: &[f64]) -> f64 {
        let n = x.len() as f64;
        let (sx, sy) = (x.iter().sum::<f64>(), y.iter().sum::<f64>());
        let (mut sxx, mut sxy) = (0.0, 0.0);
        for i in 0..x.len() {
            sxx += x[i] * x[i];
            sxy += x[i] * y[i];
        }
        (n * sxy - sx * sy) / (n * sxx - sx * sx)
    }

    #[test]
    fn slopes_are_least_squares_in_the_data_and_in_resamples() {
        let (x, y) = ([3.0, -1.0, 4.0, 1.5, -5.0], [2.0, 0.5, 7.0, 1.0, -2.5]);
        let line = Line::new(&x, &y);
        let found = line.slope(&[1; 5]).expect("varies");
        assert!((found - by_definition(&x, &y)).abs() < 1e-14, "{found}");
        // an amount that all subsets share changes nothing
        let shifted = Line::new(&x.map(|x| x + 1000.0), &y.map(|y| y - 70.0)).slope(&[1; 5]).expect("varies");
        assert!((found - shifted).abs() < 1e-12, "{shifted}");
        let chosen = [4usize, 1, 1, 0, 4];
        let mut weights = [0; 5];
        chosen.iter().for_each(|&i| weights[i] += 1);
        let resampled = by_definition(&chosen.map(|i| x[i]), &chosen.map(|i| y[i]));
        assert!((line.slope(&weights).expect("varies") - resampled).abs() < 1e-13);
        assert_eq!(line.slope(&[0, 3, 0, 0, 0]), None, "one point has no slope");
        assert_eq!(Line::new(&[0.1 + 0.2, 0.3, 0.3], &[1.0, 2.0, 4.0]).slope(&[1; 3]), None, "rounding is no slope");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, -1.0, 2.0]), Some(2.0));
        assert_eq!(median([3.0, -1.0, 2.0, 8.0]), Some(2.5));
        assert_eq!(median([]), None);
    }
}
