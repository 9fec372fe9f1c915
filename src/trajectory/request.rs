//! What a person asks of a training run: where it lies, and what they state about it.

use std::path::{Path, PathBuf};

use ascribe_attribution::trajectory::{CheckpointWeights, SegmentRule};
use serde::{Deserialize, Serialize};

use super::trainer::{self, Gaps, TrainerOptions};
use crate::trajectory::error::ReadError;
use crate::trajectory::reading::{ClippingUse, Reading};
use crate::trajectory::toml_file;

/// The description of a run that a folder may hold; it is then read instead of the folder's own files.
const DESCRIPTION: &str = "trajectory.toml";

/// Which training run, and what a person states about it: `[trajectory]` of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrajectoryRequest {
    /// A Trainer's output folder, or a TOML file, or a folder with a `trajectory.toml`.
    pub path: PathBuf,
    /// How each stage is cut into segments.
    #[serde(default)]
    pub segments: SegmentRequest,
    /// Weights of the checkpoints in a segment.
    #[serde(default)]
    pub checkpoint_weights: WeightsRequest,
    /// Whether gradient clipping lowers the effective rates.
    #[serde(default)]
    pub clipping: ClippingRequest,
    /// Rates that nothing tells are interpolated between recorded ones instead of refused.
    #[serde(default)]
    pub interpolate_rates: bool,
    /// Processes of the training run, where it is not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<usize>,
    /// What training divided the loss by; it wins over what is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScaleRequest>,
    /// What each example counts beside its targets.
    #[serde(default, skip_serializing_if = "ExampleWeightsRequest::is_alike")]
    pub example_weights: ExampleWeightsRequest,
}

impl TrajectoryRequest {
    /// A run with every choice at its default.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            segments: SegmentRequest::Auto,
            checkpoint_weights: WeightsRequest::Uniform,
            clipping: ClippingRequest::Count,
            interpolate_rates: false,
            processes: None,
            loss_scale: None,
            example_weights: ExampleWeightsRequest::Alike,
        }
    }

    /// Reads the run: one [`Reading`] for each stage, first trained first.
    ///
    /// # Errors
    /// Nothing at the path; files that are missing, damaged or disagree; rates that nothing tells.
    pub fn read(&self) -> Result<Vec<Reading>, ReadError> {
        let gaps = if self.interpolate_rates { Gaps::Interpolate } else { Gaps::Refuse };
        if reads_trainer_folder(&self.path)? {
            return Ok(vec![trainer::read(&self.path, &TrainerOptions { gaps, ..TrainerOptions::default() })?]);
        }
        described(&self.path, gaps)
    }
}

/// Reads a run that a TOML file describes, given as the file or as a folder that holds it: one [`Reading`] for each
/// stage, first trained first, and none of a Trainer's folder.
///
/// # Errors
/// Nothing at the path; a description that cannot be read.
pub fn read_description(path: &Path) -> Result<Vec<Reading>, ReadError> {
    if reads_trainer_folder(path)? {
        return Ok(vec![]);
    }
    described(path, Gaps::Refuse)
}

fn described(path: &Path, gaps: Gaps) -> Result<Vec<Reading>, ReadError> {
    match is_folder(path)? {
        true => toml_file::read(&path.join(DESCRIPTION), gaps),
        false => toml_file::read(path, gaps),
    }
}

/// Whether a training run is read from the files of a Trainer's output folder: a folder without a description of its
/// own.
///
/// # Errors
/// Nothing at the path.
pub fn reads_trainer_folder(path: &Path) -> Result<bool, ReadError> {
    Ok(is_folder(path)? && !crate::presence::is_file(&path.join(DESCRIPTION)))
}

fn is_folder(path: &Path) -> Result<bool, ReadError> {
    let metadata = std::fs::metadata(path);
    Ok(metadata.map_err(|source| ReadError::Read { file: path.to_path_buf(), source })?.is_dir())
}

/// How each stage is cut into segments, as text: `auto`, `3`, `steps:3`, `rate-drops`, `ends:333,667`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "TextOrNumber", try_from = "TextOrNumber")]
pub enum SegmentRequest {
    /// What the run's description says; else three segments, or as many as there are checkpoints if those are fewer.
    #[default]
    Auto,
    /// By a rule; border steps are counted within a stage, so they need a run of one stage.
    Rule(SegmentRule),
}

impl std::str::FromStr for SegmentRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = |text: &str| text.parse::<usize>().ok().filter(|&n| n > 0);
        let rule = match (text, text.split_once(':')) {
            ("auto", _) => return Ok(Self::Auto),
            ("rate-drops", _) => Some(SegmentRule::AtRateDrops),
            (_, Some(("steps", n))) => count(n).map(SegmentRule::EqualSteps),
            (_, Some(("ends", steps))) => {
                let steps: Option<Vec<usize>> = steps.split(',').map(|step| count(step.trim())).collect();
                steps.map(SegmentRule::Given)
            }
            _ => count(text).map(SegmentRule::EqualCheckpoints),
        };
        rule.map(Self::Rule).ok_or_else(|| {
            format!("`{text}` does not say how to cut training into segments: write `auto`, a number such as `3` (equal numbers of checkpoints), `steps:3` (equal numbers of steps), `rate-drops`, or `ends:333,667` (steps at which segments end)")
        })
    }
}

impl std::fmt::Display for SegmentRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Rule(SegmentRule::EqualCheckpoints(n)) => write!(f, "{n}"),
            Self::Rule(SegmentRule::EqualSteps(n)) => write!(f, "steps:{n}"),
            Self::Rule(SegmentRule::Given(ends)) => {
                let ends: Vec<String> = ends.iter().map(usize::to_string).collect();
                write!(f, "ends:{}", ends.join(","))
            }
            Self::Rule(_) => f.write_str("rate-drops"),
        }
    }
}

/// What training divided the loss by, as text or as a number.
///
/// # Source
/// `docs/method.md`, Source, table of `c`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "TextOrNumber", try_from = "TextOrNumber")]
pub enum LossScaleRequest {
    /// `mean`: over the batch, one loss for each example.
    Mean,
    /// `sum`: over the batch.
    Sum,
    /// `token-mean`: over the batch's label tokens.
    TokenMean,
    /// The number `c` itself.
    Number(f64),
}

impl std::str::FromStr for LossScaleRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "mean" => Ok(Self::Mean),
            "sum" => Ok(Self::Sum),
            "token-mean" => Ok(Self::TokenMean),
            _ => match text.parse::<f64>() {
                Ok(c) if c.is_finite() && c > 0.0 => Ok(Self::Number(c)),
                _ => {
                    Err(format!("`{text}` is not a loss scale: write `mean`, `token-mean`, `sum`, or a number above 0"))
                }
            },
        }
    }
}

impl std::fmt::Display for LossScaleRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mean => f.write_str("mean"),
            Self::Sum => f.write_str("sum"),
            Self::TokenMean => f.write_str("token-mean"),
            Self::Number(c) => write!(f, "{c:e}"),
        }
    }
}

/// Weights of the checkpoints in a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsRequest {
    /// All the same.
    #[default]
    Uniform,
    /// The share of the segment's `Σ η` for which a checkpoint is the nearest.
    Nearest,
}

impl From<WeightsRequest> for CheckpointWeights {
    fn from(weights: WeightsRequest) -> Self {
        match weights {
            WeightsRequest::Uniform => Self::Uniform,
            WeightsRequest::Nearest => Self::Nearest,
        }
    }
}

/// What each example counts beside its targets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExampleWeightsRequest {
    /// Every target counts alike.
    #[default]
    Alike,
    /// An example counts what it did in the means over batches that training took, on average over the orders of the data.
    Batches,
}

impl ExampleWeightsRequest {
    fn is_alike(&self) -> bool {
        *self == Self::Alike
    }
}

/// Whether gradient clipping lowers the effective rates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClippingRequest {
    /// Where norms are logged.
    #[default]
    Count,
    /// Rates count as the schedule has them.
    Ignore,
}

impl From<ClippingRequest> for ClippingUse {
    fn from(clipping: ClippingRequest) -> Self {
        match clipping {
            ClippingRequest::Count => Self::Count,
            ClippingRequest::Ignore => Self::Ignore,
        }
    }
}

/// How a value stands in a job file: `segments = 3` and `segments = "3"` are the same.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Number(f64),
    Text(String),
}

impl TextOrNumber {
    fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

impl From<SegmentRequest> for TextOrNumber {
    fn from(request: SegmentRequest) -> Self {
        Self::Text(request.to_string())
    }
}

impl TryFrom<TextOrNumber> for SegmentRequest {
    type Error = String;

    fn try_from(value: TextOrNumber) -> Result<Self, String> {
        value.into_text().parse()
    }
}

impl From<LossScaleRequest> for TextOrNumber {
    fn from(request: LossScaleRequest) -> Self {
        match request {
            LossScaleRequest::Number(c) => Self::Number(c),
            other => Self::Text(other.to_string()),
        }
    }
}

impl TryFrom<TextOrNumber> for LossScaleRequest {
    type Error = String;

    fn try_from(value: TextOrNumber) -> Result<Self, String> {
        value.into_text().parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_written_in_five_ways() {
        let rule = |text: &str| match text.parse() {
            Ok(SegmentRequest::Rule(rule)) => Some(rule),
            _ => None,
        };
        assert_eq!("auto".parse(), Ok(SegmentRequest::Auto));
        assert_eq!(rule("3"), Some(SegmentRule::EqualCheckpoints(3)));
        assert_eq!(rule("steps:2"), Some(SegmentRule::EqualSteps(2)));
        assert_eq!(rule("rate-drops"), Some(SegmentRule::AtRateDrops));
        assert_eq!(rule("ends:333, 667"), Some(SegmentRule::Given(vec![333, 667])));
        for bad in ["", "0", "three", "steps:", "steps:0", "ends:", "ends:3,,4", "-1", "2.5", "rates:3"] {
            assert!(bad.parse::<SegmentRequest>().is_err(), "{bad}");
        }
        for text in ["auto", "3", "steps:2", "rate-drops", "ends:333,667"] {
            assert_eq!(text.parse::<SegmentRequest>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn loss_scales_are_words_or_numbers() {
        assert_eq!("token-mean".parse(), Ok(LossScaleRequest::TokenMean));
        assert_eq!("0.125".parse(), Ok(LossScaleRequest::Number(0.125)));
        for bad in ["", "0", "-1", "nan", "inf", "median"] {
            assert!(bad.parse::<LossScaleRequest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_job_file_holds_it_and_gives_it_back() {
        let text = "path = 'run'\nsegments = 2\nloss_scale = 0.25\ncheckpoint_weights = 'nearest'\n";
        let request: TrajectoryRequest = toml::from_str(text).unwrap();
        assert_eq!(request.segments, SegmentRequest::Rule(SegmentRule::EqualCheckpoints(2)));
        assert_eq!(request.loss_scale, Some(LossScaleRequest::Number(0.25)));
        assert_eq!(request.checkpoint_weights, WeightsRequest::Nearest);
        assert_eq!(
            (request.clipping, request.interpolate_rates, request.processes),
            (ClippingRequest::Count, false, None)
        );
        let written = toml::to_string(&request).unwrap();
        assert_eq!(toml::from_str::<TrajectoryRequest>(&written).unwrap(), request);
        assert_eq!(toml::from_str::<TrajectoryRequest>("path = 'run'").unwrap(), TrajectoryRequest::new("run".into()));
        let error = toml::from_str::<TrajectoryRequest>("path = 'run'\nsegmnts = 2").unwrap_err().to_string();
        assert!(error.contains("segmnts"), "{error}");
        let error = toml::from_str::<TrajectoryRequest>("path = 'run'\nsegments = 0").unwrap_err().to_string();
        assert!(error.contains("`0` does not say how to cut training into segments"), "{error}");
    }
}
