//! Curvature factors of a run: found in the store, or fitted there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::JobError;
use super::run::{Number, Run};
use crate::attribution::store::{Artifact, Key, Metadata, Progress, TensorData, TensorFile};
use crate::attribution::{Error, Event, Pass, Sweep};
use crate::curvature::random::stream;
use crate::curvature::{
    Covariance, CovarianceSum, CurvatureKind, Eigenbasis, Eigenpairs, Factors, Lambda, LambdaSum, LayerSpec, Matrix,
    Network,
};
use crate::model::Model;

const COVARIANCE: &str = "covariance";
const EIGENBASIS: &str = "eigenbasis";
const LAMBDA: &str = "lambda";

impl Run<'_> {
    fn layers(&self) -> &[LayerSpec] {
        self.plan.model.layers()
    }

    fn kind(&self) -> CurvatureKind {
        self.plan.job.method.curvature.into()
    }

    /// The training examples this process is responsible for.
    pub(super) fn range(&self) -> Range<usize> {
        let total = self.plan.train.len();
        match self.shard {
            Some(shard) => {
                let range = shard.range(total as u64);
                range.start as usize..range.end as usize
            }
            None => 0..total,
        }
    }

    pub(super) fn sweep<'s>(
        &'s self,
        examples: &'s super::plan::InBatches<'s>,
        range: Range<usize>,
        pass: Pass,
    ) -> Sweep<'s, Model> {
        Sweep { network: &self.plan.model, examples, range, pass, observer: self.observer() }
    }

    /// The curvature, fitted where it is not there yet.
    pub(super) fn fit<T: Number>(&self) -> Result<Factors<T>, JobError> {
        let kind = self.kind();
        if kind.has_eigenbasis() && self.eigenbases::<T>()?.is_none() {
            let covariance = match self.covariance()? {
                Some(covariance) => {
                    self.observer().event(Event::Reused { pass: Pass::Covariance });
                    covariance
                }
                None => {
                    let covariance = self.covariance_pass::<T>()?.finish()?;
                    self.keep_covariance(&covariance)?;
                    covariance
                }
            };
            self.decompose::<T>(&covariance)?;
        }
        if kind.has_lambda_pass() && self.lambda()?.is_none() {
            let bases = self.bases::<T>()?;
            let sum = self.lambda_pass(&bases)?;
            self.keep_lambda(&sum.finish()?)?;
        }
        self.fitted()
    }

    /// The curvature of an earlier `fit`.
    pub(super) fn fitted<T: Number>(&self) -> Result<Factors<T>, JobError> {
        let (kind, layers) = (self.kind(), self.layers());
        let missing =
            || JobError::MissingStep { folder: self.store.folder().to_owned(), what: "the curvature", step: "fit" };
        let bases = || self.eigenbases::<T>()?.ok_or_else(missing);
        let lambda = || self.lambda()?.ok_or_else(missing);
        Ok(match kind {
            CurvatureKind::Identity => Factors::identity(layers.len()),
            CurvatureKind::Diagonal => Factors::diagonal(lambda()?),
            CurvatureKind::Kfac => {
                let (bases, mean_positions) = bases()?;
                let scale = match self.plan.job.method.kfac_scale {
                    super::KfacScale::PerExample => mean_positions,
                    super::KfacScale::PerPosition => 1.0,
                };
                Factors::kfac(bases, scale)
            }
            CurvatureKind::Ekfac => Factors::ekfac(bases()?.0, lambda()?),
        })
    }

    /// One process fits what is missing; a shard leaves its sums of the next pass as a part.
    pub(super) fn fit_step<T: Number>(&self) -> Result<Option<String>, JobError> {
        let Some(shard) = self.shard else {
            self.fit::<T>()?;
            return Ok(None);
        };
        let (kind, range) = (self.kind(), self.range());
        let parts = range.start as u64..range.end as u64;
        let place = self.store.folder().display().to_string();
        let then = |next: &str| {
            Some(format!("when all {} shards are done: `ascribe merge --out {place}`, {next}", shard.count()))
        };
        if range.is_empty() {
            return Ok(Some("this shard holds no example".into()));
        }
        if kind.has_eigenbasis() && self.eigenbases::<T>()?.is_none() {
            let key = self.plan.covariance_key();
            if !self.store.parts(COVARIANCE, &key)?.iter().any(|part| part.range == parts) {
                let sum = self.covariance_pass::<T>()?;
                let [positions, examples] = sum.counts();
                let counts = [("positions".into(), positions.to_string()), ("examples".into(), examples.to_string())];
                let state = sum.state();
                let tensors = with_shapes(&state);
                self.store.write_part(COVARIANCE, &key, parts, &data(&tensors), &Metadata::from(counts))?;
                self.store.remove_partial(COVARIANCE, &key)?;
            }
            return Ok(then(if kind.has_lambda_pass() {
                "then `ascribe fit --shard` again for lambda"
            } else {
                "then `ascribe query`"
            }));
        }
        if kind.has_lambda_pass() && self.lambda()?.is_none() {
            let key = self.plan.lambda_key();
            if !self.store.parts(LAMBDA, &key)?.iter().any(|part| part.range == parts) {
                let bases = self.bases::<T>()?;
                let sum = self.lambda_pass(&bases)?;
                let counts = Metadata::from([("examples".into(), sum.examples().to_string())]);
                let state = sum.state();
                let tensors = with_shapes(&state);
                self.store.write_part(LAMBDA, &key, parts, &data(&tensors), &counts)?;
                self.store.remove_partial(LAMBDA, &key)?;
            }
            return Ok(then("then `ascribe query`"));
        }
        Ok(Some(format!("the curvature is fitted; next: `ascribe query --out {place}`")))
    }

    /// Joins the shards' sums of covariances or Λ, whichever are there and complete.
    pub(super) fn merge_fit<T: Number>(&self, from: &[std::path::PathBuf]) -> Result<Option<String>, JobError> {
        let (kind, total) = (self.kind(), self.plan.train.len() as u64);
        let layers = self.layers();
        let folders: Vec<_> = std::iter::once(self.store.folder().to_owned()).chain(from.iter().cloned()).collect();
        if kind.has_eigenbasis() && self.eigenbases::<T>()?.is_none() {
            let key = self.plan.covariance_key();
            let mut parts = crate::attribution::store::list_parts(&folders, COVARIANCE)?;
            parts.sort_by_key(|part| part.range.start);
            crate::attribution::store::check_cover(&parts, COVARIANCE, &key, total)?;
            let mut sum = CovarianceSum::<T>::new(layers);
            for part in &parts {
                let part = part.open()?;
                let counts = [count(&part, "positions")?, count(&part, "examples")?];
                sum.add_state(|name| part.f64(name).ok(), counts)?;
            }
            let covariance = sum.finish()?;
            self.keep_covariance(&covariance)?;
            self.store.remove_parts(COVARIANCE, &key)?;
            self.decompose::<T>(&covariance)?;
            let next = if kind.has_lambda_pass() { "fit --shard i/n" } else { "query" };
            return Ok(Some(format!(
                "covariances joined; next: `ascribe {next} --out {}`",
                self.store.folder().display()
            )));
        }
        if kind.has_lambda_pass() && self.lambda()?.is_none() {
            let key = self.plan.lambda_key();
            let mut parts = crate::attribution::store::list_parts(&folders, LAMBDA)?;
            parts.sort_by_key(|part| part.range.start);
            crate::attribution::store::check_cover(&parts, LAMBDA, &key, total)?;
            let mut sum = LambdaSum::<T>::new(layers, vec![None; layers.len()]);
            for part in &parts {
                let part = part.open()?;
                sum.add_state(|name| part.f64(name).ok(), count(&part, "examples")?)?;
            }
            self.keep_lambda(&sum.finish()?)?;
            self.store.remove_parts(LAMBDA, &key)?;
            return Ok(Some(format!("lambda joined; next: `ascribe query --out {}`", self.store.folder().display())));
        }
        Ok(None)
    }

    fn covariance_pass<T: Number>(&self) -> Result<CovarianceSum<T>, JobError> {
        let (key, range) = (self.plan.covariance_key(), self.range());
        let mut sum = CovarianceSum::<T>::new(self.layers());
        let mut start = range.start;
        if let Some(partial) = self.store.restore_partial(COVARIANCE, &key)? {
            let counter = |name: &str| partial.progress().counters.get(name).copied().unwrap_or_default();
            sum.add_state(|name| partial.f64(name).ok(), [counter("positions"), counter("examples")])?;
            start = partial.progress().next_example as usize;
        }
        let objectives = self.plan.label_mode().objectives(stream::COVARIANCE);
        let examples = self.plan.in_batches(&self.plan.train);
        let sweep = self.sweep(&examples, range.clone(), Pass::Covariance);
        sweep.differentiate(start, &objectives, &mut sum, |sum, chunk| {
            sum.flush(chunk.examples.clone(), objectives.len())?;
            if chunk.save && chunk.examples.end < range.end {
                let [positions, examples] = sum.counts();
                let counters = BTreeMap::from([("positions".into(), positions), ("examples".into(), examples)]);
                self.save(COVARIANCE, &key, chunk.examples.end, counters, &sum.state())?;
            }
            Ok(())
        })?;
        Ok(sum)
    }

    fn lambda_pass<'b, T: Number>(&'b self, bases: &'b [Option<Eigenbasis<T>>]) -> Result<LambdaSum<'b, T>, JobError> {
        let (key, range) = (self.plan.lambda_key(), self.range());
        let mut sum = LambdaSum::new(self.layers(), bases.iter().map(Option::as_ref).collect());
        let mut start = range.start;
        if let Some(partial) = self.store.restore_partial(LAMBDA, &key)? {
            let examples = partial.progress().counters.get("examples").copied().unwrap_or_default();
            sum.add_state(|name| partial.f64(name).ok(), examples)?;
            start = partial.progress().next_example as usize;
        }
        // never the covariances' labels: a basis and its eigenvalues must not share their noise
        let objectives = self.plan.label_mode().objectives(stream::LAMBDA);
        let examples = self.plan.in_batches(&self.plan.train);
        let sweep = self.sweep(&examples, range.clone(), Pass::Lambda);
        sweep.differentiate(start, &objectives, &mut sum, |sum, chunk| {
            sum.flush(chunk.examples.clone(), objectives.len())?;
            if chunk.save && chunk.examples.end < range.end {
                let counters = BTreeMap::from([("examples".into(), sum.examples())]);
                self.save(LAMBDA, &key, chunk.examples.end, counters, &sum.state())?;
            }
            Ok(())
        })?;
        Ok(sum)
    }

    fn save(
        &self,
        kind: &'static str,
        key: &Key,
        next: usize,
        counters: BTreeMap<String, u64>,
        state: &[(String, &[f64])],
    ) -> Result<(), Error> {
        let tensors = with_shapes(state);
        Ok(self.store.save_partial(kind, key, &Progress { next_example: next as u64, counters }, &data(&tensors))?)
    }

    fn keep_covariance(&self, covariance: &Covariance) -> Result<(), JobError> {
        let key = self.plan.covariance_key();
        let layers = self.layers();
        let inputs = covariance.inputs.iter().enumerate().filter_map(|(group, matrix)| {
            let matrix = matrix.as_ref()?;
            Some((format!("{}.input", group_name(layers, group)), matrix))
        });
        let outputs =
            layers.iter().zip(&covariance.outputs).map(|(layer, matrix)| (format!("{}.output", layer.name), matrix));
        let tensors: Vec<_> =
            inputs.chain(outputs).map(|(name, m)| (name, vec![m.rows(), m.columns()], m.as_slice())).collect();
        let metadata = Metadata::from([
            ("positions".into(), covariance.positions.to_string()),
            ("examples".into(), covariance.examples.to_string()),
            ("units".into(), "means over positions of the outer products of inputs (with a trailing 1 for a bias) and output gradients".into()),
        ]);
        self.store.write(COVARIANCE, &key, &data(&tensors), &metadata)?;
        self.store.remove_partial(COVARIANCE, &key)?;
        Ok(())
    }

    fn covariance(&self) -> Result<Option<Covariance>, JobError> {
        let Some(artifact) = self.store.find(COVARIANCE, &self.plan.covariance_key())? else { return Ok(None) };
        let artifact = Arc::new(artifact);
        let layers = self.layers();
        let matrix = |name: String, n: usize| mapped::<f64>(&artifact, name, n, n);
        let groups = layers.iter().map(|layer| layer.input_group + 1).max().unwrap_or(0);
        let inputs = (0..groups).map(|group| {
            let layer = layers.iter().find(|layer| layer.input_group == group);
            layer.map(|layer| matrix(format!("{}.input", layer.name), layer.columns())).transpose()
        });
        Ok(Some(Covariance {
            inputs: inputs.collect::<Result<_, _>>()?,
            outputs: layers
                .iter()
                .map(|l| matrix(format!("{}.output", l.name), l.outputs))
                .collect::<Result<_, _>>()?,
            positions: count(&artifact, "positions")?,
            examples: count(&artifact, "examples")?,
        }))
    }

    fn decompose<T: Number>(&self, covariance: &Covariance) -> Result<(), JobError> {
        let layers = self.layers();
        let (pass, total) = (Pass::Eigendecomposition, layers.len() as u64);
        self.observer().event(Event::Started { pass, done: 0, total });
        let bases = Eigenbasis::<T>::of_layers(covariance, layers)?;
        let inputs = (0..layers.len()).filter(|&l| first_of_group(layers, l));
        let inputs = inputs.map(|l| (format!("{}.input", layers[l].name), &bases[l].input));
        let outputs = layers.iter().zip(&bases).map(|(layer, basis)| (format!("{}.output", layer.name), &basis.output));
        let named = |(name, pairs): (String, &'_ Eigenpairs<T>)| {
            let n = pairs.values.len();
            (format!("{name}.vectors"), format!("{name}.values"), [n, n], pairs.clone())
        };
        let pairs: Vec<_> = inputs.chain(outputs).map(named).collect();
        let clipped: usize = pairs.iter().map(|(.., pairs)| pairs.clipped).sum();
        let tensors = pairs.iter().flat_map(|(vectors, values, shape, pairs)| {
            [
                TensorData::new(vectors, shape, pairs.vectors.as_slice()),
                TensorData::new(values, &shape[..1], &pairs.values),
            ]
        });
        let all: Vec<_> = tensors.collect();
        let metadata = Metadata::from([
            ("mean_positions".into(), covariance.mean_positions().to_string()),
            ("clipped_eigenvalues".into(), clipped.to_string()),
            ("units".into(), "orthonormal eigenvectors as columns, by ascending eigenvalue".into()),
        ]);
        self.store.write(EIGENBASIS, &self.plan.covariance_key(), &all, &metadata)?;
        self.observer().event(Event::Advanced { pass, units: total });
        self.observer().event(Event::Finished { pass });
        Ok(())
    }

    /// Every layer's eigenbasis, mapped from the store, and T̄.
    fn eigenbases<T: Number>(&self) -> Result<Option<Eigenbases<T>>, JobError> {
        let Some(artifact) = self.store.find(EIGENBASIS, &self.plan.covariance_key())? else { return Ok(None) };
        let artifact = Arc::new(artifact);
        let layers = self.layers();
        let mean_positions = artifact.metadata("mean_positions").and_then(|text| text.parse().ok()).unwrap_or(1.0);
        let pairs = |name: String, n: usize| -> Result<Eigenpairs<T>, JobError> {
            let values = artifact.f64(&format!("{name}.values"))?.to_vec();
            Ok(Eigenpairs { vectors: mapped(&artifact, format!("{name}.vectors"), n, n)?, values, clipped: 0 })
        };
        let mut bases: Vec<Eigenbasis<T>> = Vec::with_capacity(layers.len());
        for layer in layers {
            let first = layers
                .iter()
                .position(|other| other.input_group == layer.input_group)
                .expect("the layer itself is one");
            let input = match bases.get(first) {
                Some(basis) => basis.input.clone(),
                None => pairs(format!("{}.input", layers[first].name), layer.columns())?,
            };
            bases.push(Eigenbasis { input, output: pairs(format!("{}.output", layer.name), layer.outputs)? });
        }
        Ok(Some((bases, mean_positions)))
    }

    /// The bases that Λ is taken in: none for the diagonal in the standard basis.
    fn bases<T: Number>(&self) -> Result<Vec<Option<Eigenbasis<T>>>, JobError> {
        match self.eigenbases::<T>()? {
            Some((bases, _)) if self.kind().has_eigenbasis() => Ok(bases.into_iter().map(Some).collect()),
            _ => Ok(vec![None; self.layers().len()]),
        }
    }

    fn keep_lambda(&self, lambda: &Lambda) -> Result<(), JobError> {
        let key = self.plan.lambda_key();
        let layers = self.layers().iter().zip(&lambda.layers);
        let tensors: Vec<_> =
            layers.map(|(l, m)| (l.name.clone(), vec![m.rows(), m.columns()], m.as_slice())).collect();
        let metadata = Metadata::from([
            ("examples".into(), lambda.examples.to_string()),
            (
                "units".into(),
                "mean squared example gradient in the eigenbasis, of losses summed over positions; undamped".into(),
            ),
        ]);
        self.store.write(LAMBDA, &key, &data(&tensors), &metadata)?;
        self.store.remove_partial(LAMBDA, &key)?;
        Ok(())
    }

    fn lambda(&self) -> Result<Option<Lambda>, JobError> {
        let Some(artifact) = self.store.find(LAMBDA, &self.plan.lambda_key())? else { return Ok(None) };
        let artifact = Arc::new(artifact);
        let layer = |l: &LayerSpec| mapped(&artifact, l.name.clone(), l.outputs, l.columns());
        let layers = self.layers().iter().map(layer).collect::<Result<_, JobError>>()?;
        Ok(Some(Lambda { layers, examples: count(&artifact, "examples")? }))
    }
}

/// Every layer's eigenbasis, and T̄, the mean number of positions of an example.
type Eigenbases<T> = (Vec<Eigenbasis<T>>, f64);

/// Numbers that stay in the artifact's memory map.
struct Mapped<T> {
    artifact: Arc<Artifact>,
    name: String,
    kind: std::marker::PhantomData<fn() -> T>,
}

impl<T: Number> AsRef<[T]> for Mapped<T> {
    fn as_ref(&self) -> &[T] {
        self.artifact.values(&self.name).expect("`mapped` looked it up")
    }
}

fn mapped<T: Number>(
    artifact: &Arc<Artifact>,
    name: String,
    rows: usize,
    columns: usize,
) -> Result<Matrix<T>, JobError> {
    let found = artifact.values::<T>(&name)?.len();
    if found != rows * columns {
        let (layer, what) = (name, "a stored matrix");
        return Err(
            crate::curvature::Error::Shape { layer, what, found: vec![found], expected: vec![rows, columns] }.into()
        );
    }
    let numbers = Mapped { artifact: artifact.clone(), name, kind: std::marker::PhantomData };
    Ok(Matrix::shared(Arc::new(numbers), rows, columns))
}

fn count(file: &TensorFile, name: &'static str) -> Result<u64, JobError> {
    file.metadata(name).and_then(|text| text.parse().ok()).ok_or_else(|| JobError::Options {
        problem: format!("{}: its metadata lack `{name}`", file.path().display()),
        hint: Some("delete the file; it is only a cache".into()),
    })
}

fn group_name(layers: &[LayerSpec], group: usize) -> &str {
    layers.iter().find(|layer| layer.input_group == group).map_or("", |layer| &layer.name)
}

fn first_of_group(layers: &[LayerSpec], index: usize) -> bool {
    layers.iter().position(|layer| layer.input_group == layers[index].input_group) == Some(index)
}

fn with_shapes<'a>(state: &[(String, &'a [f64])]) -> Vec<(String, Vec<usize>, &'a [f64])> {
    state.iter().map(|(name, sum)| (name.clone(), vec![sum.len()], *sum)).collect()
}

fn data<'a>(tensors: &'a [(String, Vec<usize>, &'a [f64])]) -> Vec<TensorData<'a>> {
    tensors.iter().map(|(name, shape, values)| TensorData::new(name, shape, values)).collect()
}
