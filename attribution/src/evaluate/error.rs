//! What can go wrong when scores are compared with outcomes of retraining or with known answers.

use std::path::PathBuf;

use ascribe_curvature::Hint;

/// What can go wrong when scores are compared with what is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// A file could not be read or written.
    #[error("{}: cannot {doing}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// `read` or `write`.
        doing: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not safetensors.
    #[error("{}: not a valid safetensors file", file.display())]
    Safetensors {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// The file lacks a tensor.
    #[error("{}: no tensor `{tensor}`; the file has {}", file.display(), list(present))]
    MissingTensor {
        /// The file.
        file: PathBuf,
        /// The tensor that was wanted.
        tensor: String,
        /// The tensors that the file has.
        present: Vec<String>,
    },
    /// A tensor's element type cannot be what it should hold.
    #[error("{}: `{tensor}` has the type {found}, expected {expected}", file.display())]
    Dtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its element type.
        found: String,
        /// The element types that it may have.
        expected: &'static str,
    },
    /// A tensor has the wrong shape.
    #[error("{}: `{tensor}` has the shape {found:?}, expected {expected}", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// What its axes should be.
        expected: String,
    },
    /// A subset mask holds something else than 0 and 1.
    #[error("{origin}: the mask of subset {subset} holds {value} at example {example}, expected 0 or 1")]
    MaskValue {
        /// The file, or what the mask was made from.
        origin: String,
        /// Row.
        subset: usize,
        /// Column.
        example: usize,
        /// What stands there.
        value: u8,
    },
    /// A row of a mask leaves nothing to compare.
    #[error("{origin}: row {subset} of the mask {what}")]
    EmptyMask {
        /// The file.
        origin: String,
        /// Row.
        subset: usize,
        /// What it does.
        what: &'static str,
    },
    /// A mask would be larger than what anyone moves around.
    #[error("a mask of {count} subsets of {examples} examples is larger than {} GiB", largest >> 30)]
    MaskSize {
        /// J.
        count: usize,
        /// N.
        examples: usize,
        /// Bytes that are allowed.
        largest: usize,
    },
    /// Changes need the outcome of the run with everything.
    #[error("{}: no tensor `{tensor}`, the outcome of the run with every example; the file has {}", file.display(), list(present))]
    MissingFullRun {
        /// The file.
        file: PathBuf,
        /// The tensor that was wanted.
        tensor: String,
        /// The tensors that the file has.
        present: Vec<String>,
    },
    /// A seed's number is too large.
    #[error("seed {seed} is not among the {seeds} seeds of the outcomes")]
    NoSuchSeed {
        /// The number, counted from 0.
        seed: usize,
        /// S.
        seeds: usize,
    },
    /// A scale cannot be found.
    #[error("the scale of `{run}` cannot be fixed: {problem}")]
    NoScale {
        /// The run.
        run: String,
        /// Why.
        problem: String,
    },
    /// A calibration file is not one.
    #[error("{}: not a calibration: {problem}", file.display())]
    Calibration {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A list has not as many values as its axes say.
    #[error("{what} holds {found} values, expected {expected} for the shape {shape:?}")]
    Length {
        /// Which list.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The product of its axes.
        expected: usize,
        /// Its axes.
        shape: Vec<usize>,
    },
    /// Two things that belong together differ in size.
    #[error("{left} has {left_count} {axis}, {right} has {right_count}")]
    Disagree {
        /// What is counted.
        axis: &'static str,
        /// One side.
        left: String,
        /// Its count.
        left_count: usize,
        /// The other side.
        right: String,
        /// Its count.
        right_count: usize,
    },
    /// NaN or infinity where a number is needed.
    #[error("{what} holds {value} at row {row}, column {column}")]
    NonFinite {
        /// Which matrix.
        what: String,
        /// Row.
        row: usize,
        /// Column.
        column: usize,
        /// What stands there.
        value: f64,
    },
    /// A statistic needs more items.
    #[error("{figure} needs at least {needed} {axis}, there are {found}")]
    TooFew {
        /// Which figure.
        figure: &'static str,
        /// What is counted.
        axis: &'static str,
        /// How many are needed.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// A share of the examples does not make a subset.
    #[error("a share of {share} of {examples} examples leaves a subset of {kept}")]
    Share {
        /// The share that was asked for.
        share: f64,
        /// N.
        examples: usize,
        /// What would be kept.
        kept: usize,
    },
    /// An example's index is outside the scores, or was named twice.
    #[error("example {example} {problem} ({examples} examples)")]
    Example {
        /// The index.
        example: usize,
        /// `is outside the scores` or `is named twice`.
        problem: &'static str,
        /// N.
        examples: usize,
    },
    /// A query's row is outside the outcomes, or has two removals.
    #[error("query {query} {problem} ({queries} queries)")]
    Query {
        /// The row.
        query: usize,
        /// `is outside the outcomes` or `has two removals`.
        problem: &'static str,
        /// Q.
        queries: usize,
    },
    /// A line of a file is not what it should be.
    #[error("{}: line {line}: {problem}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// An example that is said to be mislabelled or not is no training example.
    #[error("{}: the example `{id}` is not among the {examples} training examples", file.display())]
    UnknownExample {
        /// The file.
        file: PathBuf,
        /// Its id.
        id: String,
        /// N.
        examples: usize,
        /// The first training example's id, to compare with.
        first: String,
    },
    /// A known answer is no training example.
    #[error("the answer `{answer}` of query `{query}` is not among the {examples} training examples")]
    UnknownAnswer {
        /// The query's id.
        query: String,
        /// The answer's id.
        answer: String,
        /// N.
        examples: usize,
        /// The first training example's id, to compare with.
        first: String,
    },
    /// No query has both scores and known answers.
    #[error("none of the {answers} queries with known answers is among the {queries} scored queries")]
    NoCommonQuery {
        /// Queries with answers.
        answers: usize,
        /// Scored queries.
        queries: usize,
        /// An id of each side, to compare.
        examples_of_ids: [String; 2],
    },
    /// Self-influence is a squared norm.
    #[error("{what} is {value} for item {item}, expected a finite number that is not negative")]
    SelfInfluence {
        /// `self-influence` or `norm`, of queries or examples.
        what: &'static str,
        /// Index.
        item: usize,
        /// What stands there.
        value: f32,
    },
}

impl Hint for EvaluateError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::MissingTensor { tensor, present, .. }
                if tensor == "mask" && present.iter().any(|name| name == "removed") =>
            {
                "small removals are read with `--removals FILE` in place of `--subsets` and `--mask`".to_owned()
            }
            Self::MissingTensor { tensor, present, .. }
                if tensor == "removed" && present.iter().any(|name| name == "mask") =>
            {
                "subsets are read with `--subsets FILE`; removals are u8 [removals, examples], 1 = left out".to_owned()
            }
            Self::MissingFullRun { tensor, .. } => {
                format!("train with everything, same seeds, and write what it gave as `{tensor}` [seeds, queries]")
            }
            Self::EmptyMask { .. } => {
                "leave that row out of the mask and of the outcomes; the run with everything has a tensor of its own, `full_NAME`"
                    .to_owned()
            }
            Self::MaskSize { .. } => "draw fewer, with another `--seed` for each part".to_owned(),
            Self::Disagree { axis: "removals", .. } => {
                "outcomes need one row for each removal, in the order of the mask's rows".to_owned()
            }
            Self::NoSuchSeed { .. } => "seeds are counted from 0".to_owned(),
            Self::Calibration { .. } => "write it with `ascribe evaluate calibrate`, or delete it".to_owned(),
            Self::MissingTensor { tensor, present, .. } if tensor == "mask" && present.len() == 1 => {
                format!("rename `{}` to `mask`: u8 [subsets, examples], 1 = the example was kept", present[0])
            }
            Self::MissingTensor { tensor, .. } if tensor == "query" => {
                "write the removals of each query's top examples with `ascribe evaluate subsets --top K --scores RUN`"
                    .to_owned()
            }
            Self::MissingTensor { .. } => "name one of the tensors that the file has".to_owned(),
            Self::Dtype { .. } | Self::Shape { .. } | Self::MaskValue { .. } => {
                "the file formats are described in docs/evaluation.md".to_owned()
            }
            Self::Disagree { axis: "training examples", .. } => {
                "subsets must be drawn from exactly the scored training examples, in their order".to_owned()
            }
            Self::Disagree { axis: "queries", .. } => {
                "outcomes need one column for each scored query, in the scores' order".to_owned()
            }
            Self::Disagree { axis: "subsets", .. } => {
                "outcomes need one row for each subset, in the order of the mask's rows".to_owned()
            }
            Self::NonFinite { .. } => "find the batch that produced it; such a value has no rank".to_owned(),
            Self::TooFew { figure: "a scale", .. } => "four retrained subsets are usual, more narrow the interval".to_owned(),
            Self::TooFew { axis: "seeds", .. } => {
                "retrain each subset with several seeds and keep every seed's outcome".to_owned()
            }
            Self::UnknownAnswer { first, .. } | Self::UnknownExample { first, .. } => format!("training ids look like `{first}`"),
            Self::NoCommonQuery { examples_of_ids: [answer, query], .. } => {
                format!("answers have ids like `{answer}`, the scored queries like `{query}`")
            }
            _ => return None,
        })
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The first value of a row-major matrix that is not finite, as an error.
pub(super) fn require_finite(what: &str, values: &[f32], columns: usize) -> Result<(), EvaluateError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => Err(EvaluateError::NonFinite {
            what: what.to_owned(),
            row: at / columns.max(1),
            column: at % columns.max(1),
            value: f64::from(values[at]),
        }),
    }
}
