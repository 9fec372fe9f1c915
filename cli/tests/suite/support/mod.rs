//! The command as tests run it: on copies or in place of the fixtures, with filters for what varies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use ascribe::attribution::evaluate::spearman;
use ascribe::attribution::store::TensorFile;
use assert_cmd::Command;
use serde_json::Value;

/// The workspace's folder, in which the command runs: paths in messages are relative to it.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("`cli` lies in the workspace").to_owned()
}

/// `ascribe` with these arguments, separated by blanks.
pub fn ascribe(arguments: &str) -> Command {
    let mut command = Command::cargo_bin("ascribe").expect("the binary is built for its tests");
    command.current_dir(root()).args(arguments.split_whitespace()).env_remove("COLUMNS").env("NO_COLOR", "1");
    command
}

/// What a command wrote and how it ended.
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs to the end.
pub fn ended(mut command: Command) -> Ended {
    let Output { status, stdout, stderr } = command.output().expect("the command runs");
    let text = |bytes| String::from_utf8(bytes).expect("output is text");
    Ended { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// Runs to the end, which must be a good one.
#[track_caller]
pub fn done(arguments: &str) -> Ended {
    let ended = ended(ascribe(arguments));
    assert_eq!(ended.code, Some(0), "{arguments}\n{}{}", ended.out, ended.err);
    ended
}

/// An empty folder for a run, and its path as an argument.
pub struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file and gives its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        fs::write(&path, content).expect("writable");
        path.display().to_string()
    }

    /// A copy of a folder of the fixtures, and its path.
    pub fn copy_of(&self, fixture: &str) -> String {
        copy(&root().join("fixtures").join(fixture), &self.path(fixture));
        self.arg(fixture)
    }

    /// The text with this folder's name, times, keys, process ids and versions made the same everywhere.
    pub fn filtered(&self, text: &str) -> String {
        let text = text.replace(&self.folder.path().display().to_string(), "TMP");
        filtered(&text)
    }

    /// Every file below, with its content.
    pub fn files(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let mut files = vec![];
        let mut folders = vec![self.path(name)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry.expect("readable").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push((path.display().to_string(), fs::read(&path).expect("readable"))),
                }
            }
        }
        files.sort();
        files
    }
}

/// A folder and all that is below it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("the fixture exists") {
        let entry = entry.expect("readable");
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).expect("writable")),
        }
    }
}

/// Times, keys and process ids, made the same everywhere.
pub fn filtered(text: &str) -> String {
    let text = with_digits_replaced(text, "(pid ", ")", "PID");
    let words = text.split_inclusive([' ', '\n', '`', '-', '.', ',', ':']).map(|piece| {
        let word = piece.trim_end_matches([' ', '\n', '`', '-', '.', ',', ':']);
        let is_key = matches!(word.len(), 16 | 64) && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_key { piece.replace(word, "KEY") } else { piece.to_owned() }
    });
    words.collect()
}

fn with_digits_replaced(text: &str, before: &str, after: &str, by: &str) -> String {
    let Some((head, rest)) = text.split_once(before) else { return text.to_owned() };
    let Some((digits, tail)) = rest.split_once(after) else { return text.to_owned() };
    match digits.bytes().all(|b| b.is_ascii_digit()) {
        true => format!("{head}{before}{by}{after}{}", with_digits_replaced(tail, before, after, by)),
        false => format!("{head}{before}{}", with_digits_replaced(rest, before, after, by)),
    }
}

/// The tensors of a safetensors file, without its header (which also holds what was said about the plan).
pub fn tensors(file: &Path) -> Vec<u8> {
    let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    bytes[8 + header..].to_vec()
}

/// JSON lines.
pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The flags of a run on the small language model, without its run folder.
pub const GPT2: &str = "--model fixtures/gpt2-tiny --train fixtures/gpt2-tiny/train.jsonl --queries fixtures/gpt2-tiny/queries.jsonl --add-eos train";

/// The flags of a run on the small classifier, without its run folder.
pub const MLP: &str = "--model fixtures/mlp-tiny --train fixtures/mlp-tiny/train.safetensors --queries fixtures/mlp-tiny/query.safetensors";

/// The flags of Source over the Trainer's run, without its run folder.
pub const TRAINER: &str = "--run fixtures/trainer-tiny --train fixtures/trainer-tiny/train.jsonl --queries fixtures/trainer-tiny/queries.jsonl --add-eos train";

/// The data of the small classifier, whose training run is `fixtures/mlp-trajectory`.
pub const ROWS: &str = "--train fixtures/mlp-tiny/train.safetensors --queries fixtures/mlp-tiny/query.safetensors";

/// Every file is written as it was.
#[track_caller]
pub fn assert_untouched(before: &[(String, Vec<u8>)], after: &[(String, Vec<u8>)]) {
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(before), names(after));
    for ((name, before), (_, after)) in before.iter().zip(after) {
        assert!(before == after, "{name} was written over");
    }
}

/// The score matrix in a file of scores, row by row.
#[track_caller]
pub fn scores(file: &Path) -> Vec<f32> {
    TensorFile::open(file).expect("scores").f32("scores").expect("f32").to_vec()
}

/// The score matrix of a run's first answer.
#[track_caller]
pub fn scores_of(folder: &Folder, run: &str) -> Vec<f32> {
    scores(&folder.path(run).join("scores.safetensors"))
}

/// Every query's rank correlation between two runs.
#[track_caller]
pub fn correlations(folder: &Folder, queries: usize, one: &str, other: &str) -> Vec<f64> {
    let [one, other] = [one, other].map(|run| scores_of(folder, run));
    let n = one.len() / queries;
    let wide = |row: &[f32]| row.iter().copied().map(f64::from).collect::<Vec<f64>>();
    one.chunks_exact(n).zip(other.chunks_exact(n)).map(|(one, other)| spearman(&wide(one), &wide(other))).collect()
}

/// No number of one list differs from the other's by more than this share of the largest there.
#[track_caller]
pub fn assert_near(found: &[f32], want: &[f32], tolerance: f64, what: &str) {
    let largest = want.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    assert!(found.len() == want.len() && largest > 0.0, "{what}");
    for (found, want) in found.iter().zip(want) {
        assert!(f64::from((found - want).abs()) <= tolerance * f64::from(largest), "{what}: {found} {want}");
    }
}
