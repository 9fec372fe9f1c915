//! `ascribe plan`: what a job will cost, before any of it is done.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::session::Session;
use crate::options::JobOptions;
use crate::show;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::terminal;

/// What a job will cost: operations, memory, disk and time of each stage, before any of it is done
///
/// Takes the flags of `influence` or of `source` (with `--run` or `--trajectory`), or a job file. Inputs are read and
/// checked and the machine is measured for about three seconds with the job's own code; nothing is written to the run
/// folder. Without `--queries` it is the cost of `fit`.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Plan {
    /// The job, as every run folder holds one, instead of flags alone
    #[arg(value_name = "JOB.toml")]
    job: Option<PathBuf>,
    #[command(flatten)]
    pub(super) options: JobOptions,
    /// How the plan is printed on stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: PlanFormat,
    /// Leave the time out: nothing is measured
    #[arg(long, help_heading = "Output")]
    no_calibration: bool,
}

/// How a plan is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum PlanFormat {
    /// For reading
    #[default]
    Table,
    /// One object
    Json,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe plan --model my-gpt2 --train train.jsonl --queries queries.jsonl --out run
  ascribe plan --run trainer-output --train train.jsonl --queries queries.jsonl --out run
  ascribe plan run/job.toml --memory 4GiB --disk 20GiB"
);

impl Plan {
    /// Whether flags alone say what the job is.
    pub(super) fn is_of_flags(&self) -> bool {
        self.job.is_none()
    }

    pub(super) fn run(self) -> anyhow::Result<Status> {
        const WHAT: &str = "the plan";
        let job = match &self.job {
            Some(file) => self.options.job_of_file(file)?,
            None => self.options.job_of_flags()?,
        };
        let start = Instant::now();
        let plan = Session::resolve(job, self.options.talk)?.plan;
        let inputs = start.elapsed().as_secs_f64();
        let cost = plan.cost()?;
        let machine = if self.no_calibration { None } else { Some(plan.calibrate(&cost)?) };
        let seconds = machine.as_ref().map(|machine| cost.seconds(machine));
        match self.format {
            PlanFormat::Table => {
                let timed = seconds.as_ref().zip(machine.as_ref());
                let text = show::plan(&plan, self.options.talk.verbose) + &show::cost(&cost, &plan.job, inputs, timed);
                terminal::print(&text, WHAT)?;
            }
            PlanFormat::Json => {
                let total = seconds.as_ref().map(|seconds| inputs + seconds.total());
                let all = json!({
                    "job": plan.job.as_asked(), "summary": plan.summary(), "cost": cost, "calibration": machine,
                    "seconds": seconds, "inputs_seconds": inputs, "total_seconds": total,
                });
                terminal::print_json(&format!("{}\n", serde_json::to_string_pretty(&all)?), WHAT)?;
            }
        }
        Ok(Status::Done)
    }
}
