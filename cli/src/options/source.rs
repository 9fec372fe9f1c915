//! Where a job comes from: flags alone, a job file, or a run folder, with flags on top.

use std::path::Path;

use ascribe::job::Job;
use clap::Args;

use super::data::DataOptions;
use super::method::MethodOptions;
use super::model::ModelOptions;
use super::output::OutputOptions;
use super::resources::ResourceOptions;
use super::talk::TalkOptions;
use super::training::TrainingOptions;
use crate::failure::Problem;

/// The job that a run folder repeats.
const JOB_FILE: &str = "job.toml";

/// All flags that describe a job.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct JobOptions {
    #[command(flatten)]
    pub(crate) model: ModelOptions,
    #[command(flatten)]
    pub(crate) data: DataOptions,
    #[command(flatten)]
    pub(crate) method: MethodOptions,
    #[command(flatten)]
    pub(crate) training: TrainingOptions,
    #[command(flatten)]
    pub(crate) resources: ResourceOptions,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
    #[command(flatten)]
    pub(crate) talk: TalkOptions,
}

impl JobOptions {
    /// The job that the flags alone describe.
    ///
    /// # Errors
    /// If `--model`, `--train` or `--out` is not among them.
    pub(crate) fn job_of_flags(&self) -> anyhow::Result<Job> {
        self.output.check()?;
        let run = self.training.names_a_run();
        let required = [
            ("--model", !self.model.model.is_empty() || run),
            ("--train", self.data.train.is_some() || run),
            ("--out", self.output.out.is_some()),
        ];
        let missing: Vec<_> =
            required.iter().filter(|(_, given)| !given).map(|(name, _)| format!("`{name}`")).collect();
        if !missing.is_empty() {
            let hint = "give them, or the `--out` of a run folder that has a `job.toml`";
            return Err(Problem::hinted(format!("{} not given", missing.join(" and ")), hint));
        }
        self.checked(Job::new("", "", ""))
    }

    /// The job that the run folder `--out` holds with these flags on top, or the flags' own if there is no
    /// such folder yet.
    ///
    /// # Errors
    /// If the folder's job cannot be read, or there is none and the flags alone do not make one.
    pub(crate) fn job_of_run_folder(&self) -> anyhow::Result<Job> {
        match &self.output.out {
            Some(out) if ascribe::presence::is_file(&out.join(JOB_FILE)) => self.job_of_file(&out.join(JOB_FILE)),
            Some(out) if !self.training.names_a_run() && (self.model.model.is_empty() || self.data.train.is_none()) => {
                Err(Problem::hinted(
                    format!("{}: no `{JOB_FILE}` there", out.display()),
                    "give `--model` and `--train`, or the folder of an earlier run as `--out`",
                ))
            }
            _ => self.job_of_flags(),
        }
    }

    /// The job of a file with these flags on top.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn job_of_file(&self, file: &Path) -> anyhow::Result<Job> {
        self.output.check()?;
        self.checked(Job::read(file)?)
    }

    /// These flags on top of a job, as far as they can be told about it.
    fn checked(&self, job: Job) -> anyhow::Result<Job> {
        let job = self.over(job);
        self.training.check(&job)?;
        Ok(job)
    }

    /// These flags on top of a job.
    fn over(&self, mut job: Job) -> Job {
        self.model.apply(&mut job);
        self.data.apply(&mut job);
        self.method.apply(&mut job);
        self.training.apply(&mut job);
        self.resources.apply(&mut job);
        self.output.apply(&mut job);
        job
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: JobOptions,
    }

    fn options(flags: &str) -> JobOptions {
        Line::try_parse_from(std::iter::once("test").chain(flags.split_whitespace())).expect("flags").options
    }

    #[test]
    fn every_flag_reaches_the_job() {
        let flags = "--model m --layers *.mlp.* --layers h.0.* --skip-layers *.c_attn --dtype f64 --train t --queries q \
            --tokenizer k --max-length 9 --pack 8:100 --special-tokens none --id-field line --add-bos both --add-eos train --train-size 7 --curvature kfac \
            --fisher empirical --label-draws 3 --damping 0.5x --kfac-scale per-position --seed 5 --measure logprob \
            --reduction mean --aggregate sum --query-weights weight --normalize cosine --checkpoint-scores spread --self-influence --threads 2 --memory 1GiB --disk 2GiB \
            --batch-tokens 11 --out r --top 4 --store-scores top --csv --score-scale kronfluence \
            --layer-set early=h.0.*,h.1.*";
        let job = options(flags).job_of_flags().expect("model, train and out are there");
        // every key of the file in another than its default state
        let text = toml::to_string(&job).expect("a job is TOML");
        let plain =
            toml::to_string(&options("--model m --train t --out r").job_of_flags().expect("enough")).expect("TOML");
        for line in ["path = \"m\"", "train = \"t\"", "path = \"r\""] {
            assert!(text.contains(line) && plain.contains(line), "{text}");
        }
        let same: Vec<_> =
            text.lines().filter(|line| line.contains('=') && plain.lines().any(|l| l == *line)).collect();
        assert_eq!(same, ["path = \"m\"", "train = \"t\"", "path = \"r\""], "{text}");
    }

    #[test]
    fn flags_that_were_not_given_change_nothing() {
        let given =
            options("--model m --train t --out r --curvature kfac --seed 3 --csv --add-eos both --damping 1e-8");
        let job = given.job_of_flags().expect("enough");
        assert_eq!(options("").over(job.clone()), job);
        let other = options("--seed 4").over(job.clone());
        assert_eq!((other.method.seed, other.method.curvature), (4, job.method.curvature));
    }

    #[test]
    fn another_training_file_has_another_size() {
        let mut job = options("--model m --train t --out r").job_of_flags().expect("enough");
        job.data.train_size = Some(160);
        assert_eq!(options("--train t").over(job.clone()).data.train_size, Some(160));
        assert_eq!(options("--train u").over(job.clone()).data.train_size, None);
        assert_eq!(options("--train u --train-size 5").over(job).data.train_size, Some(5));
    }
}
