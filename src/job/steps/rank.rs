//! From scores to lists that a person reads.

use crate::attribution::evaluate::relatif_loss;
use crate::attribution::ranking::{Ranking, ScorePlace, ScoreRows, rank};
use crate::attribution::store::{Store, TensorFile};
use crate::data::{Dataset, Kind, TargetToken};
use crate::job::brief::copies::{RankedCopies, ranked};
use crate::job::brief::example_groups::RankedGroup;
use crate::job::brief::options::measure_name;
use crate::job::error::JobError;
use crate::job::folder::calibration::{Amount, scale_of};
use crate::job::folder::rankings::{
    CandidateCheck, EXCERPT, PairShare, QueryInfo, QueryRanking, QueryToken, RankedExample, STRONGEST_PAIRS,
    TargetShare, TokenShare, write_copies, write_rankings,
};
use crate::job::folder::tokens::{StoredPair, StoredShares};
use crate::job::folder::{metadata, output, places, present};
use crate::job::plan::Plan;
use crate::job::request::{AggregateRequest, RankBy, Solve};
use crate::job::steps::variants::Variants;
use crate::presence::is_file;

impl Plan {
    /// Ranks the scores of the run folder; writes `ranking.jsonl`, and `ranking.csv` if asked for, and the same for
    /// every further method, damping and time scale under its name. Returns the first's.
    ///
    /// # Errors
    /// [`JobError::MissingStep`] before `score` is done; if results cannot be written.
    pub fn rank(&self) -> Result<Vec<QueryRanking>, JobError> {
        present::check_results(self)?;
        // rankings that a killed process was writing are cleared away
        let _tidied = Store::tidy(&self.job.output.path)?;
        let mut first = None;
        for answer in (0..self.answers.len()).filter(|&answer| self.answers[answer].variant.is_none()) {
            let rankings = self.rank_one(answer)?;
            write_rankings(self, answer, &rankings)?;
            first.get_or_insert(rankings);
        }
        write_copies(self)?;
        Ok(first.unwrap_or_default())
    }

    fn rank_one(&self, answer: usize) -> Result<Vec<QueryRanking>, JobError> {
        let shares = self.stored_shares(answer)?;
        let queries = self.queries.as_ref().ok_or(JobError::NoQueries)?;
        let (scores, top) = (places::scores_file(self, answer), places::top_file(self, answer));
        let captured = |file: &TensorFile| -> Result<Option<Vec<f64>>, JobError> {
            match self.job.method.query_rank {
                None => Ok(None),
                Some(_) => Ok(Some(file.f64(output::CAPTURED)?.to_vec())),
            }
        };
        let solved = |file: &TensorFile| -> Result<Option<Vec<f64>>, JobError> {
            match self.solves_jointly(answer) {
                false => Ok(None),
                true => Ok(Some(file.f64(output::solved_name(self))?.to_vec())),
            }
        };
        let mut in_groups: Option<Vec<Vec<RankedGroup>>> = None;
        let mut checks: Option<Vec<CandidateCheck>> = None;
        // of each query the copies of what is listed on either side
        let mut copies: Vec<[Vec<Option<RankedCopies>>; 2]> = vec![];
        let rankings = rankings_of(self, answer)?;
        let (values, captured, solved) = if is_file(&scores) {
            let file = TensorFile::open_checked(&scores)?;
            let shape = &file.spec("scores")?.shape;
            let rows = ScoreRows::new(file.f32("scores")?, shape[0], shape[1]).map_err(output::ranking_error)?;
            in_groups =
                self.groups.as_ref().map(|groups| (0..rows.queries()).map(|q| groups.ranked(rows.row(q))).collect());
            checks = self.training.chosen().map(|chosen| {
                (0..rows.queries()).map(|q| CandidateCheck::of(rows.row(q), chosen, self.job.output.top)).collect()
            });
            if let Some(found) = &self.copies {
                let id = |column: usize| self.training.columns.id(column).to_owned();
                let of = |query: usize, side: &[(usize, f32)], helps: bool| {
                    side.iter().map(|&(column, _)| found.of(column, rows.row(query), helps, id)).collect()
                };
                let sides = |r: &Ranking| [of(r.query, &r.proponents, true), of(r.query, &r.opponents, false)];
                copies = rankings.iter().map(sides).collect();
            }
            (file.f64("measurements")?.to_vec(), captured(&file)?, solved(&file)?)
        } else {
            let file = TensorFile::open_checked(&top)?;
            (file.f64("measurements")?.to_vec(), captured(&file)?, solved(&file)?)
        };
        let ids = metadata::query_ids(self);
        let measurement = measure_name(self.measure());
        let weighted = if self.query_weights.is_empty() { "" } else { "weighted " };
        let query = |q: usize| match self.job.method.aggregate {
            AggregateRequest::Each => (queries.excerpt(q, EXCERPT), values[q]),
            AggregateRequest::Sum => {
                (format!("the {weighted}sum of {} queries", queries.len()), self.aggregated(&values))
            }
            AggregateRequest::Mean => {
                (format!("the {weighted}mean of {} queries", queries.len()), self.aggregated(&values))
            }
        };
        let columns = &self.training.columns;
        let scale = scale_of(self, answer)?;
        let variants = Variants::of(self, answer)?;
        let self_influence = if answer == 0 { self_influence_of(self)? } else { None };
        let by_relatif = self.job.output.rank_by == RankBy::Relatif;
        let examples = |query: usize, side: Vec<(usize, f32)>, copies: Vec<Option<RankedCopies>>| {
            let copies = copies.into_iter().chain(std::iter::repeat(None));
            let example = |((column, score), copies): ((usize, f32), Option<RankedCopies>)| {
                let (stage, m) = columns.example(column);
                let (stage, place) = (&self.training.stages[stage], self.training.stages[stage].place(m));
                let to_itself = self_influence.as_ref().and_then(|values| values.get(column)).copied();
                let at = ScorePlace { query, column };
                let own = shares.as_ref().and_then(|shares| shares.of(at));
                let own = own.as_ref();
                RankedExample {
                    id: columns.id(column).to_owned(),
                    score,
                    copies,
                    self_influence: to_itself,
                    relatif: to_itself.filter(|own| by_relatif && *own > 0.0).map(|own| score / own.sqrt()),
                    interval: variants.as_ref().and_then(|variants| variants.interval(at, score)),
                    amount: scale.as_ref().map(|scale| Amount::of(scale, score)),
                    excerpt: stage.all().excerpt(place, EXCERPT),
                    tokens: own
                        .filter(|own| !own.shares.is_empty())
                        .map(|own| token_shares(stage.all(), place, &own.shares)),
                    rest: own.map(|own| own.rest).filter(|rest| *rest != 0.0),
                    query_tokens: own.filter(|own| !own.targets.is_empty()).map(|own| {
                        let texts = target_tokens(queries, query).into_iter().zip(&own.targets);
                        let share = |(token, &share): (TargetToken, &f32)| TargetShare {
                            text: token.text,
                            share,
                            is_rejected: token.is_rejected,
                        };
                        texts.map(share).collect()
                    }),
                    token_pairs: own
                        .filter(|own| !own.pairs.is_empty())
                        .map(|own| strongest_pairs(own, (queries, query), (stage.all(), place))),
                    metadata: stage.all().metadata(place),
                    row: stage.chosen.as_ref().map(|_| place),
                    is_control: stage.chosen.as_ref().is_some_and(|(_, chosen)| chosen.is_control[m]),
                }
            };
            side.into_iter().zip(copies).map(example).collect()
        };
        let losses = self.stored_query_losses()?;
        let before = self.stored_before()?;
        let mut whole = |ranking: Ranking| {
            let (excerpt, value) = query(ranking.query);
            let [helping, hurting] = copies.get_mut(ranking.query).map(std::mem::take).unwrap_or_default();
            let of_query = solved.as_ref().map(|solved| solved[ranking.query]);
            let is_subspace = self.job.method.solve == Solve::Subspace;
            QueryRanking {
                candidates: checks.as_ref().map(|checks| checks[ranking.query].clone()),
                stability: variants.as_ref().and_then(|variants| variants.stability(&ranking, self.copies.as_ref())),
                query: QueryInfo {
                    id: ids[ranking.query].clone(),
                    excerpt,
                    measurement,
                    value,
                    before: before.as_ref().and_then(|before| before.get(ranking.query)).cloned(),
                    captured: captured.as_ref().map(|captured| captured[ranking.query]),
                    residual: of_query.filter(|_| !is_subspace),
                    disagreement: of_query.filter(|_| is_subspace),
                    tokens: losses
                        .as_ref()
                        .and_then(|losses| losses.get(ranking.query))
                        .and_then(|own| tokens_with_losses(queries, ranking.query, own)),
                },
                proponents: examples(ranking.query, ranking.proponents, helping),
                opponents: examples(ranking.query, ranking.opponents, hurting),
                groups: in_groups.as_ref().map(|groups| groups[ranking.query].clone()),
            }
        };
        Ok(rankings.into_iter().map(&mut whole).collect())
    }

    /// What the tokens of the ranked examples add to an answer's scores, if the folder has it.
    fn stored_shares(&self, answer: usize) -> Result<Option<StoredShares>, JobError> {
        let Some(key) = self.answer_key(answer).filter(|_| answer == 0) else { return Ok(None) };
        let file = places::tokens_file(self);
        match present::has_key(&file, &key)? {
            true => Ok(Some(StoredShares::read(TensorFile::open_checked(&file)?)?)),
            false => Ok(None),
        }
    }
}

/// Each query's strongest proponents and opponents of a run folder's scores.
///
/// # Errors
/// [`JobError::MissingStep`] if there are none.
pub(in crate::job) fn rankings_of(plan: &Plan, answer: usize) -> Result<Vec<Ranking>, JobError> {
    let (scores, top) = (places::scores_file(plan, answer), places::top_file(plan, answer));
    let rankings = if is_file(&scores) {
        let file = TensorFile::open_checked(&scores)?;
        let shape = &file.spec("scores")?.shape;
        let rows = ScoreRows::new(file.f32("scores")?, shape[0], shape[1]).map_err(output::ranking_error)?;
        if plan.job.output.rank_by == RankBy::Relatif {
            let own = self_influence_of(plan)?.ok_or_else(|| {
                let folder = plan.job.output.path.clone();
                JobError::MissingStep { folder, what: "self-influences", step: "score" }
            })?;
            return by_relatif(rows, &own, plan.job.output.top);
        }
        return ranked(plan.copies.as_ref(), rows, plan.job.output.top).map_err(output::ranking_error);
    } else if is_file(&top) {
        stored_top(&TensorFile::open_checked(&top)?)?
    } else {
        let folder = plan.job.output.path.clone();
        return Err(JobError::MissingStep { folder, what: "a score matrix", step: "score" });
    };
    Ok(rankings.into_iter().map(Ranking::signed).collect())
}

/// Each query's strongest examples by score over the square root of self-influence, with their scores.
fn by_relatif(rows: ScoreRows<'_>, self_influence: &[f32], top: usize) -> Result<Vec<Ranking>, JobError> {
    let of_query = |query: usize| -> Result<Ranking, JobError> {
        let scores = rows.row(query);
        let mut divided = scores.to_vec();
        relatif_loss(&mut divided, 1, self_influence)
            .map_err(|error| JobError::options(error.to_string(), "take the scores again with `--self-influence`"))?;
        let found = ScoreRows::new(&divided, 1, divided.len()).and_then(|rows| rank(rows, top));
        let ranking = found.map_err(output::ranking_error)?.remove(0).signed();
        let with_score =
            |side: Vec<(usize, f32)>| side.into_iter().map(|(column, _)| (column, scores[column])).collect();
        Ok(Ranking { query, proponents: with_score(ranking.proponents), opponents: with_score(ranking.opponents) })
    };
    (0..rows.queries()).map(of_query).collect()
}

/// The self-influence of every example, if the run folder has it.
fn self_influence_of(plan: &Plan) -> Result<Option<Vec<f32>>, JobError> {
    let file = places::self_influence_file(plan);
    match plan.job.method.self_influence && is_file(&file) {
        true => Ok(Some(TensorFile::open_checked(&file)?.f32("self_influence")?.to_vec())),
        false => Ok(None),
    }
}

/// An example's tokens with what each adds.
fn token_shares(train: &Dataset, m: usize, shares: &[f32]) -> Vec<TokenShare> {
    let texts = match train.kind() {
        Kind::Tokens(tokens) => tokens.marked_tokens(m),
        Kind::Rows(_) => vec![],
    };
    texts.into_iter().zip(shares).map(|((text, _), &share)| TokenShare { text, share }).collect()
}

/// The targets of a query.
fn target_tokens(queries: &Dataset, query: usize) -> Vec<TargetToken> {
    match queries.kind() {
        Kind::Tokens(tokens) => tokens.target_tokens(query),
        Kind::Rows(_) => vec![],
    }
}

/// The tokens of a query with the losses of its targets; none if these are not known.
fn tokens_with_losses(queries: &Dataset, query: usize, losses: &[f32]) -> Option<Vec<QueryToken>> {
    let Kind::Tokens(tokens) = queries.kind() else { return None };
    let targets = tokens.target_tokens(query);
    if losses.is_empty() || targets.len() != losses.len() {
        return None;
    }
    let mut targets = targets.into_iter().zip(losses);
    let of_token = |(text, is_target): (String, bool)| match is_target.then(|| targets.next()).flatten() {
        None => QueryToken { text, loss: None, is_rejected: false },
        Some((target, loss)) => {
            QueryToken { text: target.text, loss: Some((loss * 1e4).round() / 1e4), is_rejected: target.is_rejected }
        }
    };
    Some(tokens.marked_tokens(query).into_iter().map(of_token).collect())
}

/// The pairs of a query's target and an example's token that add most to the score.
fn strongest_pairs(own: &StoredPair, query: (&Dataset, usize), example: (&Dataset, usize)) -> Vec<PairShare> {
    let targets = target_tokens(query.0, query.1);
    let Kind::Tokens(tokens) = example.0.kind() else { return vec![] };
    let texts = tokens.marked_tokens(example.1);
    let mut places: Vec<usize> = (0..own.pairs.len()).filter(|&k| own.pairs[k] != 0.0).collect();
    places.sort_by(|&a, &b| own.pairs[b].abs().total_cmp(&own.pairs[a].abs()));
    let pair = |k: usize| {
        let (query_target, token) = (k / texts.len().max(1), k % texts.len().max(1));
        let (of_query, of_example) = (targets.get(query_target)?, texts.get(token)?);
        Some(PairShare {
            query_text: of_query.text.clone(),
            query_target,
            text: of_example.0.clone(),
            token,
            share: own.pairs[k],
        })
    };
    places.into_iter().take(STRONGEST_PAIRS).filter_map(pair).collect()
}

fn stored_top(file: &TensorFile) -> Result<Vec<Ranking>, JobError> {
    let shape = file.spec("proponents.index")?.shape.clone();
    let side = |name: &str| -> Result<Vec<(usize, f32)>, JobError> {
        let (index, score) = (file.i64(&format!("{name}.index"))?, file.f32(&format!("{name}.score"))?);
        Ok(index.iter().map(|m| *m as usize).zip(score.iter().copied()).collect())
    };
    let (best, worst) = (side("proponents")?, side("opponents")?);
    let (queries, width) = (shape[0], shape[1].max(1));
    Ok((0..queries)
        .map(|query| Ranking {
            query,
            proponents: best.chunks(width).nth(query).unwrap_or_default().to_vec(),
            opponents: worst.chunks(width).nth(query).unwrap_or_default().to_vec(),
        })
        .collect())
}
