//! What retraining on each subset gave.

use std::path::Path;

use serde::Serialize;

use super::EvaluateError;
use super::error::require_finite;
use super::tensors::TensorFile;

/// Whether a measurement improves upwards or downwards: κ of `docs/method.md`, Score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Orientation {
    /// Log-probability, margin, prediction: κ = +1.
    HigherIsBetter,
    /// A loss: κ = −1.
    LowerIsBetter,
}

impl Orientation {
    /// By a measurement's name: lower is better if the name contains "loss".
    pub fn of_name(name: &str) -> Self {
        if name.to_lowercase().contains("loss") { Self::LowerIsBetter } else { Self::HigherIsBetter }
    }

    /// κ.
    pub fn kappa(self) -> f64 {
        match self {
            Self::HigherIsBetter => 1.0,
            Self::LowerIsBetter => -1.0,
        }
    }
}

/// Every seed's outcome by itself.
///
/// # Shapes
/// `values`: `[J, S, Q]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct PerSeed {
    /// The measured values.
    pub values: Vec<f32>,
    /// S, the number of seeds.
    pub seeds: usize,
}

/// One measurement of all queries after retraining on each subset, averaged over seeds.
///
/// # Shapes
/// `values`: `[J, Q]`, row-major.
/// # Units
/// The measurement's own; not yet oriented: the gain is [`Orientation::kappa`] times the value.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcomes {
    name: String,
    values: Vec<f32>,
    subsets: usize,
    queries: usize,
    per_seed: Option<PerSeed>,
    orientation: Orientation,
}

impl Outcomes {
    /// From values `[subsets, queries]`; `orientation` follows the name if not given.
    ///
    /// # Errors
    /// [`EvaluateError::Length`] for another size, [`EvaluateError::NonFinite`] for NaN or infinity.
    pub fn new(
        name: &str,
        values: Vec<f32>,
        subsets: usize,
        queries: usize,
        per_seed: Option<PerSeed>,
        orientation: Option<Orientation>,
    ) -> Result<Self, EvaluateError> {
        let length = |what, found, shape: Vec<usize>| {
            let expected = shape.iter().fold(1, |product: usize, &n| product.saturating_mul(n));
            if found == expected { Ok(()) } else { Err(EvaluateError::Length { what, found, expected, shape }) }
        };
        length("the outcomes", values.len(), vec![subsets, queries])?;
        require_finite(&format!("the outcome `{name}`"), &values, queries)?;
        if let Some(PerSeed { values, seeds }) = &per_seed {
            length("the outcomes of every seed", values.len(), vec![subsets, *seeds, queries])?;
            require_finite(&format!("the outcome `{name}` of every seed"), values, queries)?;
        }
        let orientation = orientation.unwrap_or_else(|| Orientation::of_name(name));
        Ok(Self { name: name.to_owned(), values, subsets, queries, per_seed, orientation })
    }

    /// Reads the tensor `NAME` `[J, Q]` and, if there is one, `NAME_seeds` `[J, S, Q]`; a file with only
    /// the latter gives the mean over seeds. Any floating-point type.
    ///
    /// # Errors
    /// Those of the file, each naming it; [`EvaluateError::MissingTensor`] lists the tensors there are.
    pub fn read(path: &Path, name: &str, orientation: Option<Orientation>) -> Result<Self, EvaluateError> {
        let file = TensorFile::read(path)?;
        let seeds_name = format!("{name}_seeds");
        let (means, every) = (file.floats(name)?, file.floats(&seeds_name)?);
        if let Some(every) = &every
            && every.shape.len() != 3
        {
            return Err(file.shape_error(&seeds_name, &every.shape, "[subsets, seeds, queries]"));
        }
        let (values, subsets, queries) = match (means, &every) {
            (Some(means), every) => {
                let &[subsets, queries] = means.shape.as_slice() else {
                    return Err(file.shape_error(name, &means.shape, "[subsets, queries]"));
                };
                if let Some(every) = every
                    && (every.shape[0], every.shape[2]) != (subsets, queries)
                {
                    let expected = format!("[{subsets}, seeds, {queries}] because `{name}` is [{subsets}, {queries}]");
                    return Err(file.shape_error(&seeds_name, &every.shape, expected));
                }
                (means.values, subsets, queries)
            }
            (None, Some(every)) => {
                let (subsets, seeds, queries) = (every.shape[0], every.shape[1], every.shape[2]);
                if seeds == 0 {
                    return Err(file.shape_error(&seeds_name, &every.shape, "at least one seed"));
                }
                (mean_over_seeds(&every.values, subsets, seeds, queries), subsets, queries)
            }
            (None, None) => return Err(file.missing(name)?),
        };
        let per_seed = every.map(|every| PerSeed { seeds: every.shape[1], values: every.values });
        Self::new(name, values, subsets, queries, per_seed, orientation)
    }

    /// The measurements that a file holds, by name: its floating-point tensors with two axes, and those
    /// with three whose name ends in `_seeds`.
    ///
    /// # Errors
    /// Those of the file.
    pub fn names(path: &Path) -> Result<Vec<String>, EvaluateError> {
        let mut names: Vec<String> = Vec::new();
        for (name, shape) in TensorFile::read(path)?.float_shapes()? {
            match (shape.len(), name.strip_suffix("_seeds")) {
                (2, _) => names.push(name),
                (3, Some(stem)) => names.push(stem.to_owned()),
                _ => {}
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The measurement's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// J.
    pub fn subsets(&self) -> usize {
        self.subsets
    }

    /// Q.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// `[J, Q]`, not oriented.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Every seed by itself.
    pub fn per_seed(&self) -> Option<&PerSeed> {
        self.per_seed.as_ref()
    }

    /// Whether higher values are better.
    pub fn orientation(&self) -> Orientation {
        self.orientation
    }

    /// The gain of query `q` in one seed after retraining on each subset, `[J]`; of the only one without seeds.
    pub(super) fn gains_of_seed(&self, seed: usize, q: usize) -> Vec<f64> {
        let Some(PerSeed { values, seeds }) = &self.per_seed else { return self.gains(q) };
        let kappa = self.orientation.kappa();
        (0..self.subsets).map(|j| kappa * f64::from(values[(j * seeds + seed) * self.queries + q])).collect()
    }

    /// The outcomes of these subsets alone.
    pub(super) fn rows(&self, subsets: std::ops::Range<usize>) -> Self {
        let of = |values: &[f32], width: usize| values[subsets.start * width..subsets.end * width].to_vec();
        let per_seed = self
            .per_seed
            .as_ref()
            .map(|PerSeed { values, seeds }| PerSeed { values: of(values, seeds * self.queries), seeds: *seeds });
        let values = of(&self.values, self.queries);
        Self { values, subsets: subsets.len(), per_seed, name: self.name.clone(), ..*self }
    }

    /// S; 1 if seeds were not told apart.
    pub(super) fn seeds(&self) -> usize {
        self.per_seed.as_ref().map_or(1, |every| every.seeds)
    }

    /// The gain of query `q` after retraining on each subset, `[J]`.
    pub(super) fn gains(&self, q: usize) -> Vec<f64> {
        let kappa = self.orientation.kappa();
        (0..self.subsets).map(|j| kappa * f64::from(self.values[j * self.queries + q])).collect()
    }
}

pub(super) fn mean_over_seeds(values: &[f32], subsets: usize, seeds: usize, queries: usize) -> Vec<f32> {
    let mut means = Vec::with_capacity(subsets * queries);
    for j in 0..subsets {
        for q in 0..queries {
            let sum: f64 = (0..seeds).map(|s| f64::from(values[(j * seeds + s) * queries + q])).sum();
            means.push((sum / seeds as f64) as f32);
        }
    }
    means
}

#[cfg(test)]
mod tests {
    use half::f16;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn file(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> tempfile::NamedTempFile {
        let views = tensors.iter().map(|(name, dtype, shape, data)| {
            (*name, TensorView::new(*dtype, shape.clone(), data).expect("shape and data agree"))
        });
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), safetensors::serialize(views, None).expect("serializable")).expect("writable");
        file
    }

    fn message(file: &tempfile::NamedTempFile, name: &str) -> String {
        let error = Outcomes::read(file.path(), name, None).expect_err("broken");
        error.to_string().replace(&file.path().display().to_string(), "FILE")
    }

    #[test]
    fn seeds_alone_give_means_and_the_name_gives_the_orientation() {
        let seeds: Vec<f32> = (0..2 * 3 * 2).map(|i| (i * i) as f32).collect();
        let halves = seeds.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        let file = file(&[("Query_Loss_seeds", Dtype::F16, vec![2, 3, 2], halves)]);
        assert_eq!(Outcomes::names(file.path()).expect("readable"), ["Query_Loss"]);
        let read = Outcomes::read(file.path(), "Query_Loss", None).expect("readable");
        // Squares of 0, 2, 4; 1, 3, 5; 6, 8, 10; 7, 9, 11.
        let want = [20.0 / 3.0, 35.0 / 3.0, 200.0 / 3.0, 251.0 / 3.0].map(|v: f64| v as f32);
        assert_eq!(read.values(), want);
        assert_eq!(read.per_seed().map(|s| (s.seeds, s.values.clone())), Some((3, seeds)));
        assert_eq!(read.orientation(), Orientation::LowerIsBetter);
        assert_eq!(read.gains(1), [-f64::from(want[1]), -f64::from(want[3])]);
        let told = Outcomes::read(file.path(), "Query_Loss", Some(Orientation::HigherIsBetter)).expect("readable");
        assert_eq!(told.orientation().kappa(), 1.0);
        assert_eq!(Orientation::of_name("margin"), Orientation::HigherIsBetter);
    }

    #[test]
    fn names_are_measurements_only() {
        let file = file(&[
            ("margin", Dtype::F32, vec![1, 2], bytes(&[0.0; 2])),
            ("margin_seeds", Dtype::F32, vec![1, 1, 2], bytes(&[0.0; 2])),
            ("mask", Dtype::U8, vec![1, 2], vec![0, 1]),
            ("query_tokens", Dtype::I64, vec![1], vec![0; 8]),
            ("loss_seeds", Dtype::F32, vec![1, 1, 1], bytes(&[0.0])),
        ]);
        assert_eq!(Outcomes::names(file.path()).expect("readable"), ["loss", "margin"]);
    }

    #[test]
    fn broken_files_say_what_is_wrong() {
        let good = file(&[
            ("loss", Dtype::F32, vec![2, 2], bytes(&[1.0, 2.0, 3.0, f32::NAN])),
            ("margin", Dtype::F32, vec![4], bytes(&[0.0; 4])),
            ("mask", Dtype::U8, vec![2, 2], vec![0, 1, 1, 0]),
            ("logit", Dtype::F32, vec![2, 2], bytes(&[0.0; 4])),
            ("logit_seeds", Dtype::F32, vec![2, 1, 3], bytes(&[0.0; 6])),
        ]);
        assert_eq!(
            message(&good, "accuracy"),
            "FILE: no tensor `accuracy`; the file has `logit`, `logit_seeds`, `loss`, `margin`, `mask`"
        );
        assert_eq!(message(&good, "loss"), "the outcome `loss` holds NaN at row 1, column 1");
        assert_eq!(message(&good, "margin"), "FILE: `margin` has the shape [4], expected [subsets, queries]");
        assert_eq!(message(&good, "mask"), "FILE: `mask` has the type U8, expected F16, BF16, F32 or F64");
        assert_eq!(
            message(&good, "logit"),
            "FILE: `logit_seeds` has the shape [2, 1, 3], expected [2, seeds, 2] because `logit` is [2, 2]"
        );
    }
}
