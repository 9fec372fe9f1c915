//! What is said on stderr while the library works: bars, lines, JSON lines or nothing.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ascribe::attribution::{Event, Observer, Pass};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::options::{ProgressMode, TalkOptions};
use crate::terminal::{say as write_line, say_json};
use crate::words;

/// At most so often a JSON line says that a pass has advanced.
const JSON_INTERVAL: Duration = Duration::from_millis(200);
/// At most so often a plain line says so.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// Receives the library's events, and knows whether somebody asked to stop.
#[derive(Debug)]
pub(crate) struct Progress {
    form: Form,
    verbose: bool,
    interrupted: AtomicBool,
    current: Mutex<Option<Running>>,
    /// Which of how many checkpoints the next pass is at.
    checkpoint: Mutex<Option<(u64, u64)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Silent,
    Bars,
    Lines,
    Json,
}

/// The pass that is going on.
#[derive(Debug)]
struct Running {
    pass: Pass,
    /// Its name, and which checkpoint it is at.
    name: String,
    checkpoint: Option<(u64, u64)>,
    started: Instant,
    last_line: Option<Instant>,
    /// Units found finished at the start.
    before: u64,
    done: u64,
    total: u64,
    bar: Option<ProgressBar>,
}

impl Running {
    /// Seconds that the rest will take at the rate of this process; none before anything is done.
    fn remaining(&self) -> Option<f64> {
        let here = self.done.checked_sub(self.before).filter(|&here| here > 0)?;
        Some(self.started.elapsed().as_secs_f64() / here as f64 * self.total.saturating_sub(self.done) as f64)
    }

    fn is_due(&mut self, interval: Duration) -> bool {
        let due = self.last_line.is_none_or(|last| last.elapsed() >= interval) || self.done >= self.total;
        if due {
            self.last_line = Some(Instant::now());
        }
        due
    }
}

impl Progress {
    /// Progress as the flags ask for it.
    pub(crate) fn new(talk: TalkOptions) -> Self {
        let form = match talk.progress {
            ProgressMode::Json => Form::Json,
            _ if talk.quiet => Form::Silent,
            ProgressMode::Never => Form::Silent,
            ProgressMode::Auto if io::stderr().is_terminal() => Form::Bars,
            ProgressMode::Auto => Form::Silent,
            ProgressMode::Always if io::stderr().is_terminal() => Form::Bars,
            ProgressMode::Always => Form::Lines,
        };
        Self {
            form,
            verbose: talk.verbose,
            interrupted: AtomicBool::new(false),
            current: Mutex::new(None),
            checkpoint: Mutex::new(None),
        }
    }

    /// From now on the work should stop where it can be taken up again.
    pub(crate) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
    }

    /// A line for whoever watches, beside the bars.
    pub(crate) fn say(&self, text: &str) {
        match self.form {
            Form::Json => say_json(&json!({"event": "message", "text": text})),
            _ => match self.lock().as_ref().and_then(|running| running.bar.clone()) {
                Some(bar) => bar.suspend(|| write_line(text)),
                None => write_line(text),
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        // What it guards is only for the eye.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, pass: Pass, done: u64, total: u64) {
        let checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        let name = match checkpoint {
            Some((number, count)) => format!("{} {number}/{count}", pass.name()),
            None => pass.name().to_owned(),
        };
        let bar = (self.form == Form::Bars).then(|| bar(&name, pass.unit(), done, total));
        let running = Running {
            pass,
            name,
            checkpoint,
            started: Instant::now(),
            last_line: None,
            before: done,
            done,
            total,
            bar,
        };
        self.json("started", &running);
        *self.lock() = Some(running);
    }

    fn advance(&self, pass: Pass, units: u64) {
        let mut current = self.lock();
        let Some(running) = current.as_mut().filter(|running| running.pass == pass) else { return };
        running.done += units;
        match self.form {
            Form::Bars => {
                if let Some(bar) = &running.bar {
                    bar.set_position(running.done);
                }
            }
            Form::Json if running.is_due(JSON_INTERVAL) => self.json("advanced", running),
            Form::Lines if running.is_due(LINE_INTERVAL) && running.done < running.total => {
                let left = running.remaining().map(|s| format!(", {} left", words::duration(s))).unwrap_or_default();
                let (done, total) = (words::count(running.done), words::count(running.total));
                write_line(&format!("{:<18} {done} of {total} {}{left}", running.name, pass.unit()));
            }
            _ => {}
        }
    }

    fn finish(&self, pass: Pass) {
        let Some(running) = self.lock().take_if(|running| running.pass == pass) else { return };
        self.json("finished", &running);
        if let Some(bar) = &running.bar {
            bar.finish_and_clear();
        }
        let shown = matches!(self.form, Form::Bars | Form::Lines) || (self.verbose && self.form == Form::Silent);
        if shown {
            let seconds = running.started.elapsed().as_secs_f64();
            let done = words::counted(running.done - running.before.min(running.done), pass.unit());
            let earlier = match running.before {
                0 => String::new(),
                n => format!(", {} from before", words::count(n)),
            };
            write_line(&format!("{:<18} {done}{earlier} in {}", running.name, words::duration(seconds)));
        }
    }

    fn reused(&self, pass: Pass) {
        match self.form {
            Form::Json => say_json(&json!({"event": "reused", "pass": pass.name()})),
            Form::Bars | Form::Lines => write_line(&format!("{:<18} found from before", pass.name())),
            Form::Silent if self.verbose => write_line(&format!("{:<18} found from before", pass.name())),
            Form::Silent => {}
        }
    }

    fn json(&self, event: &str, running: &Running) {
        if self.form == Form::Json {
            let line = json!({
                "event": event,
                "pass": running.pass.name(),
                "checkpoint": running.checkpoint.map(|(number, _)| number),
                "checkpoints": running.checkpoint.map(|(_, count)| count),
                "unit": running.pass.unit(),
                "done": running.done,
                "total": running.total,
                "eta_seconds": running.remaining(),
            });
            say_json(&line);
        }
    }
}

impl Observer for Progress {
    fn event(&self, event: Event) {
        match event {
            Event::Checkpoint { number, count } => {
                *self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, count));
            }
            Event::Started { pass, done, total } => self.start(pass, done, total),
            Event::Advanced { pass, units } => self.advance(pass, units),
            Event::Finished { pass } => self.finish(pass),
            Event::Reused { pass } => self.reused(pass),
            _ => {}
        }
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }
}

fn bar(name: &str, unit: &str, done: u64, total: u64) -> ProgressBar {
    let template = format!("{name:<18} {{bar:30}} {{human_pos}}/{{human_len}} {unit}  {{per_sec}}  {{eta}} left");
    let style = ProgressStyle::with_template(&template).expect("the template is a constant with two names in it");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8)).with_style(style);
    bar.set_position(done);
    // what was there before says nothing about the rate
    bar.reset_eta();
    bar.tick();
    bar
}
