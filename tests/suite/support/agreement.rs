//! How far a model is from what another program recorded of it: each comparison fails beyond its tolerance, and the
//! largest differences come out as one line a model, which `benches/models.py` gathers into `docs/models.md`.

use std::collections::BTreeMap;
use std::path::Path;

use ascribe::curvature::{CurvatureKind, Measurement, Network, Objective, TapSink};
use ascribe::data::{self, Batch, Dataset};
use ascribe::model::Model;
use candle_core::DType;
use safetensors::SafeTensors;
use serde_json::json;

use super::figures::relative;
use super::passes::{BATCH, Batched, Gradients, Run};
use super::recorded::Recorded;
use super::say;

/// Largest relative differences of one model, by figure.
pub struct Agreement {
    set: String,
    name: String,
    dtype: DType,
    worst: BTreeMap<&'static str, f64>,
}

impl Agreement {
    /// Nothing compared yet of the model `name`, which is one of a set: a folder of `fixtures/`, or the zoo.
    pub fn new(set: &str, name: &str, dtype: DType) -> Self {
        Self { set: set.into(), name: name.into(), dtype, worst: BTreeMap::new() }
    }

    /// Fails beyond `tolerance`, and keeps the difference under `figure`.
    #[track_caller]
    pub fn compare(&mut self, figure: &'static str, found: &[f64], want: &[f64], tolerance: f64, what: &str) {
        let error = relative(found, want);
        let Self { set, name, dtype, .. } = self;
        assert!(error <= tolerance, "{set}/{name}, {dtype:?}, {what}: {error:.2e}, at most {tolerance:.0e} is allowed");
        self.keep(figure, error);
    }

    /// Keeps a difference that was looked at already.
    pub fn keep(&mut self, figure: &'static str, error: f64) {
        let kept = self.worst.entry(figure).or_insert(0.0);
        *kept = kept.max(error);
    }

    /// Logits of texts: of every text, or of every position of texts that were padded to one length.
    #[track_caller]
    pub fn logits(&mut self, model: &Model, batch: &Batch, expected: &Recorded, tolerance: f64) {
        let found = logits(model, batch);
        let want = expected.get("logits");
        let &[_, length, vocabulary] = want.shape.as_slice() else {
            return self.compare("logits", &found, &want.values, tolerance, "logits");
        };
        for (m, rows) in batch.positions().iter().enumerate() {
            for (t, row) in rows.enumerate() {
                let (row, at) = (row * vocabulary, (m * length + t) * vocabulary);
                let (found, want) = (&found[row..row + vocabulary], &want.values[at..at + vocabulary]);
                self.compare("logits", found, want, tolerance, &format!("logits[{m}, {t}]"));
            }
        }
    }

    /// The training loss of every example of a batch.
    #[track_caller]
    pub fn losses(&mut self, model: &Model, batch: &Batch, want: &[f64], tolerance: f64) {
        let found = model.differentiate(batch, Objective::TrainingLoss, &mut ()).expect("differentiable");
        self.compare("loss", &found, want, tolerance, "losses");
    }

    /// Gradients of tracked layers, of as many examples as are recorded; which tensors were compared.
    #[track_caller]
    pub fn gradients(&mut self, model: &Model, batch: &Batch, expected: &Recorded, tolerance: f64) -> Vec<String> {
        let (mut wide, mut narrow) = (Gradients::<f64>::new(model.layers()), Gradients::<f32>::new(model.layers()));
        let is_wide = self.dtype == DType::F64;
        let sink: &mut dyn TapSink = if is_wide { &mut wide } else { &mut narrow };
        model.differentiate(batch, Objective::TrainingLoss, sink).expect("differentiable");
        let mut compared = vec![];
        for (l, layer) in model.layers().iter().enumerate() {
            for example in 0..batch.positions().examples() {
                let tensor = format!("gradient.{}.{example}", layer.name);
                let Some(want) = expected.find(&tensor) else { continue };
                assert_eq!(want.shape, [layer.outputs, layer.columns()], "{}, {tensor}", self.name);
                let found = if is_wide { wide.of(l, example) } else { narrow.of(l, example) };
                self.compare("gradient", &found, &want.values, tolerance, &tensor);
                compared.push(tensor);
            }
        }
        compared
    }

    /// Losses of two sets of examples, then scores by gradient products and by EK-FAC with the data's own labels.
    pub fn losses_and_scores(
        &mut self,
        model: &Model,
        [train, queries]: [&Dataset; 2],
        expected: &Recorded,
        tolerances: Tolerances,
    ) -> super::Outcome {
        for (dataset, tensor) in [(train, "train_loss"), (queries, "query_loss")] {
            let batch = data::batch(dataset, 0..dataset.len());
            self.losses(model, &batch, &expected.values(tensor), tolerances.losses);
        }
        let (train, queries) = (&Batched(train, BATCH), &Batched(queries, BATCH));
        for (kind, figure, tensor, tolerance) in [
            (CurvatureKind::Identity, "products", "identity.scores", tolerances.products),
            (CurvatureKind::Ekfac, "ekfac", "ekfac_empirical.scores", tolerances.ekfac),
        ] {
            let found = Run::empirical(kind, Measurement::Loss).scores::<_, f32>(model, train, queries)?;
            self.compare(figure, &found.wide(), &expected.values(tensor), tolerance, tensor);
        }
        Ok(())
    }

    /// Prints the line.
    pub fn report(self) {
        let mut line = json!({"set": self.set, "name": self.name, "dtype": format!("{:?}", self.dtype)});
        for (figure, error) in self.worst {
            line[figure] = json!(error);
        }
        say(format_args!("measured {line}"));
    }
}

/// Largest relative differences that are allowed.
#[derive(Debug, Clone, Copy)]
pub struct Tolerances {
    pub losses: f64,
    pub products: f64,
    pub ekfac: f64,
}

/// Every number of the head's output.
pub fn logits(model: &Model, batch: &Batch) -> Vec<f64> {
    let logits = model.logits(batch).and_then(|logits| Ok(logits.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?));
    logits.expect("logits")
}

/// Fails unless an optimizer's parameters stand in the order of `named_parameters`, which a fixture's folder records,
/// and prints that it was compared.
#[track_caller]
pub fn same_parameters(set: &str, name: &str, folder: &Path, found: &[&str]) {
    let bytes = std::fs::read(folder.join("expected.safetensors")).expect("readable");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("sound");
    let recorded = header.metadata().as_ref().expect("metadata")["parameters"].clone();
    let recorded: Vec<String> = serde_json::from_str(&recorded).expect("a list of names");
    assert!(!recorded.is_empty(), "{set}/{name}");
    assert_eq!(found, recorded, "{set}/{name}");
    say(format_args!("measured {}", json!({"set": set, "name": name, "optimizer": recorded.len()})));
}

/// Names of the folders in a folder of `fixtures/`, of which there are some.
pub fn folders_of(set: &str) -> Vec<String> {
    let folders = std::fs::read_dir(super::fixture(set)).unwrap_or_else(|error| panic!("fixtures/{set}: {error}"));
    let mut names: Vec<String> =
        folders.map(|folder| folder.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert!(names.len() > 8, "{names:?}");
    names
}
