//! What is fetched from the hub, as stderr says it.

use std::time::{Duration, Instant};

use ascribe::hub::{Event, Settings};
use ascribe::job::{Job, JobError};
use serde_json::json;

use crate::options::{ProgressMode, TalkOptions};
use crate::terminal::{say, say_json};
use crate::words;

/// At most so often it is said how far a download is.
const INTERVAL: Duration = Duration::from_secs(5);

/// Puts files of the hub's cache in the place of its names in a job, and says on stderr what is fetched.
///
/// # Errors
/// If a name cannot be had.
pub(crate) fn fetch(job: &mut Job, talk: TalkOptions) -> anyhow::Result<()> {
    if !job.names_the_hub() {
        return Ok(());
    }
    let mut last = Instant::now();
    let mut tell = |event: &Event<'_>| match *event {
        Event::Found { name, commit, files, bytes, missing } => match talk.progress {
            ProgressMode::Json => {
                say_json(
                    &json!({"event": "hub", "name": name, "commit": commit, "files": files, "bytes": bytes, "missing": missing}),
                );
            }
            _ if talk.quiet => {}
            _ => {
                let files = words::counted(files as u64, "files");
                let rest = match missing {
                    0 => "all in the cache".to_owned(),
                    n => format!("{} to download", words::bytes(n)),
                };
                say(&format!("{name} is commit {commit}: {files} with {}, {rest}", words::bytes(bytes)));
            }
        },
        Event::Advanced { file, done, size } => {
            if last.elapsed() < INTERVAL && done < size {
                return;
            }
            last = Instant::now();
            match talk.progress {
                ProgressMode::Json => {
                    say_json(&json!({"event": "download", "file": file, "done": done, "bytes": size}))
                }
                ProgressMode::Never => {}
                _ if talk.quiet => {}
                _ => say(&format!("  {file}: {} of {}", words::bytes(done), words::bytes(size))),
            }
        }
        _ => {}
    };
    Ok(job.fetch(&Settings::from_environment(), &mut tell).map_err(JobError::from)?)
}
