//! Ctrl-C: the first asks the work to stop where it can be taken up again, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::progress::Progress;
use crate::status::Status;

/// From now on the first Ctrl-C (or a scheduler's request to end) sets the flag that `progress` answers from.
///
/// # Errors
/// If the system refuses the handler.
pub(crate) fn listen(progress: &Arc<Progress>) -> anyhow::Result<()> {
    let progress = Arc::clone(progress);
    let asked = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(Status::Interrupted.code().into());
        }
        progress.interrupt();
        progress.say("stopping at the next safe point; run the same command again to go on (Ctrl-C again: stop now)");
    })?;
    Ok(())
}
