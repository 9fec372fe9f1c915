//! Which tokens the scores of the ranked training examples come from: further passes over these examples alone, written
//! to `tokens.safetensors`.

use std::collections::BTreeMap;

use crate::attribution::{Error, Event, Examples, Pass, QueryRows, score_by_place};
use crate::data::{Dataset, Kind, TokenDataset};
use crate::job::brief::answers::ScorePass;
use crate::job::brief::options::no_tokens;
use crate::job::error::JobError;
use crate::job::folder::present;
use crate::job::folder::tokens::{Shares, write_tokens};
use crate::job::number::Number;
use crate::job::request::TokensRequest;
use crate::job::steps::context::Run;
use crate::job::steps::rank::rankings_of;

/// For each stage of training and example there, which shares are its own.
pub(super) type Wanted = BTreeMap<(usize, usize), Vec<usize>>;

impl Run<'_> {
    /// The shares of tokens of all ranked examples, computed unless they are there.
    pub(in crate::job) fn tokens<T: Number>(&self) -> Result<(), JobError> {
        let plan = self.plan;
        let request = plan.job.output.tokens;
        if request == TokensRequest::None {
            return Ok(());
        }
        let key = plan.answer_key(0).ok_or(JobError::NoQueries)?;
        if present::has_tokens(plan, &key)? {
            self.observer().event(Event::Reused { pass: Pass::Tokens });
            return Ok(());
        }
        let (mut shares, wanted) = self.listed()?;
        let target_places = match request.divides_queries() {
            true => self.divide_over_targets::<T>(&mut shares, &wanted)?,
            false => {
                for pass in plan.score_passes(&[0]) {
                    self.divide_over_places::<T>(&pass, &mut shares, &wanted)?;
                }
                vec![]
            }
        };
        write_tokens(plan, plan.summary(), &key, &shares, &target_places)
    }

    /// Shares of 0 for every listed pair, with room for the tokens of its example, and whose they are.
    fn listed(&self) -> Result<(Vec<Shares>, Wanted), JobError> {
        let plan = self.plan;
        let (stages, columns) = (&plan.training.stages, &plan.training.columns);
        let mut shares: Vec<Shares> = vec![];
        let mut of_column: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for ranking in rankings_of(plan, 0)? {
            for &(column, _) in ranking.proponents.iter().chain(&ranking.opponents) {
                let (stage, m) = columns.example(column);
                let places = match plan.job.output.tokens.divides_examples() {
                    true => vec![0.0; tokens_of(&stages[stage].train)?.tokens(m).len()],
                    false => vec![],
                };
                of_column.entry(column).or_default().push(shares.len());
                shares.push(Shares { query: ranking.query, column, places, ..Shares::default() });
            }
        }
        let mut wanted = Wanted::new();
        for (s, stage) in stages.iter().enumerate() {
            for m in 0..stage.train.len() {
                if let Some(own) = of_column.get(&columns.column(s, m)) {
                    wanted.insert((s, m), own.clone());
                }
            }
        }
        Ok((shares, wanted))
    }

    /// Adds what a pass contributes to the shares of the examples' tokens.
    fn divide_over_places<T: Number>(
        &self,
        pass: &ScorePass,
        shares: &mut [Shares],
        wanted: &Wanted,
    ) -> Result<(), JobError> {
        let plan = self.plan;
        let sources = self.vectors_of(pass)?;
        let rows: Vec<QueryRows<'_, T>> = pass
            .contributions
            .iter()
            .zip(&sources)
            .map(|(of, vectors)| QueryRows { vectors, leg: of.leg, weight: of.weight })
            .collect();
        let stage = pass.site.stage;
        let train = &plan.training.stages[stage].train;
        let tokens = tokens_of(train)?;
        let examples = plan.in_batches(train);
        let network = self.network(pass.site.network)?;
        let total = wanted.range((stage, 0)..(stage + 1, 0)).count() as u64;
        self.observer().event(Event::Started { pass: Pass::Tokens, done: 0, total });
        for ((_, m), own) in wanted.range((stage, 0)..(stage + 1, 0)) {
            if self.observer().interrupted() {
                return Err(Error::Interrupted.into());
            }
            let queries: Vec<usize> = own.iter().map(|&k| shares[k].query).collect();
            let batch = examples.batch(*m..m + 1)?;
            let count = tokens.tokens(*m).len();
            let found = score_by_place(&*network, &batch, &rows, &queries, count, tokens.own_places(*m))
                .map_err(|error| of_example(error, *m))?;
            for (q, &k) in own.iter().enumerate() {
                let of_query = found.places.iter().skip(q).step_by(queries.len());
                shares[k].places.iter_mut().zip(of_query).for_each(|(sum, share)| *sum += share);
                shares[k].rest += found.rest[q];
            }
            self.observer().event(Event::Advanced { pass: Pass::Tokens, units: 1 });
        }
        self.observer().event(Event::Finished { pass: Pass::Tokens });
        Ok(())
    }
}

/// The error of a batch of one example with the example's own number.
pub(super) fn of_example(error: Error, m: usize) -> Error {
    match error {
        Error::NonFiniteScore(_) => Error::NonFiniteScore(m..m + 1),
        other => other,
    }
}

/// The tokens of a dataset.
pub(super) fn tokens_of(data: &Dataset) -> Result<&TokenDataset, JobError> {
    match data.kind() {
        Kind::Tokens(tokens) => Ok(tokens),
        Kind::Rows(_) => Err(no_tokens()),
    }
}
