//! What every command on a run has in common: threads, the plan, progress, interruption, the last word.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use ascribe::job::{Job, JobError, OptionText, Plan, QueryRanking, Saturation, StepReport};
use serde_json::json;

use crate::allocator;
use crate::hub;
use crate::interrupt;
use crate::options::{ProgressMode, RankingFormat, TalkOptions};
use crate::progress::Progress;
use crate::report::{self, ReportFormat};
use crate::show;
use crate::terminal;

/// A plan, and somebody who watches it being done.
pub(super) struct Session {
    /// What will be done.
    pub(super) plan: Plan,
    /// Receives the events.
    pub(super) progress: Arc<Progress>,
    talk: TalkOptions,
}

impl Session {
    /// Sets the threads, reads and checks the inputs, and says on stderr what will be done.
    ///
    /// # Errors
    /// Whatever is wrong with the inputs, before any long work.
    pub(super) fn open(job: Job, talk: TalkOptions) -> anyhow::Result<Self> {
        let session = Self::resolve(job, talk)?;
        if talk.progress == ProgressMode::Json {
            terminal::say_json(&json!({"event": "plan", "summary": session.plan.summary()}));
        } else if !talk.quiet {
            terminal::say(&show::plan(&session.plan, talk.verbose));
        }
        interrupt::listen(&session.progress)?;
        session.tell_losses()?;
        Ok(session)
    }

    /// Opens the job as [`open`](Self::open) does, without writing to stderr.
    ///
    /// # Errors
    /// As there.
    pub(super) fn resolve(mut job: Job, talk: TalkOptions) -> anyhow::Result<Self> {
        if job.resources.memory.is_some() {
            allocator::give_back_at_once();
        }
        set_threads(job.resources.threads)?;
        hub::fetch(&mut job, talk)?;
        let plan = Plan::resolve(job)?;
        plan.check_weights()?;
        Ok(Self { plan, progress: Arc::new(Progress::new(talk)), talk })
    }

    /// Prints the plan on stdout: with `--dry-run` it is the result.
    ///
    /// # Errors
    /// If stdout cannot be written.
    pub(super) fn print_plan(&self, format: RankingFormat) -> anyhow::Result<()> {
        const WHAT: &str = "the plan";
        match format {
            RankingFormat::Jsonl => {
                let mut line = json!({"job": self.plan.job.as_asked(), "summary": self.plan.summary()});
                if let Some(check) = self.plan.loss_check(&*self.progress)? {
                    line["loss_check"] = json!(check);
                }
                terminal::print_json(&format!("{line}\n"), WHAT)
            }
            _ => {
                let check = self.plan.loss_check(&*self.progress)?;
                let text = show::plan(&self.plan, self.talk.verbose) + &check.map(show::losses).unwrap_or_default();
                terminal::print(&text, WHAT)
            }
        }
    }

    /// Says on stderr whether the loss of the training examples is the one that training logged.
    fn tell_losses(&self) -> anyhow::Result<()> {
        let Some(check) = self.plan.loss_check(&*self.progress)? else { return Ok(()) };
        if self.talk.progress == ProgressMode::Json {
            terminal::say_json(&json!({"event": "loss_check", "check": check}));
        } else if !self.talk.quiet {
            terminal::say(&show::losses(check));
        }
        Ok(())
    }

    /// Prints rankings on stdout, and on stderr where they lie.
    ///
    /// # Errors
    /// If stdout cannot be written.
    pub(super) fn print(&self, rankings: &[QueryRanking], format: RankingFormat) -> anyhow::Result<()> {
        show::rankings(rankings, &self.plan.job, format)?;
        self.say(&format!("results in {}", self.plan.job.output.path.display()));
        Ok(())
    }

    /// Writes the report of the finished run, into the run folder unless a file is given, and says on stderr where it is.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn report(&self, file: Option<PathBuf>) -> anyhow::Result<()> {
        let (folder, format) = (&self.plan.job.output.path, ReportFormat::Html);
        let file = file.unwrap_or_else(|| report::default_file(folder, format));
        report::write(&file, &report::of_run_folder(folder, format)?)?;
        self.say(&format!("report in {}", file.display()));
        Ok(())
    }

    /// Says on stderr what a step was and what comes next.
    pub(super) fn tell(&self, report: &StepReport) {
        if let Some(next) = &report.next {
            self.say(next);
        }
    }

    /// Says on stderr how the further methods, dampings and time scales rank beside the first.
    ///
    /// # Errors
    /// If their scores cannot be read.
    pub(super) fn tell_sensitivity(&self) -> anyhow::Result<()> {
        let found = self.plan.sensitivity()?;
        if let Some(first) = self.plan.summary().answers.first().filter(|_| !found.is_empty()) {
            self.say(&format!("rank correlation with {first} over the training examples, mean over queries:"));
            for other in found {
                self.say(&format!("  {:.3}  {}", other.rank_correlation, other.answer));
            }
        }
        Ok(())
    }

    /// Says on stderr how far each segment of a training run went, and what follows if none went far.
    ///
    /// # Errors
    /// If the run's record cannot be read.
    pub(super) fn tell_saturation(&self) -> anyhow::Result<()> {
        let found = Saturation::of_run_folder(&self.plan.job.output.path)?;
        if found.is_empty() {
            return Ok(());
        }
        let shares = found.iter().map(|segment| format!("{} {:.0} %", segment.segment, 100.0 * segment.forgotten));
        self.say(&format!(
            "of an older change, along the directions in which examples push, training forgot in {}",
            shares.collect::<Vec<_>>().join(", ")
        ));
        let far: Vec<&str> = found.iter().filter(|found| found.is_far()).map(|found| found.segment.as_str()).collect();
        if !far.is_empty() {
            self.say(&format!(
                "{}: far from saturation, where Source is close to a sum of gradient products and influence functions \
                 may rank better (look at both: --with influence, --time-scale)",
                far.join(", ")
            ));
        }
        Ok(())
    }

    fn say(&self, text: &str) {
        if !self.talk.quiet {
            self.progress.say(text);
        }
    }
}

fn options(problem: OptionText, hint: &'static str) -> anyhow::Error {
    JobError::Options { problem, hint: Some(hint.into()) }.into()
}

/// Each takes memory of its own, and no machine that this was made for has more.
const MOST_THREADS: usize = 1024;

/// One pool of threads for everything, set before anything uses it.
pub(super) fn set_threads(threads: Option<usize>) -> anyhow::Result<()> {
    if threads == Some(0) {
        return Err(options("<threads> is 0".into(), "leave it out, or give at least 1"));
    }
    if let Some(threads) = threads.filter(|&threads| threads > MOST_THREADS) {
        let hint = "leave it out to use as many as this process may; results are the same for any number";
        let problem = OptionText::new("<threads> is {}, at most {} are started", &[&threads, &MOST_THREADS]);
        return Err(options(problem, hint));
    }
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(available));
    pool.build_global().context("the threads cannot be started")
}
