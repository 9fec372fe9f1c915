//! The queries' inverse-Hessian-vector products on disk: written by `query`, mapped into memory by whatever multiplies
//! with them, usable with other training data.

use std::ops::Range;

use crate::attribution::store::{Artifact, Element, Metadata, TensorWriter};
use crate::attribution::{Error, LegVectors, QueryRows, VectorForm, VectorSink, VectorSource};
use crate::curvature::{LayerId, LayerSpec, LowRank, Norms, Vectors};
use crate::job::brief::answers::{Contribution, ScorePass, VectorSet};
use crate::job::brief::artifacts::{CAPTURED, COEFFICIENTS, NORMS, RESIDUALS, VALUES, vectors_name, vectors_sides};
use crate::job::budget::limits::GRADIENT_BYTES;
use crate::job::budget::mapped::{AfterUse, MappedRoom};
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::steps::context::Run;

/// Kind of the store's query vectors.
const QUERIES: &str = "queries";

/// What a pass multiplies gradients with: for each of its contributions the queries' vectors, with their leg and weight.
pub(in crate::job) fn rows_of<'a, T: Number>(pass: &ScorePass, sources: &'a [StoredVectors]) -> Vec<QueryRows<'a, T>> {
    let contributions = pass.contributions.iter().zip(sources);
    contributions.map(|(of, vectors)| QueryRows { vectors, leg: of.leg, weight: of.weight }).collect()
}

impl Run<'_> {
    pub(super) fn writer<T: Number>(
        &self,
        set: VectorSet,
        rows: usize,
        queries: usize,
    ) -> Result<TensorWriter, JobError> {
        let key = self.plan.vectors_key(set).ok_or(JobError::NoQueries)?;
        let specs = self.plan.vector_specs(set, rows, queries, <T as Element>::DTYPE);
        let form = self.plan.form_of(set);
        let metadata = Metadata::from([
            ("of".into(), self.plan.answers[set.answer].name.clone()),
            ("checkpoint".into(), self.plan.training.networks.parameters()[set.network].name.clone()),
            ("measurement".into(), crate::job::brief::options::measure_name(self.plan.measure()).into()),
            (
                "units".into(),
                match form {
                    VectorForm::Full => "LEG/LAYER: response of the leg to the gradient of the query's cost (docs/method.md, Score and Source), [queries, outputs, columns]",
                    VectorForm::InBasis => "LEG/LAYER: response of the leg to the gradient of the query's cost (docs/method.md, Score) in the coordinates of the curvature's eigenbasis, [queries, outputs, columns]",
                    VectorForm::LowRank(_) => "LEG/LAYER: response of the leg to the gradient of the query's cost (docs/method.md, Score and Source), [queries, outputs, columns]; LEG/LAYER.left [queries, rank, outputs], LEG/LAYER.right [queries, rank, columns]: the same approximately, the sum of their outer products; ascribe.captured [legs, layers, queries, 2]: squared norms of what is kept and of the whole (docs/method.md, Score, Low rank)",
                }
                .into(),
            ),
        ]);
        Ok(self.store.writer(QUERIES, &key, &specs, &metadata)?)
    }

    /// The queries' vectors that a pass of scores multiplies gradients with, one for each of its contributions.
    ///
    /// # Errors
    /// [`JobError::MissingStep`] if some are not there.
    pub(in crate::job) fn vectors_of(&self, pass: &ScorePass) -> Result<Vec<StoredVectors>, JobError> {
        let room = self.plan.memory.mapped_room();
        let of = |contribution: &Contribution| {
            let vectors = self.find_vectors(contribution.set)?;
            let mut vectors = vectors.ok_or_else(|| JobError::MissingStep {
                folder: self.store.folder().to_owned(),
                what: "the queries' vectors",
                step: "query",
            })?;
            vectors.take_room(contribution.leg, &room);
            Ok(vectors)
        };
        pass.contributions.iter().map(of).collect()
    }

    /// The vectors of an earlier `query`.
    pub(in crate::job) fn find_vectors(&self, set: VectorSet) -> Result<Option<StoredVectors>, JobError> {
        let Some(key) = self.plan.vectors_key(set) else { return Ok(None) };
        let Some(artifact) = self.find(QUERIES, &key)? else { return Ok(None) };
        let layers = self.plan.training.layers();
        let form = self.plan.vector_form();
        let place = |leg, layer: &LayerSpec| match form.rank_at(layer) {
            None => Names::Full(vectors_name(leg, &layer.name)),
            Some(rank) => Names::LowRank(rank, vectors_sides(leg, &layer.name)),
        };
        let of_leg = |leg| layers.iter().map(|layer| place(leg, layer)).collect();
        let names: Vec<Vec<Names>> = (0..self.plan.legs(set.answer)).map(of_leg).collect();
        let after_use = vec![vec![AfterUse::Stay; layers.len()]; names.len()];
        let rows = artifact.f64(NORMS)?.len();
        Ok(Some(StoredVectors { artifact, names, after_use, rows }))
    }

    /// The share of the squared norm of each query's vectors that an answer's scores are made of, over its layers, all
    /// legs and networks; none if vectors are whole.
    pub(in crate::job) fn captured(&self, answer: usize) -> Result<Option<Vec<f64>>, JobError> {
        if self.plan.vector_form() == VectorForm::Full {
            return Ok(None);
        }
        let mut sums: Vec<Norms> = vec![];
        let (layers, of_answer) = (self.plan.training.layers().len(), self.plan.layers_of(answer));
        for set in self.plan.vector_sets(&[answer]) {
            let vectors = self.find_vectors(set)?.ok_or(JobError::NoQueries)?;
            let rows = vectors.rows();
            sums.resize(rows, Norms::default());
            let pairs = vectors.artifact.f64(CAPTURED)?.chunks_exact(2).enumerate();
            for (k, pair) in pairs.filter(|(k, _)| of_answer.contains(&(k / rows % layers))) {
                sums[k % rows] = [sums[k % rows], Norms { kept: pair[0], whole: pair[1] }].into_iter().sum();
            }
        }
        Ok(Some(sums.into_iter().map(Norms::share).collect()))
    }
}

/// Queries of one batch at most, with numbers of so many bytes.
pub(in crate::job) fn queries_at_once(layers: &[LayerSpec], width: usize) -> usize {
    let widest = layers.iter().map(LayerSpec::parameters).max().unwrap_or(1) * width;
    (GRADIENT_BYTES / widest.max(1)).max(1)
}

/// Query vectors in a memory map.
#[derive(Debug)]
pub(in crate::job) struct StoredVectors {
    artifact: Artifact,
    /// For each leg the tensors of its layers.
    names: Vec<Vec<Names>>,
    /// For each leg and layer.
    after_use: Vec<Vec<AfterUse>>,
    rows: usize,
}

/// The tensors of one layer's vectors.
#[derive(Debug)]
enum Names {
    Full(String),
    LowRank(usize, [String; 2]),
}

impl Names {
    fn tensors(&self) -> &[String] {
        match self {
            Self::Full(name) => std::slice::from_ref(name),
            Self::LowRank(_, sides) => sides,
        }
    }
}

impl StoredVectors {
    /// Whole vectors of one leg, as [`vectors_name`] names them.
    pub(in crate::job) fn of_layers(artifact: Artifact, layers: &[LayerSpec], rows: usize, room: &MappedRoom) -> Self {
        let names = vec![layers.iter().map(|layer| Names::Full(vectors_name(0, &layer.name))).collect()];
        let after_use = vec![vec![AfterUse::Stay; layers.len()]];
        let mut found = Self { artifact, names, after_use, rows };
        found.take_room(0, room);
        found
    }

    /// Decides which of one leg's vectors stay in memory between two batches.
    pub(in crate::job) fn take_room(&mut self, leg: usize, room: &MappedRoom) {
        for (name, after_use) in self.names[leg].iter().zip(&mut self.after_use[leg]) {
            let bytes = |name: &String| self.artifact.bytes(name).map_or(0, |bytes| bytes.len() as u64);
            *after_use = room.take(name.tensors().iter().map(bytes).sum());
        }
    }

    /// Each query's measurement.
    pub(in crate::job) fn values(&self) -> Result<&[f64], JobError> {
        Ok(self.artifact.f64(VALUES)?)
    }

    /// `<∇f_q, (F + damping)⁻¹ ∇f_q>` for each query; NaN if it was not asked for.
    pub(in crate::job) fn norms(&self) -> Result<&[f64], JobError> {
        Ok(self.artifact.f64(NORMS)?)
    }

    /// How well each query's joint system was solved.
    pub(super) fn solved(&self) -> Result<&[f64], JobError> {
        Ok(self.artifact.f64(RESIDUALS)?)
    }

    /// The coefficients of one query's solution in its subspace and the norm of its gradient; none in files of versions
    /// that did not keep them.
    pub(super) fn coefficients(&self, query: usize) -> Result<Option<&[f64]>, JobError> {
        if self.artifact.spec(COEFFICIENTS).is_err() {
            return Ok(None);
        }
        let all = self.artifact.f64(COEFFICIENTS)?;
        let width = all.len() / self.rows.max(1);
        Ok(all.get(query * width..(query + 1) * width))
    }

    /// Rows of the score matrix.
    pub(in crate::job) fn rows(&self) -> usize {
        self.rows
    }
}

impl<T: Number> VectorSource<T> for StoredVectors {
    fn vectors(&self, leg: usize, layer: LayerId) -> Result<Vectors<'_, T>, Error> {
        Ok(match &self.names[leg][layer.0] {
            Names::Full(name) => Vectors::Full(self.artifact.values(name)?),
            Names::LowRank(rank, [left, right]) => {
                let (left, right) = (self.artifact.values(left)?, self.artifact.values(right)?);
                Vectors::LowRank(LowRank { rank: *rank, left, right })
            }
        })
    }

    fn used(&self, leg: usize, layer: LayerId) {
        if self.after_use[leg][layer.0] == AfterUse::Forgotten {
            self.names[leg][layer.0].tensors().iter().for_each(|name| self.artifact.forget(name));
        }
    }

    fn queries(&self) -> usize {
        self.rows
    }
}

pub(super) struct Writing<'a> {
    /// For each leg of all walks its file and its number there.
    pub(super) legs: Vec<(&'a TensorWriter, usize)>,
    pub(super) layers: &'a [LayerSpec],
    pub(super) form: VectorForm,
    pub(super) rows: usize,
    /// For each leg of all walks, by layer and query.
    pub(super) norms: Vec<Vec<Norms>>,
}

impl<T: Number> VectorSink<T> for Writing<'_> {
    fn form(&self) -> VectorForm {
        self.form
    }

    fn put(&mut self, leg: usize, layer: LayerId, queries: Range<usize>, found: &LegVectors<T>) -> Result<(), Error> {
        let start = layer.0 * self.rows + queries.start;
        self.norms[leg][start..].iter_mut().zip(&found.norms).for_each(|(kept, norms)| *kept = *norms);
        let layer = &self.layers[layer.0];
        let (writer, leg) = self.legs[leg];
        match found.vectors() {
            Vectors::Full(vectors) => {
                let offset = (queries.start * layer.parameters()) as u64;
                writer.write_values_at(&vectors_name(leg, &layer.name), offset, vectors)?;
            }
            Vectors::LowRank(LowRank { rank, left, right }) => {
                let [left_name, right_name] = vectors_sides(leg, &layer.name);
                let offset = |size: usize| (queries.start * rank * size) as u64;
                writer.write_values_at(&left_name, offset(layer.outputs), left)?;
                writer.write_values_at(&right_name, offset(layer.columns()), right)?;
            }
        }
        Ok(())
    }
}
