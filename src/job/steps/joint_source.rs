//! The queries' vectors of Source, carried through the segments with the Gauss-Newton matrix of all tracked layers jointly,
//! for blocks of queries.

use crate::attribution::source::LegCurvature;
use crate::attribution::{Carrying, Error, Pass, VectorForm, Visit, carry_queries};
use crate::curvature::{Factors, Norms};
use crate::job::brief::answers::VectorSet;
use crate::job::brief::artifacts::{CAPTURED, NORMS, RESIDUALS, VALUES};
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::steps::context::Run;
use crate::job::steps::joint_solve::{Moved, at_checkpoint};
use crate::job::steps::query_vectors::Writing;
use crate::job::training::Place;
use crate::job::training::networks::TrackedNetwork;

impl Run<'_> {
    /// The vectors of one answer of Source.
    pub(super) fn carry_jointly<T: Number>(
        &self,
        set: VectorSet,
        curvatures: &[LegCurvature<T>],
    ) -> Result<(), JobError> {
        let plan = self.plan;
        let Some(queries) = &plan.queries else { return Err(JobError::NoQueries) };
        let (training, layers, rows) = (&plan.training, plan.training.layers(), plan.query_rows());
        let identity = Factors::identity(layers.len());
        let walk = plan.walk(set, curvatures, &identity)?;
        let (products, tangents) = (plan.job.method.products(), plan.memory.solve_tangents);
        let widest = plan.training.networks.footprint().widest(layers) as usize;
        let carrying = Carrying { walk: &walk, layers, products, tangents, widest };
        let checkpoints = |leg: usize, visit: &mut Visit<'_, TrackedNetwork, JobError>| {
            let fit = &training.segment_fits()[leg];
            let data = training.stages[fit.stage].solve_data();
            let train = plan.in_batches(data);
            for &Place { network, weight } in &fit.places {
                let name = &training.networks.parameters()[network].name;
                let network = self.network(network)?;
                let sweep = self.sweep(&*network, &train, 0..data.len(), Pass::Products);
                visit(weight, &sweep).map_err(|error| match error {
                    JobError::Pass(error) => JobError::Pass(at_checkpoint(name, error)),
                    other => other,
                })?;
            }
            Ok(())
        };
        let writer = self.writer::<T>(set, rows, queries.len())?;
        let (form, legs) = (plan.vector_form(), walk.legs.len());
        let norms = vec![vec![Norms::default(); rows * layers.len()]; legs];
        let places = (0..legs).map(|leg| (&writer, leg)).collect();
        let mut writing = Writing { legs: places, layers, form, rows, norms };
        let to_itself: Vec<Option<usize>> = (0..legs).map(Some).collect();
        let (mut values, mut residuals) = (vec![], Vec::with_capacity(rows));
        for start in (0..rows).step_by(plan.solve_block()) {
            let block = start..rows.min(start + plan.solve_block());
            let (gradients, measured) = self.gradients_of_block::<T>(set.network, block.clone())?;
            values.extend(measured);
            let block = 0..block.len();
            let mut sink = Moved { sink: &mut writing, legs: &to_itself, from: 0, to: start, form };
            let found = carry_queries(&carrying, &checkpoints, &gradients, block.clone(), &mut sink);
            let found: Vec<Vec<f64>> = found.map_err(|error| match error {
                JobError::Pass(Error::Refinement(problem)) => {
                    JobError::Pass(Error::Refinement(format!("answer `{}`: {problem}", plan.answers[set.answer].name)))
                }
                other => other,
            })?;
            residuals.extend(block.map(|query| found.iter().map(|of_leg| of_leg[query]).fold(0.0, f64::max)));
        }
        let norms = std::mem::take(&mut writing.norms);
        drop(writing);
        if form != VectorForm::Full {
            let pairs: Vec<f64> = norms.iter().flatten().flat_map(|norms| [norms.kept, norms.whole]).collect();
            writer.write_values_at(CAPTURED, 0, &pairs)?;
        }
        writer.write_values_at(RESIDUALS, 0, &residuals)?;
        writer.write_values_at(VALUES, 0, &values)?;
        writer.write_values_at(NORMS, 0, &vec![f64::NAN; rows])?;
        writer.finish()?;
        Ok(())
    }
}
