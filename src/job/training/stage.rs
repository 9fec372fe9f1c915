//! A part of training with its own data, and the parts of these that curvature and joint solves are taken on.

use crate::data::Dataset;
use crate::job::error::JobError;
use crate::job::request::{FitExamples, POSITIONS_PER_ROW};
use crate::job::training::chosen::Chosen;

/// Examples for each direction of a subspace that [`FitExamples::Auto`] takes for joint systems: far more than their
/// forms need to be known well, so that a pass over millions of examples is spared.
pub(in crate::job) const EXAMPLES_OF_DIRECTION: usize = 200;

/// Examples whose gradients [`FitExamples::Auto`] takes for matrix-free solves: what M-FAC was published with.
pub(in crate::job) const SAMPLED_EXAMPLES: usize = 1024;

/// Which of a stage's examples a curvature is taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::job) enum Sample {
    /// All that the stage takes its curvature on.
    #[default]
    Whole,
    /// Every other one of them: from the first, or from the second.
    Half(usize),
    /// All of them, with the labels that the next seed draws.
    Redrawn,
}

/// A part of training with its own data.
#[derive(Debug)]
pub(in crate::job) struct Stage {
    /// The stage's name.
    pub name: String,
    /// N of `docs/method.md`, Score: examples that its objective averaged over.
    pub n_examples: usize,
    /// The examples that are scored.
    pub train: Dataset,
    /// All examples of the stage, and which of them are scored, where these are not all.
    pub chosen: Option<(Dataset, Chosen)>,
    /// The part of them that the curvature is taken on; none if that is all.
    pub sample: Option<Dataset>,
    /// Every other example that the curvature is taken on, from the first and from the second; none unless halves of
    /// the data have curvatures of their own.
    pub halves: Option<[Dataset; 2]>,
    /// The part of them that joint solves multiply with the Gauss-Newton matrix of; none if that is all.
    pub solve_sample: Option<Dataset>,
}

impl Stage {
    /// A stage whose curvature is taken on all of its examples.
    pub(in crate::job) fn new(name: String, train: Dataset) -> Self {
        Self { name, n_examples: train.len(), train, chosen: None, sample: None, halves: None, solve_sample: None }
    }

    /// All examples of its file, scored or not.
    pub(in crate::job) fn all(&self) -> &Dataset {
        self.chosen.as_ref().map_or(&self.train, |(all, _)| all)
    }

    /// Which of all examples the `m`th that is scored is.
    pub(in crate::job) fn place(&self, m: usize) -> usize {
        self.chosen.as_ref().map_or(m, |(_, chosen)| chosen.places[m])
    }

    /// Scores these examples alone. Curvatures and joint systems stay on what they were taken on.
    pub(super) fn score_only(&mut self, chosen: Chosen) {
        let scored = self.train.at(&chosen.places);
        self.chosen = Some((std::mem::replace(&mut self.train, scored), chosen));
    }

    /// The examples that the curvature is taken on.
    pub(in crate::job) fn fit_data(&self) -> &Dataset {
        self.sample.as_ref().unwrap_or_else(|| self.all())
    }

    /// The examples that a curvature is taken on.
    pub(in crate::job) fn data_of(&self, sample: Sample) -> &Dataset {
        match (sample, &self.halves) {
            (Sample::Half(k), Some(halves)) => &halves[k],
            _ => self.fit_data(),
        }
    }

    /// Divides the examples that the curvature is taken on into two halves.
    ///
    /// # Errors
    /// If there is one example alone.
    pub(in crate::job) fn take_halves(&mut self) -> Result<(), JobError> {
        let data = self.fit_data();
        if data.len() < 2 {
            return Err(JobError::Options {
                problem: "<intervals = all> takes curvatures on halves of the training examples, and there is one"
                    .into(),
                hint: Some("write <intervals = damping>, or leave it out".into()),
            });
        }
        self.halves = Some([0, 1].map(|first| data.every_other(first)));
        Ok(())
    }

    /// The examples whose Gauss-Newton matrix joint solves multiply with.
    pub(in crate::job) fn solve_data(&self) -> &Dataset {
        self.solve_sample.as_ref().unwrap_or_else(|| self.all())
    }

    /// Takes the matrix of joint systems on as many examples as are asked for (`auto` is so many at most), the same for all
    /// queries, draws and products, and returns what a person should know of it.
    ///
    /// # Errors
    /// If more are asked for than there are.
    pub(in crate::job) fn take_solve_sample(
        &mut self,
        request: FitExamples,
        auto: usize,
    ) -> Result<Option<String>, JobError> {
        let n = self.train.len();
        let count = match request {
            FitExamples::Auto => n.min(auto),
            FitExamples::All | FitExamples::Count(_) | FitExamples::Share(_) => request.count(n, 0, 0),
        };
        if count > n {
            return Err(JobError::Options {
                problem: format!("joint systems are to be taken on {count} examples, and there are {n}").into(),
                hint: Some(format!("`--solve-examples` of at most {n}, or leave it out to take all").into()),
            });
        }
        if count == n {
            return Ok(None);
        }
        self.solve_sample = Some(self.train.sample(count));
        Ok(Some(format!("joint systems are taken on {count} of {n} examples")))
    }

    /// Takes the curvature on as many examples as are asked for, `widest` being the rows of the widest covariance, and
    /// returns what a person should know of it.
    ///
    /// # Errors
    /// If more are asked for than there are.
    pub(in crate::job) fn take_sample(
        &mut self,
        request: FitExamples,
        widest: usize,
    ) -> Result<Option<String>, JobError> {
        let n = self.train.len();
        let positions = |data: &Dataset| (0..data.len()).map(|m| data.positions(m)).sum::<usize>();
        let all = positions(&self.train);
        let count = request.count(n, all, widest);
        if count > n {
            return Err(JobError::Options {
                problem: format!("the curvature is to be taken on {count} examples, and there are {n}").into(),
                hint: Some(format!("`--fit-examples` of at most {n}, or leave it out to take all").into()),
            });
        }
        let why = match request {
            FitExamples::Auto => format!(
                " (`--fit-examples auto`: {POSITIONS_PER_ROW} positions for each of the {widest} rows of the widest covariance)"
            ),
            _ => String::new(),
        };
        if count == n {
            return Ok(
                (request == FitExamples::Auto).then(|| format!("the curvature is taken on all {n} examples{why}"))
            );
        }
        let sample = self.train.sample(count);
        let share = 100.0 * positions(&sample) as f64 / all.max(1) as f64;
        self.sample = Some(sample);
        Ok(Some(format!("the curvature is taken on {count} of {n} examples, {share:.3} % of the positions{why}")))
    }
}
