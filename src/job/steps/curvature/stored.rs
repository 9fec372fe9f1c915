//! Covariances, eigenbases and Λ on disk.

use std::sync::Arc;

use super::counts::{self, count};
use super::kinds::{Bases, COVARIANCE, EIGENBASIS, LAMBDA};
use crate::attribution::store::{Artifact, Element, Key, Metadata, TensorData, TensorWriter};
use crate::curvature::{
    BlockDiagonal, Counts, Covariance, CovarianceBlock, Eigenbasis, Eigenpairs, Lambda, LayerSide, LayerSpec, Matrix,
    Numbers, PairWeights, Side, SymmetricBlocks,
};
use crate::job::brief::artifacts::{block_names, side_name};
use crate::job::budget::mapped::{AfterUse, MappedRoom};
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::steps::context::Run;
use crate::job::training::{Fit, Place, Site};

/// Every layer's eigenbasis, none where it was frozen, and its T̄, the mean number of positions of an example.
type Eigenbases<T> = (Vec<Option<Eigenbasis<T>>>, Vec<f64>);

impl Run<'_> {
    pub(super) fn keep_covariance(&self, site: Site, covariance: &Covariance) -> Result<(), JobError> {
        let writer = self.covariance_writer(site, &covariance.counts)?;
        self.write_covariance(&writer, self.plan.training.layers(), covariance)?;
        writer.finish()?;
        self.store.remove_partial(COVARIANCE, &self.plan.covariance_key(site))?;
        Ok(())
    }

    /// Starts the covariances of all layers.
    pub(super) fn covariance_writer(&self, site: Site, counts: &Counts) -> Result<TensorWriter, JobError> {
        let specs = self.plan.covariance_specs();
        let mut metadata = counts::metadata(counts);
        let units = match self.plan.pair_weights() {
            PairWeights::Positions => {
                "means over positions of the outer products of inputs (with a trailing 1 for a bias) and output gradients; lower triangles, row by row"
            }
            PairWeights::Norms => {
                "means over positions of outer products, inputs (with a trailing 1 for a bias) times squared norms of output gradients and these times those of inputs; lower triangles, row by row"
            }
            PairWeights::Gradients => {
                "means over examples of products of whole gradients with their transposes, on the side of inputs (with a trailing 1 for a bias) and of outputs; lower triangles, row by row"
            }
        };
        metadata.extend([
            ("checkpoint".into(), self.plan.training.networks.parameters()[site.network].name.clone()),
            ("units".into(), units.into()),
        ]);
        Ok(self.store.writer(COVARIANCE, &self.plan.covariance_key(site), &specs, &metadata)?)
    }

    /// Writes the covariances of these layers; layers that read the same input are among them together.
    pub(super) fn write_covariance(
        &self,
        writer: &TensorWriter,
        layers: &[LayerSpec],
        covariance: &Covariance,
    ) -> Result<(), JobError> {
        for side in Covariance::sides(layers) {
            writer.write_values_at(&side_name(layers, side), 0, covariance.of(layers, side).as_slice())?;
        }
        Ok(())
    }

    pub(super) fn covariance(&self, site: Site) -> Result<Option<Covariance>, JobError> {
        let Some(artifact) = self.find(COVARIANCE, &self.plan.covariance_key(site))? else { return Ok(None) };
        let artifact = Arc::new(artifact);
        let layers = self.plan.training.layers();
        let groups = layers.iter().map(|layer| layer.input_group + 1).max().unwrap_or(0);
        let (mut inputs, mut outputs) = (vec![None; groups], vec![]);
        for side in Covariance::sides(layers) {
            let (name, n) = (side_name(layers, side), side.size(layers));
            // it is decomposed once
            let layer = &layers[side.layer];
            let numbers = Covariance::numbers_of_side(layer, side.side);
            let triangles = mapped_values(&artifact, name, numbers, |_| AfterUse::Forgotten)?;
            let matrix = SymmetricBlocks::shared(triangles, n, layer.kept_blocks(side.side));
            match side.side {
                Side::Input => inputs[layers[side.layer].input_group] = Some(matrix),
                Side::Output => outputs.push(matrix),
            }
        }
        let counts = counts::of_file(&artifact, 0..layers.len())?;
        Ok(Some(Covariance { inputs, outputs, counts }))
    }

    /// Starts the eigenbases of a fit.
    pub(super) fn eigenbasis_writer<T: Number>(
        &self,
        fit: &Fit,
        mean_positions: &[f64],
    ) -> Result<TensorWriter, JobError> {
        let specs = self.plan.eigenbasis_specs(fit, <T as Element>::DTYPE);
        let mut metadata = counts::mean_metadata(mean_positions);
        metadata.extend([
            ("of".into(), fit.name.clone()),
            ("units".into(), "orthonormal eigenvectors as columns, by ascending eigenvalue".into()),
        ]);
        let block_width = self.plan.job.method.eigen_block_width.filter(|_| self.plan.is_cut());
        metadata.extend(block_width.map(|width| ("eigen_block_width".to_owned(), width.to_string())));
        Ok(self.store.writer(EIGENBASIS, &self.plan.eigenbasis_key(fit), &specs, &metadata)?)
    }

    /// The tensor of a block's eigenvectors, and that of its covariance's eigenvalues.
    pub(super) fn eigen_names(&self, block: &CovarianceBlock) -> [String; 2] {
        let layers = self.plan.training.layers();
        let name = side_name(layers, block.of);
        let width = self.plan.block_width().at(&layers[block.of.layer], block.of.side);
        let mut vectors = block_names(&name, block.of.size(layers), width);
        let vectors = vectors.nth(block.block).map_or_else(String::new, |(name, _)| name);
        [vectors, format!("{name}.values")]
    }

    /// Every layer's eigenbasis, mapped from the store.
    pub(super) fn eigenbases<T: Number>(&self, fit: &Fit) -> Result<Option<Eigenbases<T>>, JobError> {
        let Some(artifact) = self.find(EIGENBASIS, &self.plan.eigenbasis_key(fit))? else { return Ok(None) };
        let artifact = Arc::new(artifact);
        let layers = self.plan.training.layers();
        let room = self.plan.memory.mapped_room();
        let mean_positions = counts::means_of_file(&artifact, layers.len())?;
        let pairs = |side: LayerSide| -> Result<Eigenpairs<T>, JobError> {
            let (name, n) = (side_name(layers, side), side.size(layers));
            let values = artifact.f64(&format!("{name}.values"))?.to_vec();
            let width = self.plan.block_width().at(&layers[side.layer], side.side);
            let blocks = block_names(&name, n, width);
            let blocks = blocks.map(|(name, n)| mapped(&artifact, name, n, n, &room));
            let vectors = BlockDiagonal::new(blocks.collect::<Result<_, _>>()?);
            Ok(Eigenpairs { vectors, values, clipped: 0 })
        };
        let bases = Eigenbasis::of_pairs(layers, fit.shared_inputs(), &fit.frozen, pairs)?;
        Ok(Some((bases, mean_positions)))
    }

    /// The eigenbases of some fits, and the conditioners that go with them.
    pub(super) fn bases_of<T: Number>(&self, fits: &[usize]) -> Result<Vec<Bases<T>>, JobError> {
        let layers = self.plan.training.layers();
        let bases = |&index: &usize| {
            let fit = &self.plan.training.fits[index];
            let found = if fit.kind.has_eigenbasis() { self.eigenbases::<T>(fit)? } else { None };
            let bases = found.map_or_else(|| vec![None; layers.len()], |(bases, _)| bases);
            Ok(Bases { bases, conditioners: fit.conditioners(layers)?, frozen: fit.frozen.clone() })
        };
        fits.iter().map(bases).collect()
    }

    pub(super) fn lambda_key_at(&self, fit: usize, site: Site) -> Key {
        let fit = &self.plan.training.fits[fit];
        let place = fit.places.iter().find(|place| place.network == site.network);
        self.plan.lambda_key_on(fit, place.expect("the fit is taken at this network"), site.sample)
    }

    pub(super) fn keep_lambda(&self, fit: usize, site: Site, lambda: &Lambda) -> Result<(), JobError> {
        let writer = self.lambda_writer(fit, site, lambda.examples)?;
        self.write_lambda(&writer, self.plan.training.layers(), lambda)?;
        writer.finish()?;
        self.store.remove_partial(LAMBDA, &self.lambda_key_at(fit, site))?;
        Ok(())
    }

    /// Writes the roots of second moments that are a curvature, where they are not there yet: no example is read for them,
    /// so that a shard leaves all of them.
    pub(super) fn keep_second_moments(&self) -> Result<(), JobError> {
        let layers = self.plan.training.layers();
        for (_, fit) in self.plan.needed_fits() {
            let (Some(moments), [place]) = (&fit.second_moments, fit.places.as_slice()) else { continue };
            let key = self.plan.lambda_key(fit, place);
            if self.find(LAMBDA, &key)?.is_some() {
                continue;
            }
            let metadata = Metadata::from([
                ("of".into(), fit.name.clone()),
                ("checkpoint".into(), self.plan.training.networks.parameters()[place.network].name.clone()),
                ("examples".into(), "0".into()),
                ("units".into(), "root of Adam's bias-corrected second moments, of gradients of a batch's loss".into()),
            ]);
            let writer = self.store.writer(LAMBDA, &key, &self.plan.lambda_specs(), &metadata)?;
            for (layer, moments) in layers.iter().zip(moments.values(layers)?) {
                let roots: Vec<f64> = moments.iter().map(|v| f64::from(*v).sqrt()).collect();
                writer.write_values_at(&layer.name, 0, &roots)?;
            }
            writer.finish()?;
        }
        Ok(())
    }

    /// Writes Λ of these layers.
    pub(super) fn write_lambda(
        &self,
        writer: &TensorWriter,
        layers: &[LayerSpec],
        lambda: &Lambda,
    ) -> Result<(), JobError> {
        for (layer, matrix) in layers.iter().zip(&lambda.layers) {
            writer.write_values_at(&layer.name, 0, matrix.as_slice())?;
        }
        Ok(())
    }

    /// Starts Λ of all layers.
    pub(super) fn lambda_writer(&self, fit: usize, site: Site, examples: u64) -> Result<TensorWriter, JobError> {
        let specs = self.plan.lambda_specs();
        let metadata = Metadata::from([
            ("of".into(), self.plan.training.fits[fit].name.clone()),
            ("checkpoint".into(), self.plan.training.networks.parameters()[site.network].name.clone()),
            ("examples".into(), examples.to_string()),
            (
                "units".into(),
                "mean squared example gradient in the eigenbasis, of losses summed over positions; undamped".into(),
            ),
        ]);
        Ok(self.store.writer(LAMBDA, &self.lambda_key_at(fit, site), &specs, &metadata)?)
    }

    pub(super) fn lambda(&self, fit: &Fit, place: &Place) -> Result<Option<Lambda>, JobError> {
        self.lambda_of_key(&self.plan.lambda_key(fit, place))
    }

    /// Fits whose Λ is missing at a network, with their numbers and that network.
    pub(super) fn fits_without_lambda(&self) -> Result<Vec<(usize, &Fit, &Place)>, JobError> {
        let mut missing = vec![];
        for (index, fit) in self.plan.needed_fits().filter(|(_, fit)| fit.kind.has_lambda_pass()) {
            for place in &fit.places {
                if self.find(LAMBDA, &self.plan.lambda_key(fit, place))?.is_none() {
                    missing.push((index, fit, place));
                }
            }
        }
        Ok(missing)
    }

    /// Λ of a fit on the examples of a site.
    pub(super) fn lambda_at(&self, fit: usize, site: Site) -> Result<Option<Lambda>, JobError> {
        self.lambda_of_key(&self.lambda_key_at(fit, site))
    }

    fn lambda_of_key(&self, key: &Key) -> Result<Option<Lambda>, JobError> {
        let Some(artifact) = self.find(LAMBDA, key)? else { return Ok(None) };
        let artifact = Arc::new(artifact);
        let room = self.plan.memory.mapped_room();
        let layer = |l: &LayerSpec| mapped(&artifact, l.name.clone(), l.outputs, l.columns(), &room);
        let layers = self.plan.training.layers().iter().map(layer).collect::<Result<_, JobError>>()?;
        Ok(Some(Lambda { layers, examples: count(&artifact, "examples")? }))
    }
}

/// Numbers that stay in the artifact's memory map.
struct Mapped<T> {
    artifact: Arc<Artifact>,
    name: String,
    after_use: AfterUse,
    kind: std::marker::PhantomData<fn() -> T>,
}

impl<T: Number> AsRef<[T]> for Mapped<T> {
    fn as_ref(&self) -> &[T] {
        self.artifact.values(&self.name).expect("`mapped` looked it up")
    }
}

impl<T: Number> Numbers<T> for Mapped<T> {
    fn forget(&self) {
        if self.after_use == AfterUse::Forgotten {
            self.artifact.forget(&self.name);
        }
    }
}

fn mapped<T: Number>(
    artifact: &Arc<Artifact>,
    name: String,
    rows: usize,
    columns: usize,
    room: &MappedRoom,
) -> Result<Matrix<T>, JobError> {
    let numbers = mapped_values(artifact, name, rows * columns, |bytes| room.take(bytes))?;
    Ok(Matrix::shared(numbers, rows, columns))
}

/// So many numbers; what becomes of them between two uses may depend on their bytes.
fn mapped_values<T: Number>(
    artifact: &Arc<Artifact>,
    name: String,
    expected: usize,
    after_use: impl FnOnce(u64) -> AfterUse,
) -> Result<Arc<dyn Numbers<T>>, JobError> {
    let values = artifact.values::<T>(&name)?;
    if values.len() != expected {
        let (layer, what, found) = (name, "a stored matrix", vec![values.len()]);
        return Err(crate::curvature::Error::Shape { layer, what, found, expected: vec![expected] }.into());
    }
    let after_use = after_use(std::mem::size_of_val(values) as u64);
    Ok(Arc::new(Mapped { artifact: artifact.clone(), name, after_use, kind: std::marker::PhantomData }))
}

pub(super) fn with_shapes<'a>(state: &[(String, &'a [f64])]) -> Vec<(String, Vec<usize>, &'a [f64])> {
    state.iter().map(|(name, sum)| (name.clone(), vec![sum.len()], *sum)).collect()
}

pub(super) fn data<'a>(tensors: &'a [(String, Vec<usize>, &'a [f64])]) -> Vec<TensorData<'a>> {
    tensors.iter().map(|(name, shape, values)| TensorData::new(name, shape, values)).collect()
}
