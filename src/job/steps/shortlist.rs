//! Scores in variants of each query's strongest training examples and of a random sample: a further pass over these
//! examples alone, written to `intervals.safetensors`.

use std::collections::{BTreeMap, BTreeSet};

use crate::attribution::{Error, Event, PairRows, Pass, score_pairs};
use crate::curvature::Factors;
use crate::job::brief::answers::ScorePass;
use crate::job::error::JobError;
use crate::job::folder::intervals::{OfQuery, has_intervals, write_intervals};
use crate::job::number::Number;
use crate::job::steps::context::Run;
use crate::job::steps::query_vectors::rows_of;
use crate::job::steps::variants::strongest_of;
use crate::job::training::{Fit, StageExample};

/// For each scored column the queries whose variants it has a score in, ascending.
type Wanted = BTreeMap<usize, BTreeSet<usize>>;

impl Run<'_> {
    /// The scores of the shortlisted variants, computed unless they are there.
    pub(in crate::job) fn shortlist<T: Number>(&self) -> Result<(), JobError> {
        let plan = self.plan;
        let Some(key) = plan.shortlist_key() else { return Ok(()) };
        if has_intervals(plan, &key)? {
            self.observer().event(Event::Reused { pass: Pass::Intervals });
            return Ok(());
        }
        let (rows, control) = (plan.query_rows(), plan.shortlist_control());
        let mut wanted = Wanted::new();
        for &column in &control {
            wanted.insert(column, (0..rows).collect());
        }
        for ranking in strongest_of(plan, plan.shortlist_depth())? {
            for &(column, _) in ranking.proponents.iter().chain(&ranking.opponents) {
                wanted.entry(column).or_default().insert(ranking.query);
            }
        }
        let variants = plan.shortlisted();
        // [query][column][variant]
        let mut sums: Vec<BTreeMap<usize, Vec<f64>>> = vec![BTreeMap::new(); rows];
        for (column, queries) in &wanted {
            for &query in queries {
                sums[query].insert(*column, vec![0.0; variants.len()]);
            }
        }
        for pass in plan.score_passes(&variants) {
            self.score_shortlisted::<T>(&pass, &variants, &wanted, &mut sums)?;
        }
        let rounded = |of: BTreeMap<usize, Vec<f64>>| -> OfQuery {
            of.into_iter().map(|(column, sums)| (column, sums.into_iter().map(|sum| sum as f32).collect())).collect()
        };
        let scores: Vec<OfQuery> = sums.into_iter().map(rounded).collect();
        write_intervals(plan, plan.summary(), &key, &scores, &control)
    }

    /// Adds what a pass contributes to the wanted scores.
    fn score_shortlisted<T: Number>(
        &self,
        pass: &ScorePass,
        variants: &[usize],
        wanted: &Wanted,
        sums: &mut [BTreeMap<usize, Vec<f64>>],
    ) -> Result<(), JobError> {
        let plan = self.plan;
        let stage = &plan.training.stages[pass.site.stage].train;
        let at = |m: usize| StageExample { stage: pass.site.stage, example: m };
        let column = |m: usize| plan.training.columns.column(at(m));
        let places: Vec<usize> = (0..stage.len()).filter(|&m| wanted.contains_key(&column(m))).collect();
        let queries: Vec<Vec<usize>> = places.iter().map(|&m| wanted[&column(m)].iter().copied().collect()).collect();
        let sources = self.vectors_of(pass)?;
        // curvatures in whose eigenbasis vectors are, each once
        let mut bases: Vec<(*const Fit, Factors<T>)> = vec![];
        let fits: Vec<Option<&Fit>> =
            pass.contributions.iter().map(|of| plan.fit_of(of.set).filter(|_| plan.keeps_in_basis(of.set))).collect();
        for fit in fits.iter().flatten() {
            if !bases.iter().any(|(of, _)| std::ptr::eq(*of, *fit)) {
                bases.push((*fit, self.factors::<T>(fit)?));
            }
        }
        let basis_of = |fit: &Option<&Fit>| {
            let fit = (*fit)?;
            bases.iter().find(|(of, _)| std::ptr::eq(*of, fit)).map(|(_, factors)| factors)
        };
        let rows: Vec<PairRows<'_, T>> = rows_of(pass, &sources)
            .into_iter()
            .zip(&fits)
            .map(|(rows, fit)| PairRows { rows, basis: basis_of(fit) })
            .collect();
        let network = self.network(pass.site.network)?;
        let listed = stage.at(&places);
        let examples = plan.in_batches(&listed);
        let sweep = self.sweep(&*network, &examples, 0..listed.len(), Pass::Intervals);
        let found = score_pairs::<_, T>(&sweep, &rows, &queries).map_err(|error| match error {
            Error::NonFiniteScore(range) => Error::NonFiniteScore(places[range.start]..places[range.end - 1] + 1),
            other => other,
        })?;
        for ((&m, queries), scores) in places.iter().zip(&queries).zip(found) {
            let counts = plan.training.counts(at(m));
            for (contribution, scores) in pass.contributions.iter().zip(scores.chunks_exact(queries.len().max(1))) {
                let Some(variant) = variants.iter().position(|&answer| answer == contribution.set.answer) else {
                    continue;
                };
                for (&query, score) in queries.iter().zip(scores) {
                    if let Some(sums) = sums[query].get_mut(&column(m)) {
                        sums[variant] += counts * score;
                    }
                }
            }
        }
        Ok(())
    }
}
