//! What a job scores: one answer for each method, damping and time scale, all from the same passes.

use crate::curvature::Damping;
use crate::job::brief::layer_sets::LayerSet;
use crate::job::error::JobError;
use crate::job::request::Job;
use crate::job::request::{Beside, Curvature, DampingRequest, IntervalsRequest, Solve};
use crate::job::training::{Sample, Site, Training};

/// One way to score every training example for every query.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::job) struct Answer {
    /// Its name, in files and reports.
    pub name: String,
    /// How it is made.
    pub method: Method,
    /// The set of layers that it is summed over; none: all tracked layers.
    pub layer_set: Option<usize>,
    /// The answer whose queries' vectors it reads: its own, unless it is over a set of layers or a part of the
    /// checkpoints.
    pub vectors: usize,
    /// What is other than in the first answer, if it is there to say how sure that one is.
    pub variant: Option<Variant>,
}

/// How an answer that says how sure the first one is differs from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::job) enum Variant {
    /// Its curvature is taken on every other training example, from the first or from the second.
    Half(usize),
    /// Its curvature is taken with the labels that the next seed draws.
    Labels,
    /// Its damping is so many times as large.
    Damping(f64),
    /// The variant's joint systems are estimated from every other draw of labels, or from every other example where each
    /// has one draw: from the first (0) or from the second (1) on.
    Draws(usize),
    /// The mean is taken over every other checkpoint, from the first (0) or from the second (1).
    Checkpoints(usize),
}

impl Variant {
    /// Its name, in files and reports.
    fn name(self) -> String {
        match self {
            Self::Half(k) => format!("variant-half-{}", k + 1),
            Self::Labels => "variant-labels".into(),
            Self::Damping(times) => format!("variant-damping-{times}"),
            Self::Draws(k) => format!("variant-draws-{}", k + 1),
            Self::Checkpoints(k) => format!("variant-checkpoints-{}", k + 1),
        }
    }

    /// What it is, for a person.
    pub(in crate::job) fn words(self) -> String {
        let from = |k: usize| if k == 0 { "first" } else { "second" };
        match self {
            Self::Half(k) => format!("curvature of every other training example from the {} on", from(k)),
            Self::Labels => "curvature of labels that another seed draws".into(),
            Self::Damping(times) => format!("{times} times the damping"),
            Self::Draws(k) => format!("joint systems of every other draw of labels from the {} on", from(k)),
            Self::Checkpoints(k) => format!("mean over every other checkpoint from the {} on", from(k)),
        }
    }
}

/// What the damping is multiplied with in the variants of a ranking: the chosen damping and those of other studies
/// lie within these (`docs/questions.md`).
const DAMPINGS: [f64; 2] = [0.3, 3.0];

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
        /// Which training examples the curvatures are taken on.
        sample: Sample,
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

/// What makes queries' vectors of all tracked layers jointly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) enum Joint {
    /// They are solutions of systems at one network.
    Systems,
    /// They are carried through the segments of a training run.
    Segments,
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

/// A quadratic form of every example's gradient: the example's influence on itself at one checkpoint.
#[derive(Debug, Clone, Copy)]
pub(in crate::job) struct OwnForm {
    /// Whose curvature is inverted.
    pub fit: usize,
    /// What is added to its eigenvalues.
    pub damping: Damping,
    /// What the form counts.
    pub weight: f64,
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
    pub(in crate::job) fn all(job: &Job, training: &Training, sets: &[LayerSet]) -> Result<Vec<Self>, JobError> {
        let mut answers = match &job.source {
            None if job.method.curvature == Curvature::Identity && job.method.solve != Solve::MFac => {
                // without curvature there is nothing to damp
                let damping = Damping::default();
                vec![match training.averaged.is_empty() {
                    true => Self::new("gradients".into(), Method::Influence { fit: 0, damping }),
                    false => {
                        Self::new("gradients-mean".into(), Method::InfluenceMean { damping, sample: Sample::Whole })
                    }
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
                hint: Some("leave `tracin` out of <with>".into()),
            });
        }
        for (index, answer) in answers.iter().enumerate() {
            if answers[..index].iter().any(|earlier| earlier.name == answer.name) {
                return Err(JobError::Options {
                    problem: format!("the scores `{}` are asked for twice", answer.name).into(),
                    hint: Some("name each damping, time scale and method once".into()),
                });
            }
        }
        answers.iter_mut().enumerate().for_each(|(vectors, answer)| answer.vectors = vectors);
        for vectors in 0..answers.len() {
            let of = Some(answers[vectors].name.as_str()).filter(|_| vectors > 0);
            let names: Vec<String> = sets.iter().map(|set| LayerSet::answer(&set.name, of)).collect();
            let method = answers[vectors].method;
            let over_sets = names.into_iter().enumerate();
            answers.extend(over_sets.map(|(set, name)| Self {
                name,
                method,
                layer_set: Some(set),
                vectors,
                variant: None,
            }));
        }
        answers.extend(Self::variants(job, training, &answers[0], answers.len()));
        Ok(answers)
    }

    /// Over all layers.
    fn new(name: String, method: Method) -> Self {
        Self { name, method, layer_set: None, vectors: 0, variant: None }
    }

    /// The variants of the first answer that its intervals are made of, as answers from number `start` on.
    fn variants(job: &Job, training: &Training, first: &Self, start: usize) -> Vec<Self> {
        let of = |damping: Damping, sample: Sample| match first.method {
            Method::Influence { fit, .. } => Some(Method::Influence { fit: training.fit_on(fit, sample), damping }),
            Method::InfluenceMean { .. } => Some(Method::InfluenceMean { damping, sample }),
            _ => None,
        };
        let damping = match first.method {
            Method::Influence { damping, .. } | Method::InfluenceMean { damping, .. } => damping,
            _ => return vec![],
        };
        let mut found: Vec<(Variant, Option<Method>, bool)> = vec![];
        if job.output.intervals.has_halves() {
            found.extend([0, 1].map(|k| match job.takes_halves() {
                true => (Variant::Half(k), of(damping, Sample::Half(k)), true),
                false => (Variant::Draws(k), of(damping, Sample::Whole), true),
            }));
        }
        if job.output.intervals == IntervalsRequest::Labels {
            found.push((Variant::Labels, of(damping, Sample::Redrawn), true));
        }
        if job.output.intervals != IntervalsRequest::None {
            found.extend(DAMPINGS.map(|times| {
                let damping = match damping {
                    Damping::Absolute(x) => Damping::Absolute(times * x),
                    Damping::MeanFraction(x) => Damping::MeanFraction(times * x),
                };
                (Variant::Damping(times), of(damping, Sample::Whole), true)
            }));
            if !training.averaged.is_empty() {
                found.extend([0, 1].map(|k| (Variant::Checkpoints(k), Some(first.method), false)));
            }
        }
        let answer = |(place, (variant, method, has_vectors)): (usize, (Variant, Option<Method>, bool))| {
            let vectors = if has_vectors { start + place } else { 0 };
            Some(Self { name: variant.name(), method: method?, layer_set: None, vectors, variant: Some(variant) })
        };
        found.into_iter().enumerate().filter_map(answer).collect()
    }

    fn influence(job: &Job, fit: usize) -> Vec<Self> {
        Self::damped(job, "influence", |damping| Method::Influence { fit, damping })
    }

    fn influence_mean(job: &Job) -> Vec<Self> {
        Self::damped(job, "influence-mean", |damping| Method::InfluenceMean { damping, sample: Sample::Whole })
    }

    /// An answer for each damping that is asked for.
    fn damped(job: &Job, name: &str, method: impl Fn(Damping) -> Method) -> Vec<Self> {
        let dampings = &job.method.damping.0;
        let answer = |damping: &DampingRequest| {
            Self::new(named(name, "damping", dampings.len(), &String::from(*damping)), method(damping.value()))
        };
        dampings.iter().map(answer).collect()
    }
}

/// One of several has its value in its name.
fn named(method: &str, option: &str, count: usize, value: &str) -> String {
    if count == 1 { method.to_owned() } else { format!("{method}.{option}-{value}") }
}
