//! Covariances, eigenbases and Λ on disk.

use std::sync::Arc;

use super::{COVARIANCE, EIGENBASIS, LAMBDA};
use crate::attribution::store::{Artifact, Key, Metadata, TensorData, TensorFile};
use crate::curvature::{Covariance, Eigenbasis, Eigenpairs, Lambda, LayerSpec, Matrix};
use crate::job::JobError;
use crate::job::run::{Number, Run};
use crate::job::training::{Fit, Place, Site, Training};

/// Every layer's eigenbasis, none where it was frozen, and T̄, the mean number of positions of an example.
type Eigenbases<T> = (Vec<Option<Eigenbasis<T>>>, f64);

impl Run<'_> {
    pub(super) fn keep_covariance(&self, site: Site, covariance: &Covariance) -> Result<(), JobError> {
        let key = self.plan.covariance_key(site);
        let layers = self.plan.training.layers();
        let inputs = covariance.inputs.iter().enumerate().filter_map(|(group, matrix)| {
            let matrix = matrix.as_ref()?;
            Some((format!("{}.input", group_name(layers, group)), matrix))
        });
        let outputs =
            layers.iter().zip(&covariance.outputs).map(|(layer, matrix)| (format!("{}.output", layer.name), matrix));
        let tensors: Vec<_> =
            inputs.chain(outputs).map(|(name, m)| (name, vec![m.rows(), m.columns()], m.as_slice())).collect();
        let metadata = Metadata::from([
            ("checkpoint".into(), self.plan.training.networks.parameters()[site.network].name.clone()),
            ("positions".into(), covariance.positions.to_string()),
            ("examples".into(), covariance.examples.to_string()),
            ("units".into(), "means over positions of the outer products of inputs (with a trailing 1 for a bias) and output gradients".into()),
        ]);
        self.store.write(COVARIANCE, &key, &data(&tensors), &metadata)?;
        self.store.remove_partial(COVARIANCE, &key)?;
        Ok(())
    }

    pub(super) fn covariance(&self, site: Site) -> Result<Option<Covariance>, JobError> {
        let Some(artifact) = self.find(COVARIANCE, &self.plan.covariance_key(site))? else { return Ok(None) };
        let artifact = Arc::new(artifact);
        let layers = self.plan.training.layers();
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

    pub(super) fn keep_eigenbases<T: Number>(
        &self,
        fit: &Fit,
        bases: &[Option<Eigenbasis<T>>],
        mean_positions: f64,
    ) -> Result<(), JobError> {
        let layers = self.plan.training.layers();
        let mut pairs: Vec<(String, &Eigenpairs<T>)> = vec![];
        for (l, basis) in bases.iter().enumerate() {
            let Some(basis) = basis else { continue };
            if self.holder_of_input(fit, l) == l {
                pairs.push((format!("{}.input", layers[l].name), &basis.input));
            }
            pairs.push((format!("{}.output", layers[l].name), &basis.output));
        }
        let named = |(name, pairs): (String, &'_ Eigenpairs<T>)| {
            let n = pairs.values.len();
            (format!("{name}.vectors"), format!("{name}.values"), [n, n], pairs.clone())
        };
        let pairs: Vec<_> = pairs.into_iter().map(named).collect();
        let clipped: usize = pairs.iter().map(|(.., pairs)| pairs.clipped).sum();
        let tensors = pairs.iter().flat_map(|(vectors, values, shape, pairs)| {
            [
                TensorData::new(vectors, shape, pairs.vectors.as_slice()),
                TensorData::new(values, &shape[..1], &pairs.values),
            ]
        });
        let all: Vec<_> = tensors.collect();
        let metadata = Metadata::from([
            ("of".into(), fit.name.clone()),
            ("mean_positions".into(), mean_positions.to_string()),
            ("clipped_eigenvalues".into(), clipped.to_string()),
            ("units".into(), "orthonormal eigenvectors as columns, by ascending eigenvalue".into()),
        ]);
        Ok(self.store.write(EIGENBASIS, &self.plan.eigenbasis_key(fit), &all, &metadata)?)
    }

    /// Every layer's eigenbasis, mapped from the store.
    pub(super) fn eigenbases<T: Number>(&self, fit: &Fit) -> Result<Option<Eigenbases<T>>, JobError> {
        let Some(artifact) = self.find(EIGENBASIS, &self.plan.eigenbasis_key(fit))? else { return Ok(None) };
        let artifact = Arc::new(artifact);
        let layers = self.plan.training.layers();
        let mean_positions = artifact.metadata("mean_positions").and_then(|text| text.parse().ok()).unwrap_or(1.0);
        let pairs = |name: String, n: usize| -> Result<Eigenpairs<T>, JobError> {
            let values = artifact.f64(&format!("{name}.values"))?.to_vec();
            Ok(Eigenpairs { vectors: mapped(&artifact, format!("{name}.vectors"), n, n)?, values, clipped: 0 })
        };
        let mut bases: Vec<Option<Eigenbasis<T>>> = Vec::with_capacity(layers.len());
        for (l, layer) in layers.iter().enumerate() {
            if fit.frozen.contains(&l) {
                bases.push(None);
                continue;
            }
            let holder = self.holder_of_input(fit, l);
            let input = match bases.get(holder).and_then(Option::as_ref) {
                Some(basis) => basis.input.clone(),
                None => pairs(format!("{}.input", layers[holder].name), layer.columns())?,
            };
            bases.push(Some(Eigenbasis { input, output: pairs(format!("{}.output", layer.name), layer.outputs)? }));
        }
        Ok(Some((bases, mean_positions)))
    }

    /// The layer under whose name the input's eigenvectors of layer `l` are kept: the first that shares them.
    fn holder_of_input(&self, fit: &Fit, l: usize) -> usize {
        let layers = self.plan.training.layers();
        // each conditioner turns a shared covariance into another one
        if fit.moments.is_some() {
            return l;
        }
        let shares = |other: &usize| layers[*other].input_group == layers[l].input_group && !fit.frozen.contains(other);
        (0..l).find(shares).unwrap_or(l)
    }

    pub(super) fn keep_lambda(&self, fit: usize, site: Site, lambda: &Lambda) -> Result<(), JobError> {
        let key = self.lambda_key_at(fit, site);
        let layers = self.plan.training.layers().iter().zip(&lambda.layers);
        let tensors: Vec<_> =
            layers.map(|(l, m)| (l.name.clone(), vec![m.rows(), m.columns()], m.as_slice())).collect();
        let metadata = Metadata::from([
            ("of".into(), self.plan.training.fits[fit].name.clone()),
            ("checkpoint".into(), self.plan.training.networks.parameters()[site.network].name.clone()),
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

    pub(super) fn lambda(&self, fit: &Fit, place: &Place) -> Result<Option<Lambda>, JobError> {
        let Some(artifact) = self.find(LAMBDA, &self.plan.lambda_key(fit, place))? else { return Ok(None) };
        let artifact = Arc::new(artifact);
        let layer = |l: &LayerSpec| mapped(&artifact, l.name.clone(), l.outputs, l.columns());
        let layers = self.plan.training.layers().iter().map(layer).collect::<Result<_, JobError>>()?;
        Ok(Some(Lambda { layers, examples: count(&artifact, "examples")? }))
    }

    /// Keys of all sums that shards may leave for this job.
    pub(super) fn known_part_keys(&self) -> Result<Vec<Key>, JobError> {
        let covariances =
            Training::sites(&self.plan.training.fits).into_iter().map(|site| self.plan.covariance_key(site));
        let fits = self.plan.training.fits.iter().filter(|fit| fit.kind.has_lambda_pass());
        let lambdas = fits.flat_map(|fit| fit.places.iter().map(move |place| self.plan.lambda_key(fit, place)));
        Ok(covariances.chain(lambdas).collect())
    }
}

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

/// A count in a file's metadata.
pub(super) fn count(file: &TensorFile, name: &'static str) -> Result<u64, JobError> {
    file.metadata(name).and_then(|text| text.parse().ok()).ok_or_else(|| JobError::Options {
        problem: format!("{}: its metadata lack `{name}`", file.path().display()),
        hint: Some("delete the file; it is only a cache".into()),
    })
}

fn group_name(layers: &[LayerSpec], group: usize) -> &str {
    layers.iter().find(|layer| layer.input_group == group).map_or("", |layer| &layer.name)
}

pub(super) fn with_shapes<'a>(state: &[(String, &'a [f64])]) -> Vec<(String, Vec<usize>, &'a [f64])> {
    state.iter().map(|(name, sum)| (name.clone(), vec![sum.len()], *sum)).collect()
}

pub(super) fn data<'a>(tensors: &'a [(String, Vec<usize>, &'a [f64])]) -> Vec<TensorData<'a>> {
    tensors.iter().map(|(name, shape, values)| TensorData::new(name, shape, values)).collect()
}
