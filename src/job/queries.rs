//! The queries' inverse-Hessian-vector products on disk: written once, mapped by the scorer, usable
//! with other training data.

use std::ops::Range;

use super::plan::InBatches;
use super::run::{Number, Run};
use super::{JobError, Normalize};
use crate::attribution::store::{Artifact, Dtype, Element, Metadata, TensorSpec, TensorWriter};
use crate::attribution::{
    Aggregate, Error, Event, Pass, VectorSink, VectorSource, Walk, prepare_queries, quadratic_forms,
};
use crate::curvature::{Factors, LayerSpec, Measurement, Network, Objective, QuadraticForm};

const QUERIES: &str = "queries";

/// Bytes of gradients that queries of one batch may take at the widest layer.
const GRADIENT_BYTES: usize = 64 << 20;

impl Run<'_> {
    /// The queries' vectors, prepared where they are not there yet.
    pub(super) fn query<T: Number>(&self, factors: &Factors<T>) -> Result<StoredVectors, JobError> {
        if let Some(found) = self.find_vectors()? {
            self.observer().event(Event::Reused { pass: Pass::Queries });
            return Ok(found);
        }
        let (Some(queries), Some(key)) = (&self.plan.queries, self.plan.query_key()) else {
            return Err(JobError::NoQueries);
        };
        let (layers, method) = (self.plan.model.layers(), &self.plan.job.method);
        let aggregate = Aggregate::from(method.aggregate);
        let rows = aggregate.rows(queries.len());
        let mut specs: Vec<TensorSpec> = layers
            .iter()
            .map(|l| TensorSpec::new(l.name.clone(), <T as Element>::DTYPE, [rows, l.outputs, l.columns()]))
            .collect();
        specs.push(TensorSpec::new(VALUES, Dtype::F64, [queries.len()]));
        specs.push(TensorSpec::new(NORMS, Dtype::F64, [rows]));
        let metadata = Metadata::from([
            ("measurement".into(), super::plan::measure_name(self.plan.measure()).into()),
            (
                "units".into(),
                "response of the leg to the gradient of the query's cost (METHOD (14)), [queries, outputs, columns]"
                    .into(),
            ),
        ]);
        let writer = self.store.writer(QUERIES, &key, &specs, &metadata)?;
        let walk = Walk::influence(factors, method.damping.0);
        let widest = layers.iter().map(LayerSpec::parameters).max().unwrap_or(1) * size_of::<T>();
        let at_most = (GRADIENT_BYTES / widest.max(1)).max(1);
        let examples = Few { batches: self.plan.in_batches(queries), at_most };
        let sweep = crate::attribution::Sweep {
            network: &self.plan.model,
            examples: &examples,
            range: 0..queries.len(),
            pass: Pass::Queries,
            observer: self.observer(),
        };
        let measurement = Measurement::from(self.plan.measure());
        let mut sink = Writing { writer: &writer, layers };
        let values =
            prepare_queries::<_, T>(&sweep, measurement, method.reduction.into(), aggregate, &walk, &mut sink)?;
        writer.write_values_at(VALUES, 0, &values)?;
        let norms = match method.normalize {
            Normalize::None => vec![f64::NAN; rows],
            Normalize::Cosine if aggregate != Aggregate::Each => {
                return Err(JobError::Options {
                    problem: "`normalize = cosine` is defined for queries one by one".into(),
                    hint: Some("leave `aggregate` out".into()),
                });
            }
            Normalize::Cosine => {
                let objective = Objective::Measurement(measurement, method.reduction.into());
                let form = QuadraticForm::new(layers, factors, |l| walk.legs[0].response.for_layer(&factors.layers[l]));
                quadratic_forms(&sweep, objective, form)?
            }
        };
        writer.write_values_at(NORMS, 0, &norms)?;
        writer.finish()?;
        self.find_vectors()?.ok_or(JobError::NoQueries)
    }

    /// The vectors of an earlier `query`.
    pub(super) fn find_vectors(&self) -> Result<Option<StoredVectors>, JobError> {
        let Some(key) = self.plan.query_key() else { return Ok(None) };
        let Some(artifact) = self.store.find(QUERIES, &key)? else { return Ok(None) };
        let names = self.plan.model.layers().iter().map(|layer| layer.name.clone()).collect();
        let rows = artifact.f64(NORMS)?.len();
        Ok(Some(StoredVectors { artifact, names, rows }))
    }
}

const VALUES: &str = "ascribe.measurements";
const NORMS: &str = "ascribe.quadratic_forms";

/// Query vectors in a memory map.
#[derive(Debug)]
pub(super) struct StoredVectors {
    artifact: Artifact,
    names: Vec<String>,
    rows: usize,
}

impl StoredVectors {
    /// Each query's measurement.
    pub(super) fn values(&self) -> Result<&[f64], JobError> {
        Ok(self.artifact.f64(VALUES)?)
    }

    /// `<∇f_q, (F + damping)⁻¹ ∇f_q>` for each query; NaN if it was not asked for.
    pub(super) fn norms(&self) -> Result<&[f64], JobError> {
        Ok(self.artifact.f64(NORMS)?)
    }
}

impl<T: Number> VectorSource<T> for StoredVectors {
    fn vectors(&self, _: usize, layer: usize) -> Result<&[T], Error> {
        Ok(self.artifact.values(&self.names[layer])?)
    }

    fn queries(&self) -> usize {
        self.rows
    }
}

struct Writing<'a> {
    writer: &'a TensorWriter,
    layers: &'a [LayerSpec],
}

impl<T: Number> VectorSink<T> for Writing<'_> {
    fn put(&mut self, _: usize, layer: usize, queries: Range<usize>, vectors: &[T]) -> Result<(), Error> {
        let layer = &self.layers[layer];
        let offset = (queries.start * layer.parameters()) as u64;
        Ok(self.writer.write_values_at(&layer.name, offset, vectors)?)
    }
}

/// Batches of at most so many examples: every one of them has a whole gradient in memory.
struct Few<'a> {
    batches: InBatches<'a>,
    at_most: usize,
}

impl crate::attribution::Examples<crate::data::Batch> for Few<'_> {
    fn len(&self) -> usize {
        self.batches.len()
    }

    fn positions(&self, example: usize) -> usize {
        self.batches.positions(example)
    }

    fn batch_end(&self, start: usize, end: usize) -> usize {
        self.batches.batch_end(start, end.min(start + self.at_most))
    }

    fn batch(&self, range: Range<usize>) -> Result<crate::data::Batch, Error> {
        self.batches.batch(range)
    }
}
