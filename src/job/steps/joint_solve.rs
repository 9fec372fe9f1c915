//! The queries' vectors as solutions of joint systems of all tracked layers, for blocks of queries and all dampings
//! together: by products with the Gauss-Newton matrix, in the span of what the approximate curvature gives, or by
//! gradients of sampled examples.

use std::ops::Range;

use crate::attribution::source::LegCurvature;
use crate::attribution::{
    Aggregate, Blocks, Error, LegVectors, MatrixFree, MemoryVectors, Pass, Refinement, Subspace, SubspaceSystem, Sweep,
    VectorForm, VectorSink, VectorSource, Walk, prepare_queries, refine_queries, solve_in_subspace,
};
use crate::curvature::random::stream;
use crate::curvature::{Damping, Directions, Factors, LayerId, LayerSpec, Measurement, Network, Norms, Tap, TapSink};
use crate::data;
use crate::job::brief::Brief;
use crate::job::brief::answers::{Method, Variant, VectorSet};
use crate::job::brief::artifacts::{CAPTURED, COEFFICIENTS, NORMS, RESIDUALS, VALUES};
use crate::job::brief::data::SmallBatches;
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::option_text::option_text;
use crate::job::request::{SPANNING, Solve, SolveLayers};
use crate::job::steps::context::Run;
use crate::job::steps::query_vectors::{Writing, queries_at_once};
use crate::job::training::Sample;

impl Run<'_> {
    /// Refuses, before any work, a network whose ops or head have no products with the Gauss-Newton matrix.
    pub(super) fn check_products(&self) -> Result<(), JobError> {
        let plan = self.plan;
        if plan.job.method.solve != Solve::GaussNewton || plan.queries.is_none() {
            return Ok(());
        }
        let stage = plan.training.last_stage();
        let network = plan.training.networks.get(plan.training.last_network())?;
        let shortest = (0..stage.train.len()).min_by_key(|&m| stage.train.positions(m)).unwrap_or(0);
        let options = plan.training.networks.options();
        let zeros = |layer: &LayerSpec| {
            candle_core::Tensor::zeros((1, layer.outputs, layer.columns()), options.dtype, &candle_core::Device::Cpu)
        };
        let layers = plan.training.layers();
        let zeros = layers.iter().map(zeros).collect::<Result<Vec<_>, _>>().map_err(Error::from)?;
        let directions = Directions::new(layers, zeros).map_err(Error::from)?;
        let batch = data::batch(&stage.train, shortest..shortest + 1);
        network.gauss_newton(&batch, &directions, &mut Nothing).map_err(|error| JobError::Options {
            problem: option_text!(
                "<solve = gauss-newton> cannot multiply with this model's Gauss-Newton matrix: {}",
                error
            ),
            hint: Some("leave <solve> out".into()),
        })
    }

    /// Vectors of these sets at one network, every damping of the job from one space for each block of queries.
    pub(super) fn solve_jointly<T: Number>(
        &self,
        sets: &[VectorSet],
        curvatures: &[LegCurvature<T>],
    ) -> Result<(), JobError> {
        let plan = self.plan;
        let Some(queries) = &plan.queries else { return Err(JobError::NoQueries) };
        let (layers, method) = (plan.training.layers(), &plan.job.method);
        let rows = plan.query_rows();
        let fit = match plan.answers[sets[0].answer].method {
            Method::Influence { fit, .. } => fit,
            _ => plan.averaged_fit(sets[0].network, Sample::Whole),
        };
        let mut systems = vec![];
        for set in sets {
            let half = match plan.answers[set.answer].variant {
                Some(Variant::Draws(half)) => Some(half),
                _ => None,
            };
            let damping = damping_of(plan, *set).ok_or(JobError::NoQueries)?;
            systems.push(SubspaceSystem { damping, half });
        }
        // dampings whose vectors an earlier start has finished shape a space of products all the same
        let dampings: Vec<Damping> = match method.solve {
            Solve::Subspace | Solve::MFac => systems.iter().map(|system| system.damping).collect(),
            _ => method.damping.0.iter().map(|damping| damping.value()).collect(),
        };
        let mut writers = Vec::with_capacity(sets.len());
        for set in sets {
            writers.push(self.writer::<T>(*set, rows, queries.len())?);
        }
        let of_set = |damping: &Damping| sets.iter().position(|set| damping_of(plan, *set) == Some(*damping));
        let legs: Vec<Option<usize>> = match method.solve {
            Solve::Subspace | Solve::MFac => (0..sets.len()).map(Some).collect(),
            _ => dampings.iter().map(of_set).collect(),
        };
        let sampled = match method.solve {
            Solve::MFac => {
                Some(self.sampled_gradients(sets[0].network, &plan.training.fits[fit], &curvatures[fit].factors)?)
            }
            _ => None,
        };
        let named = |error: Error| at_checkpoint(&plan.training.networks.parameters()[sets[0].network].name, error);
        let matrix_free = sampled.as_ref().map(|gradients| MatrixFree {
            layers,
            factors: &curvatures[fit].factors,
            gradients: gradients as &dyn VectorSource<T>,
            share: plan.sample_share(),
            observer: self.observer(),
        });
        let matrix_free = matrix_free.map(|of| of.systems(&dampings)).transpose().map_err(named)?;
        let network = self.network(sets[0].network)?;
        let stage = plan.training.last_stage();
        let train = plan.in_batches(stage.solve_data());
        let products = self.sweep(&*network, &train, 0..stage.solve_data().len(), Pass::Products);
        let form = plan.vector_form();
        let norms = vec![vec![Norms::default(); rows * layers.len()]; writers.len()];
        let places = writers.iter().map(|writer| (writer, 0)).collect();
        let mut writing = Writing { legs: places, layers, form, rows, norms };
        let refinement = Refinement {
            factors: &curvatures[fit].factors,
            dampings: &dampings,
            blocks: match method.solve_layers {
                SolveLayers::Together => Blocks::Whole,
                SolveLayers::Each => Blocks::Layers,
            },
            products: method.products(),
            tangents: plan.memory.solve_tangents,
            widest: plan.training.networks.footprint().widest(layers) as usize,
        };
        let objectives = plan.form_label_mode().objectives(stream::FORM);
        let spanning = SPANNING.map(Damping::MeanFraction);
        let subspace = Subspace {
            factors: &curvatures[fit].factors,
            spanning: &spanning,
            systems: &systems,
            objectives: &objectives,
        };
        let mut values = vec![];
        let mut residuals = vec![vec![]; dampings.len()];
        let mut coefficients = vec![vec![]; dampings.len()];
        for start in (0..rows).step_by(plan.solve_block()) {
            let block = start..rows.min(start + plan.solve_block());
            let (gradients, measured) = self.gradients_of_block::<T>(sets[0].network, block.clone())?;
            values.extend(measured);
            let mut sink = Moved { sink: &mut writing, legs: &legs, from: 0, to: start, form };
            let block = 0..block.len();
            let found = match (&matrix_free, method.solve) {
                (Some(systems), _) => systems.solve(&gradients, block, &mut sink).map(|residuals| (residuals, vec![])),
                (None, Solve::Subspace) => solve_in_subspace(&products, &subspace, &gradients, block, &mut sink)
                    .map(|solved| (solved.disagreements, solved.coefficients)),
                (None, Solve::Auto | Solve::Ekfac | Solve::GaussNewton | Solve::MFac) => {
                    refine_queries(&products, &refinement, &gradients, block, &mut sink)
                        .map(|refined| (refined.residuals, vec![]))
                }
            };
            let (found, of_block) = found.map_err(named)?;
            residuals.iter_mut().zip(found).for_each(|(all, found)| all.extend(found));
            coefficients.iter_mut().zip(of_block).for_each(|(all, found): (&mut Vec<f64>, _)| all.extend(found));
        }
        let norms = std::mem::take(&mut writing.norms);
        drop(writing);
        for (k, (writer, norms)) in writers.into_iter().zip(norms).enumerate() {
            if form != VectorForm::Full {
                let pairs: Vec<f64> = norms.iter().flat_map(|norms| [norms.kept, norms.whole]).collect();
                writer.write_values_at(CAPTURED, 0, &pairs)?;
            }
            let leg = legs.iter().position(|leg| *leg == Some(k)).ok_or(JobError::NoQueries)?;
            writer.write_values_at(RESIDUALS, 0, &residuals[leg])?;
            if method.solve == Solve::Subspace {
                writer.write_values_at(COEFFICIENTS, 0, &coefficients[leg])?;
            }
            writer.write_values_at(VALUES, 0, &values)?;
            writer.write_values_at(NORMS, 0, &vec![f64::NAN; rows])?;
            writer.finish()?;
        }
        drop(matrix_free);
        drop(sampled);
        self.forget_sampled_gradients()
    }

    /// The gradients of a block of the queries' costs at a network, and the values of these queries' measurements.
    pub(super) fn gradients_of_block<T: Number>(
        &self,
        network: usize,
        block: Range<usize>,
    ) -> Result<(MemoryVectors<T>, Vec<f64>), JobError> {
        let plan = self.plan;
        let Some(queries) = &plan.queries else { return Err(JobError::NoQueries) };
        let (layers, aggregate) = (plan.training.layers(), plan.aggregate());
        let network = self.network(network)?;
        let at_most = queries_at_once(layers, size_of::<T>());
        let examples = SmallBatches { batches: plan.in_batches(queries), at_most };
        // a sum of queries is one row, made of all of them
        let range = if aggregate == Aggregate::Each { block.clone() } else { 0..queries.len() };
        let sweep =
            Sweep { network: &*network, examples: &examples, range, pass: Pass::Queries, observer: self.observer() };
        let identity = Factors::identity(layers.len());
        let walk = Walk::gradients(&identity);
        let (measurement, reduction) = (Measurement::from(plan.measure()), plan.job.method.reduction.into());
        let mut gradients = MemoryVectors::<T>::new(layers, 1, block.len());
        let mut shifted =
            Moved { sink: &mut gradients, legs: &[Some(0)], from: block.start, to: 0, form: VectorForm::Full };
        let values = prepare_queries::<_, T>(&sweep, measurement, reduction, aggregate, &[&walk], &mut shifted)?;
        Ok((gradients, values))
    }

    /// For each row of an answer how well its joint system was solved, at the checkpoint where that is worst; none if
    /// its layers are solved one by one.
    pub(super) fn solved(&self, answer: usize) -> Result<Option<Vec<f64>>, JobError> {
        if !self.plan.solves_jointly(answer) {
            return Ok(None);
        }
        let mut largest: Vec<f64> = vec![];
        for set in self.plan.vector_sets(&[answer]) {
            let vectors = self.find_vectors(set)?.ok_or(JobError::NoQueries)?;
            largest.resize(vectors.rows(), 0.0);
            largest.iter_mut().zip(vectors.solved()?).for_each(|(all, own)| *all = all.max(*own));
        }
        Ok(Some(largest))
    }
}

/// What is added to the systems of a set.
fn damping_of(brief: &Brief, set: VectorSet) -> Option<Damping> {
    match brief.answers[set.answer].method {
        Method::Influence { damping, .. } | Method::InfluenceMean { damping, .. } => Some(damping),
        _ => None,
    }
}

/// The error with the name of the checkpoint whose joint systems it is about.
pub(super) fn at_checkpoint(name: &str, error: Error) -> Error {
    match error {
        Error::Refinement(problem) => Error::Refinement(format!("checkpoint `{name}`: {problem}")),
        other => other,
    }
}

/// Leaves every tap where it is.
struct Nothing;

impl TapSink for Nothing {
    fn tap(&mut self, _: Tap<'_>) -> Result<(), crate::curvature::Error> {
        Ok(())
    }
}

/// Vectors under other numbers: those of the block `from` become those of the block `to`, and legs go where they are
/// wanted or nowhere.
pub(super) struct Moved<'a, T> {
    pub(super) sink: &'a mut dyn VectorSink<T>,
    pub(super) legs: &'a [Option<usize>],
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) form: VectorForm,
}

impl<T: Number> VectorSink<T> for Moved<'_, T> {
    fn form(&self) -> VectorForm {
        self.form
    }

    fn put(&mut self, leg: usize, layer: LayerId, queries: Range<usize>, found: &LegVectors<T>) -> Result<(), Error> {
        let Some(leg) = self.legs[leg] else { return Ok(()) };
        let moved = |query: usize| query - self.from + self.to;
        self.sink.put(leg, layer, moved(queries.start)..moved(queries.end), found)
    }
}
