//! How much rankings depend on the method, damping or time scale: further answers beside the first.

use crate::attribution::evaluate::spearman;
use crate::attribution::store::TensorFile;
use crate::job::error::JobError;
use crate::job::folder::places;
use crate::job::plan::Plan;

/// Scores beyond which the rank correlation is not computed: it sorts every row.
const AT_MOST: usize = 1 << 28;

/// An answer beside the first one.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sensitivity {
    /// Its name.
    pub answer: String,
    /// Spearman's correlation with the first answer's scores over the training examples, mean over queries.
    pub rank_correlation: f64,
}

impl Plan {
    /// Further answers' rank correlations with the first; empty if there is one answer, if score matrices were not
    /// kept, or if they are very large.
    ///
    /// # Errors
    /// If score files cannot be read.
    pub fn sensitivity(&self) -> Result<Vec<Sensitivity>, JobError> {
        let first = places::scores_file(self, 0);
        let others: Vec<usize> = (1..self.answers.len()).filter(|&k| self.answers[k].variant.is_none()).collect();
        if others.is_empty() || !crate::presence::is_file(&first) {
            return Ok(vec![]);
        }
        let first = TensorFile::open_checked(&first)?;
        let n = self.training.columns.len();
        let scores = first.f32("scores")?;
        if scores.len() > AT_MOST {
            return Ok(vec![]);
        }
        let mut found = Vec::with_capacity(others.len());
        for answer in others {
            let file = TensorFile::open_checked(&places::scores_file(self, answer))?;
            let other = file.f32("scores")?;
            let wide = |row: &[f32]| row.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            let rows = scores.chunks_exact(n).zip(other.chunks_exact(n));
            let correlations: Vec<f64> = rows.map(|(a, b)| spearman(&wide(a), &wide(b))).collect();
            let rank_correlation = correlations.iter().sum::<f64>() / correlations.len().max(1) as f64;
            found.push(Sensitivity { answer: self.answers[answer].name.clone(), rank_correlation });
        }
        Ok(found)
    }
}
