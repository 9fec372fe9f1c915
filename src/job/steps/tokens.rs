//! Which tokens the scores of the ranked training examples, or of all, come from: further passes over these examples,
//! written to `tokens.safetensors`.

use std::collections::BTreeMap;

use crate::attribution::{Error, Event, Examples, Pass, PlaceScores, QueryRows, score_by_place};
use crate::data::{Dataset, Kind, TokenDataset};
use crate::job::brief::answers::ScorePass;
use crate::job::brief::options::no_tokens;
use crate::job::error::JobError;
use crate::job::folder::present;
use crate::job::folder::tokens::{AllShares, Shares, write_all_tokens, write_tokens};
use crate::job::number::Number;
use crate::job::request::TokensRequest;
use crate::job::steps::context::Run;
use crate::job::steps::queries::rows_of;
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
        if request == TokensRequest::All {
            return write_all_tokens(plan, plan.summary(), &key, &self.divide_all::<T>()?);
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

    /// Adds what a pass contributes to the shares of the listed examples' tokens.
    fn divide_over_places<T: Number>(
        &self,
        pass: &ScorePass,
        shares: &mut [Shares],
        wanted: &Wanted,
    ) -> Result<(), JobError> {
        let stage = pass.site.stage;
        let listed: Vec<(usize, &Vec<usize>)> =
            wanted.range((stage, 0)..(stage + 1, 0)).map(|((_, m), own)| (*m, own)).collect();
        let examples: Vec<usize> = listed.iter().map(|(m, _)| *m).collect();
        let of: Vec<Vec<usize>> =
            listed.iter().map(|(_, own)| own.iter().map(|&k| shares[k].query).collect()).collect();
        self.each_divided::<T>(
            pass,
            &examples,
            |place| &of[place],
            |place, found| {
                let own = listed[place].1;
                for (q, &k) in own.iter().enumerate() {
                    let of_query = found.places.iter().skip(q).step_by(own.len());
                    shares[k].places.iter_mut().zip(of_query).for_each(|(sum, share)| *sum += share);
                    shares[k].rest += found.rest[q];
                }
            },
        )
    }

    /// The shares of the tokens of all examples for all queries.
    fn divide_all<T: Number>(&self) -> Result<AllShares, JobError> {
        let plan = self.plan;
        let (stages, columns, rows) = (&plan.training.stages, &plan.training.columns, plan.query_rows());
        let mut offsets = vec![0i64];
        for column in 0..columns.len() {
            let (stage, m) = columns.example(column);
            offsets.push(offsets[column] + tokens_of(&stages[stage].train)?.tokens(m).len() as i64);
        }
        let mut shares = vec![0.0f32; offsets[columns.len()] as usize * rows];
        let mut rest = vec![0.0f32; columns.len() * rows];
        let queries: Vec<usize> = (0..rows).collect();
        for pass in plan.score_passes(&[0]) {
            let examples: Vec<usize> = (0..stages[pass.site.stage].train.len()).collect();
            self.each_divided::<T>(
                &pass,
                &examples,
                |_| &queries,
                |m, found| {
                    let column = columns.column(pass.site.stage, m);
                    let add = |(sum, share): (&mut f32, &f64)| *sum = (f64::from(*sum) + share) as f32;
                    shares[offsets[column] as usize * rows..].iter_mut().zip(&found.places).for_each(add);
                    rest[column * rows..].iter_mut().zip(&found.rest).for_each(add);
                },
            )?;
        }
        Ok(AllShares { rows, offsets, shares, rest })
    }

    /// Divides one pass's scores of some examples of its stage, one after the other: each for the queries that are its
    /// own, by its place in the list.
    fn each_divided<'q, T: Number>(
        &self,
        pass: &ScorePass,
        wanted: &[usize],
        queries: impl Fn(usize) -> &'q Vec<usize>,
        mut take: impl FnMut(usize, PlaceScores),
    ) -> Result<(), JobError> {
        let plan = self.plan;
        let sources = self.vectors_of(pass)?;
        let rows: Vec<QueryRows<'_, T>> = rows_of(pass, &sources);
        let train = &plan.training.stages[pass.site.stage].train;
        let tokens = tokens_of(train)?;
        let examples = plan.in_batches(train);
        let network = self.network(pass.site.network)?;
        self.observer().event(Event::Started { pass: Pass::Tokens, done: 0, total: wanted.len() as u64 });
        for (place, &m) in wanted.iter().enumerate() {
            if self.observer().interrupted() {
                return Err(Error::Interrupted.into());
            }
            let (batch, count) = (examples.batch(m..m + 1)?, tokens.tokens(m).len());
            let mut found = score_by_place(&*network, &batch, &rows, queries(place), count, tokens.own_places(m))
                .map_err(|error| of_example(error, m))?;
            let counts = plan.training.counts(pass.site.stage, m);
            found.places.iter_mut().chain(&mut found.rest).for_each(|score| *score *= counts);
            take(place, found);
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
