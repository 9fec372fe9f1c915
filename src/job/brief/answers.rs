//! What a job scores: one answer for each method, damping and time scale, all from the same passes.

use crate::attribution::source::{LegCurvature, SourceOptions};
use crate::attribution::{Aggregate, Error, Walk};
use crate::curvature::{Damping, Factors};
use crate::job::brief::layer_sets::LayerSet;
use crate::job::error::JobError;
use crate::job::plan::Plan;
use crate::job::request::Job;
use crate::job::request::{Beside, CheckpointScores, Curvature, DampingRequest, ScoreScale};
use crate::job::training::{Averaged, Site, Training};

use crate::job::number::Number;

/// One way to score every training example for every query.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::job) struct Answer {
    /// Its name, in files and reports.
    pub name: String,
    /// How it is made.
    pub method: Method,
    /// The set of layers that it is summed over; none: all tracked layers.
    pub layer_set: Option<usize>,
    /// The answer whose queries' vectors it reads: its own, unless it is over a set of layers.
    pub vectors: usize,
}

/// How scores are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::job) enum Method {
    /// Influence functions at the last network.
    Influence {
        /// Which curvature.
        fit: usize,
        /// What is added to its eigenvalues.
        damping: Damping,
    },
    /// The mean of influence functions over several checkpoints, each with its own gradients and curvature.
    InfluenceMean {
        /// What is added to the eigenvalues of each checkpoint.
        damping: Damping,
    },
    /// Source over all segments.
    Source {
        /// Multiplies every rate.
        time_scale: f64,
    },
    /// TracIn over all checkpoints.
    Tracin,
    /// The gradient dot product at the last network.
    Gradients,
}

/// The query vectors of one answer at one network: TracIn and averaged influence ask every network, the others the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) struct VectorSet {
    /// Which answer's.
    pub answer: usize,
    /// Where the queries take their gradients.
    pub network: usize,
}

/// What one answer gets from one pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::job) struct Contribution {
    /// The vectors.
    pub set: VectorSet,
    /// The leg whose vectors they are.
    pub leg: usize,
    /// What a product counts.
    pub weight: f64,
}

/// One differentiation of a stage's training examples, and everything that is scored with it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::job) struct ScorePass {
    /// At which network, over which stage's data.
    pub site: Site,
    /// In the order of the score columns.
    pub contributions: Vec<Contribution>,
    /// Sets of layers that everything is summed over by itself, after the sums over all layers.
    pub layer_sets: Vec<usize>,
}

impl ScorePass {
    /// Sums of every product: over all layers, and over those of each set.
    pub(in crate::job) fn sums(&self) -> usize {
        1 + self.layer_sets.len()
    }

    /// Numbers of a score column if every contribution has so many rows.
    pub(in crate::job) fn width(&self, rows: usize) -> usize {
        self.sums() * self.contributions.len() * rows
    }

    /// Where the rows of an answer's contributions begin in a score column.
    pub(in crate::job) fn places(&self, answer: &Answer, rows: usize) -> Vec<usize> {
        let sum = match answer.layer_set {
            None => Some(0),
            Some(set) => self.layer_sets.iter().position(|&other| other == set).map(|k| 1 + k),
        };
        let Some(sum) = sum else { return vec![] };
        let own = self.contributions.iter().enumerate().filter(|(_, c)| c.set.answer == answer.vectors);
        own.map(|(place, _)| (sum * self.contributions.len() + place) * rows).collect()
    }
}

impl Answer {
    /// Every answer of a job; the first is the one that rankings are made of. Those over sets of layers come last.
    ///
    /// # Errors
    /// The same one twice; dampings that nothing uses.
    pub(in crate::job) fn all(job: &Job, training: &Training) -> Result<Vec<Self>, JobError> {
        let mut answers = match &job.source {
            None if job.method.curvature == Curvature::Identity => {
                // without curvature there is nothing to damp
                let damping = Damping::default();
                vec![match training.averaged.is_empty() {
                    true => Self::new("gradients".into(), Method::Influence { fit: 0, damping }),
                    false => Self::new("gradients-mean".into(), Method::InfluenceMean { damping }),
                }]
            }
            None if training.averaged.is_empty() => Self::influence(job, 0),
            None => Self::influence_mean(job),
            Some(source) => {
                let scales = &source.time_scale.0;
                let mut answers: Vec<Self> = scales
                    .iter()
                    .map(|&time_scale| {
                        let name = named("source", "time-scale", scales.len(), &time_scale.to_string());
                        Self::new(name, Method::Source { time_scale })
                    })
                    .collect();
                for beside in &source.with {
                    match beside {
                        Beside::Influence => answers.extend(Self::influence(job, training.fits.len() - 1)),
                        Beside::InfluenceMean => answers.extend(Self::influence_mean(job)),
                        Beside::Tracin => answers.push(Self::new("tracin".into(), Method::Tracin)),
                        Beside::Gradients => answers.push(Self::new("gradients".into(), Method::Gradients)),
                    }
                }
                answers
            }
        };
        let rates = |stage: usize| training.layer_rates(stage);
        if answers.iter().any(|answer| answer.method == Method::Tracin)
            && (1..training.stages.len()).any(|stage| rates(stage) != rates(0))
        {
            return Err(JobError::Options {
                problem: "the stages of the training run have different ratios of rates between layers, which TracIn does not add up".into(),
                hint: Some("leave `tracin` out of `with`".into()),
            });
        }
        for (index, answer) in answers.iter().enumerate() {
            if answers[..index].iter().any(|earlier| earlier.name == answer.name) {
                return Err(JobError::Options {
                    problem: format!("the scores `{}` are asked for twice", answer.name),
                    hint: Some("name each damping, time scale and method once".into()),
                });
            }
        }
        answers.iter_mut().enumerate().for_each(|(vectors, answer)| answer.vectors = vectors);
        for vectors in 0..answers.len() {
            let of = Some(answers[vectors].name.as_str()).filter(|_| vectors > 0);
            let names: Vec<String> = job.output.layer_sets.keys().map(|set| LayerSet::answer(set, of)).collect();
            let method = answers[vectors].method;
            let over_sets = names.into_iter().enumerate();
            answers.extend(over_sets.map(|(set, name)| Self { name, method, layer_set: Some(set), vectors }));
        }
        Ok(answers)
    }

    /// Over all layers.
    fn new(name: String, method: Method) -> Self {
        Self { name, method, layer_set: None, vectors: 0 }
    }

    fn influence(job: &Job, fit: usize) -> Vec<Self> {
        Self::damped(job, "influence", |damping| Method::Influence { fit, damping })
    }

    fn influence_mean(job: &Job) -> Vec<Self> {
        Self::damped(job, "influence-mean", |damping| Method::InfluenceMean { damping })
    }

    /// An answer for each damping that is asked for.
    fn damped(job: &Job, name: &str, method: impl Fn(Damping) -> Method) -> Vec<Self> {
        let dampings = &job.method.damping.0;
        let answer = |damping: &DampingRequest| {
            Self::new(named(name, "damping", dampings.len(), &String::from(*damping)), method(damping.0))
        };
        dampings.iter().map(answer).collect()
    }
}

/// One of several has its value in its name.
fn named(method: &str, option: &str, count: usize, value: &str) -> String {
    if count == 1 { method.to_owned() } else { format!("{method}.{option}-{value}") }
}

impl Plan {
    /// The tracked layers that an answer is summed over.
    pub(in crate::job) fn layers_of(&self, answer: usize) -> Vec<usize> {
        match self.answers[answer].layer_set {
            None => (0..self.training.layers().len()).collect(),
            Some(set) => self.layer_sets[set].layers.clone(),
        }
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

    /// The vector sets of these answers, each file once: averaged influence and influence at the last checkpoint share
    /// the vectors of the last network.
    pub(in crate::job) fn stored_vector_sets(&self, answers: &[usize]) -> Vec<VectorSet> {
        let mut keys = vec![];
        let mut sets = self.vector_sets(answers);
        sets.retain(|set| {
            let key = self.vectors_key(*set);
            let is_new = key.is_none() || !keys.contains(&key);
            keys.push(key);
            is_new
        });
        sets
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

    /// Query vectors that a pass over training examples meets: the rows of every contribution.
    pub(in crate::job) fn vectors_of(&self, pass: &ScorePass) -> usize {
        pass.contributions.len() * self.query_rows()
    }

    /// Those of the pass that meets most.
    pub(in crate::job) fn most_vectors(&self) -> usize {
        self.score_passes(&self.all_answers()).iter().map(|pass| self.vectors_of(pass)).max().unwrap_or(0)
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
        let last = Site { network: training.last_network(), stage: training.stages.len() - 1 };
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
                        add(Site { network, stage }, Contribution { set, leg: 0, weight });
                    }
                }
                Method::Source { .. } => {
                    for (leg, fit) in training.fits[..training.segments().len()].iter().enumerate() {
                        for place in &fit.places {
                            let weight = place.weight / training.stages[fit.stage].n_examples as f64;
                            let site = Site { network: place.network, stage: fit.stage };
                            add(site, Contribution { set: at_last, leg, weight });
                        }
                    }
                }
                Method::Tracin => {
                    for ((stage, segment), fit) in training.segments().iter().zip(&training.fits) {
                        for place in &fit.places {
                            let n = training.stages[*stage].n_examples as f64;
                            // its share of the segment's rates, METHOD §4.7
                            let weight = place.weight * segment.tau / n;
                            let set = VectorSet { answer, network: place.network };
                            add(Site { network: place.network, stage: *stage }, Contribution { set, leg: 0, weight });
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

    /// The curvature that averaged influence has at a network.
    ///
    /// # Panics
    /// If influence is not averaged over that network: only its vector sets ask for it.
    pub(in crate::job) fn averaged_fit(&self, network: usize) -> usize {
        let found = self.training.averaged.iter().find(|averaged| averaged.network == network);
        found.expect("vector sets of averaged influence are at averaged networks").fit
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
            Method::InfluenceMean { damping } => {
                Walk::influence(&curvatures[self.averaged_fit(set.network)].factors, damping)
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
}
