//! The passes over training examples that a job's answers need, the query vectors that they read, and the walks that
//! make these vectors: all of it from the answers alone, before any number is computed.

use crate::attribution::source::{LegCurvature, SourceOptions};
use crate::attribution::{Aggregate, Error, Walk};
use crate::curvature::{Factors, LayerSlice, LayerSpec};
use crate::data::Kind;
use crate::job::brief::Brief;
use crate::job::brief::answers::{Answer, Contribution, Joint, Method, OwnForm, ScorePass, Variant, VectorSet};
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::request::{CheckpointScores, Normalize, ScoreScale, TokensRequest};
use crate::job::training::{Averaged, Sample, Site};

impl Brief {
    /// The tracked layers that an answer is summed over.
    pub(in crate::job) fn layers_of(&self, answer: usize) -> Vec<usize> {
        match self.answers[answer].layer_set {
            None => (0..self.training.layers().len()).collect(),
            Some(set) => self.layer_sets[set].layers.clone(),
        }
    }

    /// Every slice of a layer that scores are summed over, with its layer.
    pub(in crate::job) fn slices(&self) -> impl Iterator<Item = (&LayerSpec, &LayerSlice)> {
        let layers = self.training.layers();
        self.layer_sets.iter().flat_map(|set| &set.slices).map(|slice| (&layers[slice.layer], slice))
    }

    /// A slice of a layer in words: `h.0.attn.c_attn output 16..32`, where the column behind the inputs is the bias.
    pub(in crate::job) fn slice_name(&self, slice: &LayerSlice) -> String {
        let (name, side) = (&self.training.layers()[slice.layer].name, slice.side.name());
        format!("{name} {side} {}..{}", slice.range.start, slice.range.end)
    }

    /// All of them.
    pub(in crate::job) fn all_answers(&self) -> Vec<usize> {
        (0..self.answers.len()).collect()
    }

    /// Every vector set of these answers, those of one network side by side.
    pub(in crate::job) fn vector_sets(&self, answers: &[usize]) -> Vec<VectorSet> {
        let mut sets: Vec<VectorSet> = vec![];
        for pass in self.score_passes(answers) {
            for Contribution { set, .. } in pass.contributions {
                if !sets.contains(&set) {
                    sets.push(set);
                }
            }
        }
        sets.sort_by_key(|set| set.network);
        sets
    }

    /// How an answer's vectors are those of all tracked layers jointly; none if each layer has its own.
    pub(in crate::job) fn joint(&self, answer: usize) -> Option<Joint> {
        match self.answers[answer].method {
            Method::Influence { .. } | Method::InfluenceMean { .. } => Some(Joint::Systems),
            Method::Source { .. } => Some(Joint::Segments),
            Method::Tracin | Method::Gradients => None,
        }
        .filter(|_| self.job.method.solve.is_joint())
    }

    /// Whether an answer's vectors are those of all tracked layers jointly.
    pub(in crate::job) fn solves_jointly(&self, answer: usize) -> bool {
        self.joint(answer).is_some()
    }

    /// Queries that are solved for together.
    pub(in crate::job) fn solve_block(&self) -> usize {
        let rows = self.query_rows().max(1);
        self.job.method.solve_block.map_or(rows, |block| block.min(rows))
    }

    /// Whether an answer is a mean over checkpoints whose scores are divided by their spread first.
    pub(in crate::job) fn spreads(&self, answer: usize) -> bool {
        matches!(self.answers[answer].method, Method::InfluenceMean { .. })
            && self.job.method.checkpoint_scores == CheckpointScores::Spread
    }

    /// Rows of the queries' vectors and of every answer's scores; 0 without queries.
    pub(in crate::job) fn query_rows(&self) -> usize {
        self.queries.as_ref().map_or(0, |queries| Aggregate::from(self.job.method.aggregate).rows(queries.len()))
    }

    /// Target tokens of all queries.
    pub(in crate::job) fn query_targets(&self) -> usize {
        match self.queries.as_ref().map(|queries| (queries.len(), queries.kind())) {
            Some((n, Kind::Tokens(tokens))) => (0..n).map(|query| tokens.targets(query)).sum(),
            _ => 0,
        }
    }

    /// Training examples that rankings list for one query at most.
    pub(in crate::job) fn listed(&self) -> usize {
        (2 * self.job.output.top).min(self.training.columns.len())
    }

    /// Tokens of a training example, on average.
    pub(in crate::job) fn tokens_of_example(&self) -> usize {
        let train = self.train();
        (0..train.len()).map(|m| train.positions(m)).sum::<usize>().div_ceil(train.len().max(1))
    }

    /// Shares of tokens of all listed pairs, if each list is as long as it can be and examples have the mean length.
    pub(in crate::job) fn token_shares(&self) -> u64 {
        let (request, listed) = (self.job.output.tokens, self.listed() as u64);
        if request == TokensRequest::All {
            let columns = self.training.columns.len() as u64;
            return self.query_rows() as u64 * columns * self.tokens_of_example() as u64;
        }
        let (targets, tokens) = (self.query_targets() as u64, self.tokens_of_example() as u64);
        let of_examples = if request.divides_examples() { self.query_rows() as u64 * tokens } else { 0 };
        let of_queries = if request.divides_queries() { targets } else { 0 };
        let of_both = if request.divides_examples() { of_queries * tokens } else { 0 };
        listed * (of_examples + of_queries + of_both)
    }

    /// Query vectors that a pass over training examples meets: the rows of every contribution.
    pub(in crate::job) fn vectors_of(&self, pass: &ScorePass) -> usize {
        pass.contributions.len() * self.query_rows()
    }

    /// Every pass over training examples that these answers need, each with all that it serves.
    pub(in crate::job) fn score_passes(&self, answers: &[usize]) -> Vec<ScorePass> {
        let (mut with_vectors, mut layer_sets): (Vec<usize>, Vec<usize>) = (vec![], vec![]);
        for answer in answers.iter().map(|&answer| &self.answers[answer]) {
            if !with_vectors.contains(&answer.vectors) {
                with_vectors.push(answer.vectors);
            }
            layer_sets.extend(answer.layer_set.filter(|set| !layer_sets.contains(set)));
        }
        let mut passes: Vec<ScorePass> = vec![];
        let mut add = |site: Site, contribution: Contribution| match passes.iter_mut().find(|pass| pass.site == site) {
            Some(pass) => pass.contributions.push(contribution),
            None => {
                let (contributions, layer_sets) = (vec![contribution], layer_sets.clone());
                passes.push(ScorePass { site, contributions, layer_sets });
            }
        };
        let training = &self.training;
        let scored = |network: usize, stage: usize| Site { network, stage, sample: Sample::Whole };
        let last = scored(training.last_network(), training.stages.len() - 1);
        for answer in with_vectors {
            let at_last = VectorSet { answer, network: last.network };
            match self.answers[answer].method {
                Method::Influence { .. } | Method::Gradients => {
                    add(last, Contribution { set: at_last, leg: 0, weight: self.example_weight() });
                }
                Method::InfluenceMean { .. } => {
                    let stage = last.stage;
                    for &Averaged { network, weight, .. } in &training.averaged {
                        let (set, weight) = (VectorSet { answer, network }, weight * self.example_weight());
                        add(scored(network, stage), Contribution { set, leg: 0, weight });
                    }
                }
                Method::Source { .. } => {
                    for (leg, fit) in training.segment_fits().iter().enumerate() {
                        for place in &fit.places {
                            let weight = place.weight / training.stages[fit.stage].n_examples as f64;
                            let site = scored(place.network, fit.stage);
                            add(site, Contribution { set: at_last, leg, weight });
                        }
                    }
                }
                Method::Tracin => {
                    for ((stage, segment), fit) in training.segments().iter().zip(&training.fits) {
                        for place in &fit.places {
                            let n = training.stages[*stage].n_examples as f64;
                            // its share of the segment's rates, `docs/method.md`, Source
                            let weight = place.weight * segment.tau / n;
                            let set = VectorSet { answer, network: place.network };
                            add(scored(place.network, *stage), Contribution { set, leg: 0, weight });
                        }
                    }
                }
            }
        }
        passes.sort_by_key(|pass| (pass.site.stage, pass.site.network));
        passes
    }

    /// What one example counts in the objective of the last stage, in the unit that was asked for.
    pub(in crate::job) fn example_weight(&self) -> f64 {
        match self.job.output.scale {
            ScoreScale::PerExample => 1.0 / self.training.last_stage().n_examples as f64,
            ScoreScale::Kronfluence => 1.0,
        }
    }

    /// Legs of an answer's walk.
    pub(in crate::job) fn legs(&self, answer: usize) -> usize {
        match self.answers[answer].method {
            Method::Source { .. } => self.training.segments().len(),
            _ => 1,
        }
    }

    /// What scores at a network are multiplied with in an answer: 1, but where it is over every other checkpoint, so that
    /// the weights of these sum to 1; 0 where the answer leaves the checkpoint out.
    pub(in crate::job) fn share_at(&self, answer: &Answer, network: usize) -> f64 {
        let Some(Variant::Checkpoints(first)) = answer.variant else { return 1.0 };
        let taken = || self.training.averaged.iter().skip(first).step_by(2);
        match taken().any(|at| at.network == network) {
            true => 1.0 / taken().map(|at| at.weight).sum::<f64>(),
            false => 0.0,
        }
    }

    /// The curvature that averaged influence has at a network, on a sample of the training examples.
    ///
    /// # Panics
    /// If influence is not averaged over that network: only its vector sets ask for it.
    pub(in crate::job) fn averaged_fit(&self, network: usize, sample: Sample) -> usize {
        let found = self.training.averaged.iter().find(|averaged| averaged.network == network);
        let whole = found.expect("vector sets of averaged influence are at averaged networks").fit;
        self.training.fit_on(whole, sample)
    }

    /// The walk of a set of vectors over fitted curvatures, one for each fit of the training; `identity` is for methods
    /// without.
    pub(in crate::job) fn walk<'a, T: Number>(
        &'a self,
        set: VectorSet,
        curvatures: &'a [LegCurvature<T>],
        identity: &'a Factors<T>,
    ) -> Result<Walk<'a, T>, JobError> {
        Ok(match self.answers[set.answer].method {
            Method::Influence { fit, damping } => Walk::influence(&curvatures[fit].factors, damping),
            Method::InfluenceMean { damping, sample } => {
                Walk::influence(&curvatures[self.averaged_fit(set.network, sample)].factors, damping)
            }
            Method::Tracin => {
                let mut walk = Walk::gradients(identity);
                // the same in every stage: `all` has seen to it
                walk.legs[0].layer_rates = self.training.layer_rates(0);
                walk
            }
            Method::Gradients => Walk::gradients(identity),
            Method::Source { time_scale } => {
                let form = self.job.source.as_ref().map(|source| source.form.into()).unwrap_or_default();
                let options = SourceOptions { form, time_scale, ..SourceOptions::default() };
                let legs = self.training.source_legs(curvatures);
                Walk::source(&legs, self.training.layers(), options).map_err(Error::from)?
            }
        })
    }

    /// The quadratic form of a pass's gradients that is taken along with the scores, where self-influence is made of
    /// such forms: that of influence functions, and of their mean over checkpoints.
    pub(in crate::job) fn forms_with_scores(&self, pass: &ScorePass) -> Option<OwnForm> {
        let method = &self.job.method;
        if !method.self_influence && method.normalize != Normalize::Cosine {
            return None;
        }
        let first = pass.contributions.iter().find(|contribution| contribution.set.answer == 0)?;
        let (fit, damping) = match self.answers[first.set.answer].method {
            Method::Influence { fit, damping } => (fit, damping),
            Method::InfluenceMean { damping, sample } => (self.averaged_fit(first.set.network, sample), damping),
            _ => return None,
        };
        Some(OwnForm { fit, damping, weight: first.weight })
    }

    /// Whether self-influence is asked for under Source.
    pub(in crate::job) fn walks_to_itself(&self) -> bool {
        let first = self.answers.first().map(|answer| answer.method);
        self.job.method.self_influence && matches!(first, Some(Method::Source { .. }))
    }
}
