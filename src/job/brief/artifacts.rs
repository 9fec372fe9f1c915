//! Which tensors each artifact of the store holds, of which shape, and how many bytes its file has. The writers, the
//! bound on the disk and the summary of a plan all ask here, so that they cannot disagree.

use serde::Serialize;

use crate::attribution::store::{Dtype, Element, Metadata, TensorSpec, file_size};
use crate::attribution::{Subspace, VectorForm};
use crate::curvature::{BlockWidth, Covariance, CurvatureKind, LayerSide, LayerSpec, PairWeights, Side};
use crate::job::brief::Brief;
use crate::job::brief::answers::{Method, VectorSet};
use crate::job::number::with_number;
use crate::job::request::{SPANNING, Solve};
use crate::job::training::{Fit, Training};

/// Each query's measurement, in files of query vectors.
pub(in crate::job) const VALUES: &str = "ascribe.measurements";
/// Each query's quadratic form in the inverse curvature, for cosines; NaN where none is asked for.
pub(in crate::job) const NORMS: &str = "ascribe.quadratic_forms";

/// What joint solves left of each query's system, relative to the query.
pub(in crate::job) const RESIDUALS: &str = "ascribe.residuals";

/// The coefficients of each query's solution in its subspace, and the norm of its gradient.
pub(in crate::job) const COEFFICIENTS: &str = "ascribe.coefficients";

/// Squared norms of what low rank keeps of query vectors, and of the whole.
pub(in crate::job) const CAPTURED: &str = "ascribe.captured";

/// The tensor of the vectors of one leg at a layer.
pub(in crate::job) fn vectors_name(leg: usize, layer: &str) -> String {
    format!("{leg}/{layer}")
}

/// The two tensors of the vectors of one leg at a layer, where they are of low rank.
pub(in crate::job) fn vectors_sides(leg: usize, layer: &str) -> [String; 2] {
    ["left", "right"].map(|side| format!("{leg}/{layer}.{side}"))
}

/// What an artifact says about itself: format, kind, key, units, names.
const ABOUT: usize = 420;

impl Brief {
    /// Bytes of a number in the run's type.
    pub(in crate::job) fn width(&self) -> u64 {
        self.job.model.dtype.bytes()
    }

    /// The type of a number of the run, as files name it.
    pub(in crate::job) fn number(&self) -> Dtype {
        with_number!(self.job.model.dtype, T => <T as Element>::DTYPE)
    }

    /// How wide a block of an eigenbasis may be.
    pub(in crate::job) fn block_width(&self) -> BlockWidth {
        self.job.method.block_width()
    }

    /// Whether any curvature that is needed has an eigenbasis.
    pub(in crate::job) fn has_eigenbasis(&self) -> bool {
        self.needed_fits().any(|(_, fit)| fit.kind.has_eigenbasis())
    }

    /// Whether a covariance of a tracked layer is wider than that.
    pub(in crate::job) fn is_cut(&self) -> bool {
        let width = self.block_width();
        self.training.layers().iter().any(|layer| width.cuts_layer(layer))
    }

    /// The covariances that are kept in blocks, whatever width was asked for.
    pub(in crate::job) fn kept_in_blocks(&self) -> Vec<KeptInBlocks> {
        let layers = self.training.layers();
        let kept = |of: LayerSide| {
            let layer = &layers[of.layer];
            let (width, tokens) = (layer.kept_blocks(of.side), layer.size(of.side));
            let blocks = width.groups(tokens).count();
            width.cuts(tokens).then(|| KeptInBlocks {
                side: side_name(layers, of),
                tokens,
                blocks,
                is_input: of.side == Side::Input,
            })
        };
        if !self.has_eigenbasis() {
            return vec![];
        }
        Covariance::sides(layers).into_iter().filter_map(kept).collect()
    }

    /// Which pairs of positions the sums of its covariances are over: those of Source's segments and of the curvature of
    /// influence, which are one kind, since Source takes EK-FAC alone.
    pub(in crate::job) fn pair_weights(&self) -> PairWeights {
        CurvatureKind::from(self.job.method.curvature).pair_weights()
    }

    /// Fits that an answer needs, each with its number.
    pub(in crate::job) fn needed_fits(&self) -> impl Iterator<Item = (usize, &Fit)> {
        let segments = self.training.segments().len();
        let needed = move |&(index, _): &(usize, &Fit)| {
            self.answers.iter().any(|answer| match answer.method {
                Method::Influence { fit, .. } => fit == index,
                Method::InfluenceMean { sample, .. } => {
                    self.training.averaged.iter().any(|averaged| self.training.fit_on(averaged.fit, sample) == index)
                }
                Method::Source { .. } => index < segments,
                Method::Tracin | Method::Gradients => false,
            })
        };
        self.training.fits.iter().enumerate().filter(needed)
    }

    /// Lower triangles of the covariances of all layers.
    pub(in crate::job) fn covariance_specs(&self) -> Vec<TensorSpec> {
        let layers = self.training.layers();
        let triangle = |side: LayerSide| {
            let numbers = Covariance::numbers_of_side(&layers[side.layer], side.side);
            TensorSpec::new(side_name(layers, side), Dtype::F64, [numbers])
        };
        Covariance::sides(layers).into_iter().map(triangle).collect()
    }

    /// Eigenvectors, in blocks, and eigenvalues of all covariances that a fit needs.
    pub(in crate::job) fn eigenbasis_specs(&self, fit: &Fit, dtype: Dtype) -> Vec<TensorSpec> {
        let (layers, width) = (self.training.layers(), self.block_width());
        let of_side = |side: LayerSide| {
            let (name, n) = (side_name(layers, side), side.size(layers));
            let values = TensorSpec::new(format!("{name}.values"), Dtype::F64, [n]);
            let blocks = block_names(&name, n, width.at(&layers[side.layer], side.side))
                .map(|(name, n)| TensorSpec::new(name, dtype, [n, n]));
            blocks.chain([values]).collect::<Vec<_>>()
        };
        LayerSide::all(layers, fit.shared_inputs(), &fit.frozen).into_iter().flat_map(of_side).collect()
    }

    /// Λ of all layers.
    pub(in crate::job) fn lambda_specs(&self) -> Vec<TensorSpec> {
        let spec = |l: &LayerSpec| TensorSpec::new(&l.name, Dtype::F64, [l.outputs, l.columns()]);
        self.training.layers().iter().map(spec).collect()
    }

    /// In which form queries' vectors are kept.
    pub(in crate::job) fn form_of(&self, set: VectorSet) -> VectorForm {
        if self.keeps_in_basis(set) { VectorForm::InBasis } else { self.vector_form() }
    }

    /// The form of the vectors that are multiplied with all examples' gradients.
    pub(in crate::job) fn vector_form(&self) -> VectorForm {
        self.job.method.query_rank.map_or(VectorForm::Full, VectorForm::LowRank)
    }

    /// The tensors of a set's vectors.
    pub(in crate::job) fn vector_specs(
        &self,
        set: VectorSet,
        rows: usize,
        queries: usize,
        dtype: Dtype,
    ) -> Vec<TensorSpec> {
        let layers = self.training.layers();
        let (form, legs) = (self.vector_form(), self.legs(set.answer));
        let mut specs: Vec<TensorSpec> = (0..legs)
            .flat_map(|leg| layers.iter().map(move |layer| (leg, layer)))
            .flat_map(|(leg, l)| {
                let spec = |name: String, shape: [usize; 3]| TensorSpec::new(name, dtype, shape);
                match form.rank_at(l) {
                    None => vec![spec(vectors_name(leg, &l.name), [rows, l.outputs, l.columns()])],
                    Some(rank) => vectors_sides(leg, &l.name)
                        .into_iter()
                        .zip([l.outputs, l.columns()])
                        .map(|(name, size)| spec(name, [rows, rank, size]))
                        .collect(),
                }
            })
            .collect();
        if form != VectorForm::Full {
            specs.push(TensorSpec::new(CAPTURED, Dtype::F64, [legs, layers.len(), rows, 2]));
        }
        if self.solves_jointly(set.answer) {
            specs.push(TensorSpec::new(RESIDUALS, Dtype::F64, [rows]));
            if self.job.method.solve == Solve::Subspace {
                let directions = Subspace::<f32>::directions(layers.len(), SPANNING.len());
                specs.push(TensorSpec::new(COEFFICIENTS, Dtype::F64, [rows, directions + 1]));
            }
        }
        specs.push(TensorSpec::new(VALUES, Dtype::F64, [queries]));
        specs.push(TensorSpec::new(NORMS, Dtype::F64, [rows]));
        specs
    }

    /// The sampled gradients of matrix-free solves.
    pub(in crate::job) fn sample_specs(&self, dtype: Dtype) -> Vec<TensorSpec> {
        let rows = self.sampled_gradients();
        let spec = |l: &LayerSpec| TensorSpec::new(vectors_name(0, &l.name), dtype, [rows, l.outputs, l.columns()]);
        self.training.layers().iter().map(spec).collect()
    }

    /// Bytes of the file of these gradients; 0 for other solves.
    pub(in crate::job) fn sample_bytes(&self) -> u64 {
        if self.job.method.solve != Solve::MFac || self.queries.is_none() {
            return 0;
        }
        size(&self.sample_specs(self.number()), ABOUT)
    }

    /// Bytes of the file of one network's covariances.
    pub(in crate::job) fn covariance_bytes(&self) -> u64 {
        size(&self.covariance_specs(), ABOUT)
    }

    /// Bytes of the file of a fit's eigenbases.
    pub(in crate::job) fn eigenbasis_bytes(&self, fit: &Fit) -> u64 {
        size(&self.eigenbasis_specs(fit, self.number()), ABOUT)
    }

    /// Bytes of the file of a fit's Λ at one network; 0 for a curvature without.
    pub(in crate::job) fn lambda_bytes(&self, fit: &Fit) -> u64 {
        if fit.kind == CurvatureKind::Identity { 0 } else { size(&self.lambda_specs(), ABOUT) }
    }

    /// Bytes of the file of a set's query vectors; 0 without queries.
    pub(in crate::job) fn vectors_bytes(&self, set: VectorSet) -> u64 {
        let Some(queries) = &self.queries else { return 0 };
        size(&self.vector_specs(set, self.query_rows(), queries.len(), self.number()), ABOUT)
    }
}

/// A covariance whose coordinates are the tokens of a large vocabulary, which is kept in blocks on its diagonal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::job) struct KeptInBlocks {
    /// `LAYER.input` or `LAYER.output`.
    pub side: String,
    /// Its coordinates.
    pub tokens: usize,
    /// Its blocks.
    pub blocks: usize,
    /// Whether it is of an embedding's inputs, of which nothing is dropped.
    #[serde(skip)]
    pub is_input: bool,
}

impl KeptInBlocks {
    /// What a person should know of it; nothing where nothing is dropped.
    pub(in crate::job) fn note(&self) -> Option<String> {
        let Self { side, tokens, blocks, is_input } = self;
        (!is_input).then(|| {
            format!(
                "the covariance `{side}` of {tokens} tokens is kept in {blocks} blocks on its diagonal; what connects tokens of \
                 two blocks is dropped"
            )
        })
    }
}

/// The name under which a side of a layer is kept.
pub(in crate::job) fn side_name(layers: &[LayerSpec], of: LayerSide) -> String {
    format!("{}.{}", layers[of.layer].name, of.side.name())
}

/// The tensors of the eigenvectors of `n` coordinates, with the width of each; a single one has no number.
pub(in crate::job) fn block_names(name: &str, n: usize, width: BlockWidth) -> impl Iterator<Item = (String, usize)> {
    let is_cut = width.cuts(n);
    let named = move |k: usize| if is_cut { format!("{name}.vectors.{k}") } else { format!("{name}.vectors") };
    width.groups(n).enumerate().map(move |(k, group)| (named(k), group.len()))
}

/// A file of these tensors with so many characters about them.
fn size(tensors: &[TensorSpec], about: usize) -> u64 {
    let metadata = Metadata::from([("about".to_owned(), "x".repeat(about))]);
    let numbers = || tensors.iter().map(|t| t.dtype.size() as u64 * t.shape.iter().product::<usize>() as u64).sum();
    file_size(tensors, &metadata).unwrap_or_else(|_| numbers())
}

/// Bytes of every file of a run folder's curvature. A run that takes another's has none.
#[derive(Debug, Default)]
pub(in crate::job) struct CurvatureFiles {
    pub covariances: Vec<u64>,
    pub eigenbases: Vec<u64>,
    pub lambdas: Vec<u64>,
}

impl CurvatureFiles {
    /// The files that the needed fits of a job leave.
    pub(in crate::job) fn of(brief: &Brief) -> Self {
        if brief.reused.is_some() {
            return Self::default();
        }
        let fits: Vec<&Fit> = brief.needed_fits().map(|(_, fit)| fit).collect();
        let with_bases = || fits.iter().copied().filter(|fit| fit.kind.has_eigenbasis());
        let with_lambdas = fits.iter().filter(|fit| fit.kind.has_lambda());
        Self {
            covariances: vec![brief.covariance_bytes(); Training::sites(with_bases()).len()],
            eigenbases: with_bases().map(|fit| brief.eigenbasis_bytes(fit)).collect(),
            lambdas: with_lambdas.flat_map(|fit| vec![brief.lambda_bytes(fit); fit.places.len()]).collect(),
        }
    }

    /// Bytes of all of them.
    pub(in crate::job) fn bytes(&self) -> u64 {
        [&self.covariances, &self.eigenbases, &self.lambdas].into_iter().flatten().sum()
    }
}
