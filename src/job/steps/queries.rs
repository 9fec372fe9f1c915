//! Preparing the queries' inverse-Hessian-vector products: once for each answer, all that ask the same network in one
//! pass over the queries.

use crate::attribution::source::LegCurvature;
use crate::attribution::{Aggregate, Event, LegFn, Pass, Sweep, VectorForm, prepare_queries, quadratic_forms};
use crate::curvature::{Factors, Measurement, Norms, Objective, QuadraticForm};
use crate::job::brief::answers::{Joint, Method, VectorSet};
use crate::job::brief::artifacts::{CAPTURED, NORMS, VALUES};
use crate::job::brief::data::SmallBatches;
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::request::Normalize;
use crate::job::steps::context::Run;
use crate::job::steps::query_vectors::{Writing, queries_at_once};

impl Run<'_> {
    /// The vectors of these answers, prepared where they are not there yet: all that ask the same network in one
    /// pass over the queries.
    pub(in crate::job) fn query<T: Number>(
        &self,
        answers: &[usize],
        curvatures: &[LegCurvature<T>],
    ) -> Result<(), JobError> {
        if self.plan.queries.is_none() {
            return Err(JobError::NoQueries);
        }
        let mut missing = vec![];
        for set in self.plan.stored_vector_sets(answers) {
            if self.find_vectors(set)?.is_none() {
                missing.push(set);
            }
        }
        if missing.is_empty() {
            self.observer().event(Event::Reused { pass: Pass::Queries });
        }
        let alike = |a: &VectorSet, b: &VectorSet| {
            let of = |set: &VectorSet| (set.network, self.plan.keeps_in_basis(*set), self.plan.joint(set.answer));
            of(a) == of(b)
        };
        for sets in missing.chunk_by(alike) {
            match self.plan.joint(sets[0].answer) {
                Some(Joint::Systems) => self.solve_jointly(sets, curvatures)?,
                Some(Joint::Segments) => sets.iter().try_for_each(|set| self.carry_jointly(*set, curvatures))?,
                None => self.prepare(sets, curvatures)?,
            }
        }
        self.query_losses()?;
        self.measure_before()
    }

    fn prepare<T: Number>(&self, sets: &[VectorSet], curvatures: &[LegCurvature<T>]) -> Result<(), JobError> {
        let Some(queries) = &self.plan.queries else { return Err(JobError::NoQueries) };
        let (layers, method) = (self.plan.training.layers(), &self.plan.job.method);
        let aggregate = self.plan.aggregate();
        let rows = self.plan.query_rows();
        if method.normalize == Normalize::Cosine && aggregate != Aggregate::Each {
            return Err(JobError::Options {
                problem: "<normalize = cosine> is defined for queries one by one".into(),
                hint: Some("leave <aggregate> out".into()),
            });
        }
        let identity = Factors::identity(layers.len());
        let walks = sets.iter().map(|set| self.plan.walk(*set, curvatures, &identity));
        let walks = walks.collect::<Result<Vec<_>, _>>()?;
        let mut writers = Vec::with_capacity(sets.len());
        for set in sets {
            writers.push(self.writer::<T>(*set, rows, queries.len())?);
        }
        let network = self.network(sets[0].network)?;
        let at_most = queries_at_once(layers, size_of::<T>());
        let examples = SmallBatches { batches: self.plan.in_batches(queries), at_most };
        let range = 0..queries.len();
        let sweep =
            Sweep { network: &*network, examples: &examples, range, pass: Pass::Queries, observer: self.observer() };
        let measurement = Measurement::from(self.plan.measure());
        let mut legs = vec![];
        for (set, writer) in sets.iter().zip(&writers) {
            legs.extend((0..self.plan.legs(set.answer)).map(|leg| (writer, leg)));
        }
        let form = self.plan.form_of(sets[0]);
        let norms = vec![vec![Norms::default(); rows * layers.len()]; legs.len()];
        let mut sink = Writing { legs, layers, form, rows, norms };
        let walk_list: Vec<_> = walks.iter().collect();
        let values =
            prepare_queries::<_, T>(&sweep, measurement, method.reduction.into(), aggregate, &walk_list, &mut sink)?;
        let mut norms = std::mem::take(&mut sink.norms).into_iter();
        drop(sink);
        for (set, writer) in sets.iter().zip(writers) {
            let of_legs: Vec<Norms> = norms.by_ref().take(self.plan.legs(set.answer)).flatten().collect();
            if matches!(form, VectorForm::LowRank(_)) {
                let pairs: Vec<f64> = of_legs.iter().flat_map(|norms| [norms.kept, norms.whole]).collect();
                writer.write_values_at(CAPTURED, 0, &pairs)?;
            }
            writer.write_values_at(VALUES, 0, &values)?;
            let norms = match (method.normalize, self.plan.answers[set.answer].method) {
                (Normalize::Cosine, Method::Influence { fit, damping }) => {
                    let factors = &curvatures[fit].factors;
                    let objective = Objective::Measurement(measurement, method.reduction.into());
                    let inverse = LegFn::Inverse(damping);
                    let form = QuadraticForm::new(layers, factors, |l| inverse.for_layer(&factors.layers[l]));
                    quadratic_forms(&sweep, objective, form)?
                }
                _ => vec![f64::NAN; rows],
            };
            writer.write_values_at(NORMS, 0, &norms)?;
            writer.finish()?;
        }
        Ok(())
    }
}
