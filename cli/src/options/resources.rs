//! Flags about what a run may use: memory, disk, threads, device.

use ascribe::job::{DeviceRequest, Job};
use clap::Args;

use super::values;

/// What the run may use.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Resources")]
pub(crate) struct ResourceOptions {
    /// Threads [default: as many as this process may use]
    ///
    /// Results are the same for any number.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Memory to stay within: `8GiB`, `512MiB` or a number of bytes [default: 80 % of the machine's]
    ///
    /// Where it is short, activations are computed twice, weights are read block by block, layers are fitted a few at
    /// a time, and batches become smaller.
    #[arg(long, value_name = "SIZE", value_parser = values::memory)]
    memory: Option<u64>,
    /// Disk that the run folder may take: `20GiB`, `512MiB` or a number of bytes
    ///
    /// A job that needs more is refused before any work.
    #[arg(long, value_name = "SIZE", value_parser = values::memory)]
    disk: Option<u64>,
    /// Positions that go through the model together [default: 2048]
    ///
    /// 4096 rows for an MLP; less if --memory asks for it.
    #[arg(long, value_name = "TOKENS")]
    batch_tokens: Option<usize>,
    /// Where the network runs: `cpu`, `cuda` or `cuda:1` [default: cpu]
    ///
    /// A GPU needs a build with `--features cuda`. Curvature and scores are computed on the CPU.
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceRequest>,
}

impl ResourceOptions {
    /// Lays the flags that were given on top of a job.
    pub(crate) fn apply(&self, job: &mut Job) {
        let resources = &mut job.resources;
        resources.threads = self.threads.or(resources.threads);
        resources.memory = self.memory.or(resources.memory);
        resources.disk = self.disk.or(resources.disk);
        resources.batch_tokens = self.batch_tokens.or(resources.batch_tokens);
        resources.device = self.device.unwrap_or(resources.device);
    }
}
