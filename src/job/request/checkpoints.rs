//! Influence averaged over the checkpoints of a training run: which checkpoints, and what each counts.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The checkpoints over which influence functions are averaged: those of a training run, or folders in the order of
/// training. Queries are measured at the last one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointsRequest {
    /// A Trainer's output folder, or a TOML file that describes a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<PathBuf>,
    /// Checkpoint folders, first trained first; instead of `run`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<PathBuf>,
    /// What each checkpoint counts.
    #[serde(default)]
    pub weights: MeanWeights,
}

impl CheckpointsRequest {
    /// All checkpoints of a training run, with equal weights.
    pub fn of_run(run: PathBuf) -> Self {
        Self { run: Some(run), ..Self::default() }
    }

    /// Checkpoint folders, first trained first, with equal weights.
    pub fn of_folders(folders: Vec<PathBuf>) -> Self {
        Self { folders, ..Self::default() }
    }
}

/// What each checkpoint counts in a mean, as text: `uniform`, `nearest`, or a number for each checkpoint with commas
/// between.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum MeanWeights {
    /// Every checkpoint counts the same.
    #[default]
    Uniform,
    /// A checkpoint counts the share of the run's learning rates for whose steps it is the nearest.
    Nearest,
    /// These numbers, in the order of training, divided by their sum.
    Given(Vec<f64>),
}

impl FromStr for MeanWeights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|weight| weight.is_finite() && *weight >= 0.0);
        match text {
            "uniform" => Ok(Self::Uniform),
            "nearest" => Ok(Self::Nearest),
            _ => match text.split(',').map(number).collect::<Option<Vec<f64>>>() {
                Some(weights) if weights.iter().sum::<f64>() > 0.0 => Ok(Self::Given(weights)),
                _ => Err(format!(
                    "`{text}` does not say what each checkpoint counts: write `uniform`, `nearest`, or a number for each checkpoint, such as `1,1,2`"
                )),
            },
        }
    }
}

impl fmt::Display for MeanWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Nearest => f.write_str("nearest"),
            Self::Given(weights) => f.write_str(&weights.iter().map(f64::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

impl From<MeanWeights> for String {
    fn from(weights: MeanWeights) -> Self {
        weights.to_string()
    }
}

impl TryFrom<String> for MeanWeights {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// How the scores of each checkpoint enter their mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointScores {
    /// Scores enter the mean unchanged.
    #[default]
    Plain,
    /// Scores are divided by their spread over the training examples, and the mean is multiplied by the mean spread.
    Spread,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_words_or_numbers() {
        for (text, weights) in [
            ("uniform", MeanWeights::Uniform),
            ("nearest", MeanWeights::Nearest),
            ("1,0,2.5", MeanWeights::Given(vec![1.0, 0.0, 2.5])),
            ("3", MeanWeights::Given(vec![3.0])),
        ] {
            assert_eq!(text.parse(), Ok(weights.clone()), "{text}");
            assert_eq!(weights.to_string(), text);
        }
        for bad in ["", "equal", "1,", "1,,2", "-1,2", "0,0", "nan", "inf,1"] {
            assert!(bad.parse::<MeanWeights>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_job_file_holds_them_and_gives_them_back() {
        let text = "run = \"trainer-output\"\nweights = \"1,2\"\n";
        let request: CheckpointsRequest = toml::from_str(text).expect("a request");
        assert_eq!(request.weights, MeanWeights::Given(vec![1.0, 2.0]));
        assert_eq!(toml::to_string(&request).expect("TOML"), text);
        let error = toml::from_str::<CheckpointsRequest>("weights = \"most\"").expect_err("a word").to_string();
        assert!(error.contains("`most` does not say what each checkpoint counts"), "{error}");
    }
}
