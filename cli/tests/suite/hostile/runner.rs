//! Runs cases two at a time and looks at how they end.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Folder, root};

/// Longest that a case may take.
const SECONDS: u64 = 20;
/// Most memory that it may have resident, in KiB.
const MEMORY: u64 = 2 << 20;

/// What a case has to end in.
#[derive(Clone)]
pub enum Outcome {
    /// Exit code 2, and an error that holds each of these.
    Refused(Vec<String>),
    /// Exit code 0, with each of these on stdout or stderr.
    Done(Vec<String>),
}

/// Makes a case's files in a folder, and the arguments of the command.
type Make = Box<dyn Fn(&Folder) -> Vec<String> + Send + Sync>;

/// An input, and the right outcome.
pub struct Case {
    pub name: String,
    /// Makes the files and gives the arguments; `RUN` among them is the run folder of the case.
    make: Make,
    outcome: Outcome,
    /// What it waits for, if its right outcome is not reached yet.
    pub open: Option<&'static str>,
    /// Whether its run folder was there before.
    has_run: bool,
}

impl Case {
    /// A case that is refused, with an error that holds `named`.
    pub fn refused(
        name: impl Into<String>,
        named: &str,
        make: impl Fn(&Folder) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        let outcome = Outcome::Refused(vec![named.to_owned()]);
        Self { name: name.into(), make: Box::new(make), outcome, open: None, has_run: false }
    }

    /// A case that is done, and says `said`.
    pub fn done(
        name: impl Into<String>,
        said: &str,
        make: impl Fn(&Folder) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        let outcome = Outcome::Done(vec![said.to_owned()]);
        Self { name: name.into(), make: Box::new(make), outcome, open: None, has_run: false }
    }

    /// The error, or what is said, also holds this.
    pub fn and(mut self, more: &str) -> Self {
        match &mut self.outcome {
            Outcome::Refused(named) | Outcome::Done(named) => named.push(more.to_owned()),
        }
        self
    }

    /// The right outcome is not reached yet.
    pub fn open(mut self, waits_for: &'static str) -> Self {
        self.open = Some(waits_for);
        self
    }

    /// The case makes its run folder itself.
    pub fn in_run_folder(mut self) -> Self {
        self.has_run = true;
        self
    }
}

/// Arguments, separated by blanks.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Runs all cases and gives a line for each that ends in another way than it should.
pub fn run_all(mut cases: Vec<Case>) -> Vec<String> {
    if let Ok(word) = std::env::var("HOSTILE") {
        cases.retain(|case| case.name.contains(&word));
    }
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if let Err(problem) = run(case) {
                        wrong.lock().expect("no panic").push(format!("{}: {problem}", case.name));
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().expect("no panic");
    wrong.sort();
    wrong
}

fn run(case: &Case) -> Result<(), String> {
    let folder = Folder::new();
    let run = folder.arg("run");
    let arguments: Vec<String> = (case.make)(&folder).into_iter().map(|word| word.replace("RUN", &run)).collect();
    let before = files(folder.path("."));
    let out = folder.path("stdout.captured");
    let err = folder.path("stderr.captured");
    let file = |path: &PathBuf| Stdio::from(std::fs::File::create(path).expect("writable"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_ascribe"));
    command.current_dir(root()).args(&arguments).env("NO_COLOR", "1").env_remove("COLUMNS");
    command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
    let start = Instant::now();
    let mut child = command.spawn().map_err(|error| format!("cannot be started: {error}"))?;
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        peak = peak.max(resident(child.id()));
        let too_long = start.elapsed() > Duration::from_secs(SECONDS);
        if too_long || peak > MEMORY {
            child.kill().expect("a child");
            child.wait().expect("a child");
            return Err(format!(
                "{} after {:?} with {} MiB",
                if too_long { "too long" } else { "too large" },
                start.elapsed(),
                peak >> 10
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let read = |path: &PathBuf| String::from_utf8_lossy(&std::fs::read(path).expect("readable")).into_owned();
    let (out, err) = (read(&out), read(&err));
    let quoted = |text: &str| format!("{:?}", text.chars().take(600).collect::<String>());
    if let Some(c) = [&out, &err].into_iter().flat_map(|text| text.chars()).find(|&c| c != '\n' && steers(c)) {
        return Err(format!("{c:?} is shown: {} {}", quoted(&out), quoted(&err)));
    }
    let errors = err.lines().filter(|line| line.starts_with("error:")).count();
    match &case.outcome {
        Outcome::Refused(named) => {
            if status.code() != Some(2) || errors != 1 {
                return Err(format!("ends with {status} and {errors} errors: {} {}", quoted(&out), quoted(&err)));
            }
            if let Some(missing) = named.iter().find(|named| !err.contains(named.as_str())) {
                return Err(format!("does not name `{missing}`: {}", quoted(&err)));
            }
            if err.len() > 4096 {
                return Err(format!("an error of {} bytes: {}", err.len(), quoted(&err)));
            }
            if !case.has_run && folder.path("run").exists() {
                return Err("leaves a run folder".to_owned());
            }
        }
        Outcome::Done(said) => {
            if status.code() != Some(0) || errors != 0 {
                return Err(format!("ends with {status}: {}", quoted(&err)));
            }
            if let Some(missing) = said.iter().find(|said| !out.contains(said.as_str()) && !err.contains(said.as_str()))
            {
                return Err(format!("does not say `{missing}`: {} {}", quoted(&out), quoted(&err)));
            }
        }
    }
    let new: Vec<String> = files(folder.path(".")).into_iter().filter(|file| !before.contains(file)).collect();
    match new.iter().find(|file| file.contains(".ascribe-tmp")) {
        Some(file) => Err(format!("leaves {file}")),
        None => Ok(()),
    }
}

/// Whether a character does something else than to be seen. Said again here, so that the program's list is checked.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// The most memory that a process has had resident, in KiB; 0 where the system does not say.
fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}

/// Every file below a folder; links are not followed.
fn files(folder: PathBuf) -> Vec<String> {
    let (mut found, mut folders) = (vec![], vec![folder]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => folders.push(entry.path()),
                false => found.push(entry.path().display().to_string()),
            }
        }
    }
    found
}
