//! Which tokens the scores of the ranked training examples, or of all, come from: further passes over these examples,
//! written to `tokens.safetensors`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use crate::attribution::store::{Key, KeyBuilder, Metadata, TensorData, check_cover, gaps};
use crate::attribution::{Error, Event, Examples, Pass, PlaceScores, QueryRows, SAVE_INTERVAL, score_by_place};
use crate::data::{Dataset, Kind, TokenDataset};
use crate::job::brief::answers::ScorePass;
use crate::job::brief::options::no_tokens;
use crate::job::budget::limits::PENDING;
use crate::job::error::JobError;
use crate::job::folder::present;
use crate::job::folder::tokens::{AllShares, Shares, write_all_tokens, write_tokens};
use crate::job::number::Number;
use crate::job::request::TokensRequest;
use crate::job::steps::context::Run;
use crate::job::steps::query_vectors::rows_of;
use crate::job::steps::rank::rankings_of;
use crate::job::training::StageExample;

/// Kind of the store's parts of shares of all tokens.
const TOKEN_PARTS: &str = "tokens";

/// The key of the parts of one pass.
fn part_key(scores: &Key, pass: usize) -> Key {
    KeyBuilder::new("tokens", 1).field("scores", *scores).field("pass", pass as u64).finish()
}

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
            return self.divide_all::<T>(&key);
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
                if let Some(own) = of_column.get(&columns.column(StageExample { stage: s, example: m })) {
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
            (0, &examples),
            |place| &of[place],
            |place, found| {
                let own = listed[place].1;
                for (q, &k) in own.iter().enumerate() {
                    let of_query = found.places.iter().skip(q).step_by(own.len());
                    shares[k].places.iter_mut().zip(of_query).for_each(|(sum, share)| *sum += share);
                    shares[k].rest += found.rest[q];
                }
                Ok(())
            },
        )
    }

    /// The shares of the tokens of all examples for all queries, written where they belong. What a process that was
    /// interrupted has done is kept.
    fn divide_all<T: Number>(&self, key: &Key) -> Result<(), JobError> {
        let plan = self.plan;
        let (stages, columns, rows) = (&plan.training.stages, &plan.training.columns, plan.query_rows());
        let passes = plan.score_passes(&[0]);
        for (number, pass) in passes.iter().enumerate() {
            let n = stages[pass.site.stage].train.len();
            let done = self.store.parts(TOKEN_PARTS, &part_key(key, number))?;
            for gap in gaps(&done, 0..n as u64) {
                self.divide_gap::<T>(pass, &part_key(key, number), gap.start as usize..gap.end as usize)?;
            }
        }
        let mut offsets = vec![0i64];
        for column in 0..columns.len() {
            let (stage, m) = columns.example(column);
            offsets.push(offsets[column] + tokens_of(&stages[stage].train)?.tokens(m).len() as i64);
        }
        let mut shares = vec![0.0f32; offsets[columns.len()] as usize * rows];
        let mut rest = vec![0.0f32; columns.len() * rows];
        for (number, pass) in passes.iter().enumerate() {
            let (parts, stage) = (self.store.parts(TOKEN_PARTS, &part_key(key, number))?, pass.site.stage);
            check_cover(&parts, TOKEN_PARTS, &part_key(key, number), stages[stage].train.len() as u64)?;
            for part in parts {
                let artifact = part.open()?;
                let (of_tokens, of_rest) = (artifact.f32("shares")?, artifact.f32("rest")?);
                let mut start = 0;
                for (m, own) in part.range.clone().zip(of_rest.chunks_exact(rows)) {
                    let column = columns.column(StageExample { stage, example: m as usize });
                    let size = (offsets[column + 1] - offsets[column]) as usize * rows;
                    let add = |(sum, share): (&mut f32, &f32)| *sum += share;
                    let to = shares[offsets[column] as usize * rows..][..size].iter_mut();
                    to.zip(of_tokens.get(start..).unwrap_or_default()).for_each(add);
                    rest[column * rows..].iter_mut().zip(own).for_each(add);
                    start += size;
                }
            }
        }
        write_all_tokens(plan, plan.summary(), key, &AllShares { rows, offsets, shares, rest })?;
        for number in 0..passes.len() {
            self.store.remove_parts(TOKEN_PARTS, &part_key(key, number))?;
        }
        Ok(())
    }

    /// Divides one pass's scores of a range of its stage's examples for all queries, and keeps what it has when it is time
    /// or when it is asked to stop.
    fn divide_gap<T: Number>(&self, pass: &ScorePass, key: &Key, gap: Range<usize>) -> Result<(), JobError> {
        let queries: Vec<usize> = (0..self.plan.query_rows()).collect();
        let examples: Vec<usize> = gap.clone().collect();
        let (mut start, mut saved) = (gap.start, Instant::now());
        let (mut shares, mut rest): (Vec<f32>, Vec<f32>) = (vec![], vec![]);
        self.each_divided::<T>(
            pass,
            (gap.start, &examples),
            |_| &queries,
            |place, found| {
                shares.extend(found.places.iter().map(|share| *share as f32));
                rest.extend(found.rest.iter().map(|share| *share as f32));
                let end = gap.start + place + 1;
                let is_due = saved.elapsed() >= SAVE_INTERVAL || shares.len() > PENDING;
                if is_due || end == gap.end || self.observer().interrupted() {
                    let shapes = [[shares.len()], [rest.len()]];
                    let tensors =
                        [TensorData::new("shares", &shapes[0], &shares), TensorData::new("rest", &shapes[1], &rest)];
                    let range = start as u64..end as u64;
                    self.store.write_part(TOKEN_PARTS, key, range, &tensors, &Metadata::new())?;
                    (start, saved) = (end, Instant::now());
                    shares.clear();
                    rest.clear();
                }
                Ok(())
            },
        )
    }

    /// Divides one pass's scores of some examples of its stage, one after the other: each for the queries that are its
    /// own, by its place in the list. `done` of the pass's examples were divided before.
    fn each_divided<'q, T: Number>(
        &self,
        pass: &ScorePass,
        (done, wanted): (usize, &[usize]),
        queries: impl Fn(usize) -> &'q Vec<usize>,
        mut take: impl FnMut(usize, PlaceScores) -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        let plan = self.plan;
        let sources = self.vectors_of(pass)?;
        let rows: Vec<QueryRows<'_, T>> = rows_of(pass, &sources);
        let train = &plan.training.stages[pass.site.stage].train;
        let tokens = tokens_of(train)?;
        let examples = plan.in_batches(train);
        let network = self.network(pass.site.network)?;
        self.observer().event(Event::Started {
            pass: Pass::Tokens,
            done: done as u64,
            total: (done + wanted.len()) as u64,
        });
        for (place, &m) in wanted.iter().enumerate() {
            if self.observer().interrupted() {
                return Err(Error::Interrupted.into());
            }
            let (batch, count) = (examples.batch(m..m + 1)?, tokens.tokens(m).len());
            let mut found = score_by_place(&*network, &batch, &rows, queries(place), count, tokens.own_places(m))
                .map_err(|error| of_example(error, m))?;
            let counts = plan.training.counts(StageExample { stage: pass.site.stage, example: m });
            found.places.iter_mut().chain(&mut found.rest).for_each(|score| *score *= counts);
            self.observer().event(Event::Advanced { pass: Pass::Tokens, units: 1 });
            // whoever asks to stop now loses nothing
            take(place, found)?;
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
