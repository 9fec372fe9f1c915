//! Ctrl-C, and a scheduler's request to end: the first asks the work to stop where it can be taken up again,
//! the second ends the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::progress::Progress;
use crate::status::Status;

/// How soon the request is answered with a word.
const POLL: Duration = Duration::from_millis(100);

/// From now on the first signal sets what `progress` answers to the library, and is answered on stderr.
/// (Not SIGHUP: whoever starts a job with `nohup` wants it ignored.)
///
/// # Errors
/// If the system refuses.
pub(crate) fn listen(progress: &Arc<Progress>) -> io::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal must not yet find the flag set.
        flag::register_conditional_shutdown(signal, Status::Interrupted.code().into(), Arc::clone(&asked))?;
        flag::register(signal, Arc::clone(&asked))?;
    }
    let progress = Arc::clone(progress);
    // A signal's handler may do next to nothing, so a thread looks after the flag; it ends with the process.
    thread::Builder::new().name("interrupt".into()).spawn(move || {
        while !asked.load(Ordering::SeqCst) {
            thread::sleep(POLL);
        }
        progress.interrupt();
        progress.say("stopping at the next safe point; run the same command again to go on (Ctrl-C again: stop now)");
    })?;
    Ok(())
}
