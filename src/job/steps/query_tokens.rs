//! Which target tokens of a query the scores of its ranked training examples come from.
//!
//! A query's measurement is a sum over its target tokens, and so is its gradient. Whatever makes a vector of it (the
//! inverse of a layer's curvature, a walk, a solution in a subspace once its coefficients are known) is linear, so that
//! the vectors of the tokens add up to the query's, and their products with an example's gradient to the score. Each
//! target is a query of its own here, one block of them at a time.

use crate::attribution::source::LegCurvature;
use crate::attribution::{
    Aggregate, Error, Event, Examples, MemoryVectors, Pass, QueryRows, SolvedMap, Sweep, VectorSink, Walk,
    prepare_queries, score_by_place, score_one,
};
use crate::curvature::{Damping, Factors, Measurement, Reduction};
use crate::data::Dataset;
use crate::job::brief::answers::{Method, ScorePass, VectorSet};
use crate::job::brief::data::SmallBatches;
use crate::job::error::JobError;
use crate::job::folder::tokens::Shares;
use crate::job::number::Number;
use crate::job::option_text::option_text;
use crate::job::request::{ReductionRequest, SPANNING};
use crate::job::steps::context::Run;
use crate::job::steps::query_vectors::queries_at_once;
use crate::job::steps::tokens::{Wanted, of_example, tokens_of};
use crate::job::training::{Sample, StageExample};

/// A target token of a query.
#[derive(Debug, Clone, Copy)]
struct Part {
    query: usize,
    /// Which of the query's targets.
    target: usize,
    /// Its place among the query's tokens.
    place: usize,
    /// What its term counts in the measurement: 1, or of a mean one over the number of terms.
    weight: f64,
}

/// All queries' targets in their order.
fn parts_of(queries: &Dataset, reduction: ReductionRequest) -> Result<Vec<Part>, JobError> {
    let tokens = tokens_of(queries)?;
    let mut parts = vec![];
    for query in 0..queries.len() {
        let targets = tokens.target_tokens(query);
        let rejected = targets.iter().filter(|token| token.is_rejected).count();
        for (target, token) in targets.iter().enumerate() {
            // of a contrast each completion has its own mean
            let terms = if token.is_rejected { rejected } else { targets.len() - rejected };
            let weight = match reduction {
                ReductionRequest::Sum => 1.0,
                ReductionRequest::Mean => 1.0 / terms as f64,
            };
            parts.push(Part { query, target, place: token.place, weight });
        }
    }
    Ok(parts)
}

impl Run<'_> {
    /// The shares of the queries' targets in the scores of all listed pairs, with those of the examples' tokens where
    /// there is room for them; returns the places of each query's targets.
    pub(super) fn divide_over_targets<T: Number>(
        &self,
        shares: &mut [Shares],
        wanted: &Wanted,
    ) -> Result<Vec<Vec<usize>>, JobError> {
        let plan = self.plan;
        let queries = plan.queries.as_ref().ok_or(JobError::NoQueries)?;
        let parts = parts_of(queries, plan.job.method.reduction)?;
        let mut places: Vec<Vec<usize>> = vec![vec![]; queries.len()];
        parts.iter().for_each(|part| places[part.query].push(part.place));
        for of in &mut *shares {
            let targets = places[of.query].len();
            of.targets = vec![0.0; targets];
            of.pairs = vec![0.0; targets * of.places.len()];
        }
        let curvatures = self.fitted::<T>()?;
        let passes = plan.score_passes(&[0]);
        for set in plan.vector_sets(&[0]) {
            for block in parts.chunks(plan.memory.token_block.max(1)) {
                let vectors = self.vectors_of_parts(set, queries, block, &curvatures)?;
                for pass in &passes {
                    let of_set = pass.contributions.iter().filter(|of| of.set == set);
                    let rows: Vec<QueryRows<'_, T>> =
                        of_set.map(|of| QueryRows { vectors: &vectors, leg: of.leg, weight: of.weight }).collect();
                    if !rows.is_empty() {
                        self.multiply_parts(pass, &rows, block, shares, wanted)?;
                    }
                }
            }
        }
        for of in shares {
            let tokens = of.places.len();
            for (t, share) in of.places.iter_mut().enumerate() {
                *share = of.pairs.iter().skip(t).step_by(tokens).sum();
            }
        }
        Ok(places)
    }

    /// The vectors of some targets, numbered through the block.
    fn vectors_of_parts<T: Number>(
        &self,
        set: VectorSet,
        queries: &Dataset,
        block: &[Part],
        curvatures: &[LegCurvature<T>],
    ) -> Result<MemoryVectors<T>, JobError> {
        let plan = self.plan;
        let layers = plan.training.layers();
        let places: Vec<(usize, usize)> = block.iter().map(|part| (part.query, part.place)).collect();
        let data = queries.with_one_target(&places);
        let at_most = queries_at_once(layers, size_of::<T>());
        let examples = SmallBatches { batches: plan.in_batches(&data), at_most };
        let network = self.network(set.network)?;
        let identity = Factors::identity(layers.len());
        let measurement = Measurement::from(plan.measure());
        let mut found = MemoryVectors::<T>::new(layers, plan.legs(set.answer), block.len());
        let prepare = |range: std::ops::Range<usize>, walk: &Walk<'_, T>, sink: &mut dyn VectorSink<T>| {
            let sweep = Sweep {
                network: &*network,
                examples: &examples,
                range,
                pass: Pass::QueryTokens,
                observer: self.observer(),
            };
            let done = prepare_queries(&sweep, measurement, Reduction::Sum, Aggregate::Each, &[walk], sink);
            done.map_err(|error| match error {
                Error::NonFiniteQuery { query, layer } => Error::NonFiniteQuery { query: block[query].query, layer },
                other => other,
            })
        };
        if !plan.solves_jointly(set.answer) {
            let walk = plan.walk(set, curvatures, &identity)?;
            prepare(0..block.len(), &walk, &mut found)?;
            return Ok(found);
        }
        let solved = self.find_vectors(set)?.ok_or_else(|| JobError::MissingStep {
            folder: self.store.folder().to_owned(),
            what: "the queries' vectors",
            step: "query",
        })?;
        let fit = match plan.answers[set.answer].method {
            Method::Influence { fit, .. } => fit,
            _ => plan.averaged_fit(set.network, Sample::Whole),
        };
        let (gradients, spanning) = (Walk::gradients(&identity), SPANNING.map(Damping::MeanFraction));
        let mut start = 0;
        for of_query in block.chunk_by(|a, b| a.query == b.query) {
            let coefficients = solved.coefficients(of_query[0].query)?.ok_or_else(|| JobError::Options {
                problem: option_text!(
                    "{}: made by a version that did not keep what <tokens = {}> needs of queries that are solved for in \
                     subspaces",
                    self.store.folder().display(),
                    plan.job.output.tokens.name()
                ),
                hint: Some("ask in a new run folder, or with <solve = ekfac>".into()),
            })?;
            let factors = &curvatures[fit].factors;
            let mut map = SolvedMap::new(factors, layers, &spanning, coefficients, &mut found)?;
            prepare(start..start + of_query.len(), &gradients, &mut map)?;
            start += of_query.len();
        }
        Ok(found)
    }

    /// Adds the products of a block of targets with the gradients of the examples that are listed for their queries.
    fn multiply_parts<T: Number>(
        &self,
        pass: &ScorePass,
        rows: &[QueryRows<'_, T>],
        block: &[Part],
        shares: &mut [Shares],
        wanted: &Wanted,
    ) -> Result<(), JobError> {
        let plan = self.plan;
        let stage = pass.site.stage;
        let train = &plan.training.stages[stage].train;
        let tokens = tokens_of(train)?;
        let examples = plan.in_batches(train);
        let of_query = |query: usize| {
            let start = block.partition_point(|part| part.query < query);
            start..block.partition_point(|part| part.query <= query)
        };
        // for each example the shares and the numbers of the block's targets that they are made of
        let mut listed: Vec<(usize, Vec<(usize, usize)>)> = vec![];
        for ((_, m), own) in wanted.range((stage, 0)..(stage + 1, 0)) {
            let pairs: Vec<(usize, usize)> =
                own.iter().flat_map(|&k| of_query(shares[k].query).map(move |part| (k, part))).collect();
            if !pairs.is_empty() {
                listed.push((*m, pairs));
            }
        }
        let network = self.network(pass.site.network)?;
        let event = |event: Event| self.observer().event(event);
        event(Event::Started { pass: Pass::Tokens, done: 0, total: listed.len() as u64 });
        for (m, pairs) in listed {
            if self.observer().interrupted() {
                return Err(Error::Interrupted.into());
            }
            let (batch, count) = (examples.batch(m..m + 1)?, tokens.tokens(m).len());
            let counts = plan.training.counts(StageExample { stage, example: m });
            let parts: Vec<usize> = pairs.iter().map(|(_, part)| *part).collect();
            if !plan.job.output.tokens.divides_examples() {
                let found = score_one(&*network, &batch, rows, &parts).map_err(|error| of_example(error, m))?;
                for (&(k, part), score) in pairs.iter().zip(found) {
                    shares[k].targets[block[part].target] += counts * block[part].weight * score;
                }
            } else {
                let found = score_by_place(&*network, &batch, rows, &parts, count, tokens.own_places(m))
                    .map_err(|error| of_example(error, m))?;
                for (place, &(k, part)) in pairs.iter().enumerate() {
                    let Part { target, weight, .. } = block[part];
                    let weight = counts * weight;
                    let of = &mut shares[k];
                    let own = found.places.iter().skip(place).step_by(pairs.len());
                    for (sum, share) in of.pairs[target * count..(target + 1) * count].iter_mut().zip(own) {
                        *sum += weight * share;
                        of.targets[target] += weight * share;
                    }
                    of.targets[target] += weight * found.rest[place];
                    of.rest += weight * found.rest[place];
                }
            }
            event(Event::Advanced { pass: Pass::Tokens, units: 1 });
        }
        event(Event::Finished { pass: Pass::Tokens });
        Ok(())
    }
}
