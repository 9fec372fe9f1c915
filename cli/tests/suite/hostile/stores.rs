//! Broken run folders: links, foreign files, artifacts and results with a flipped bit.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::hostile::runner::{Case, words};
use crate::support::{Folder, MLP, done};

/// A run folder of the small classifier, made once.
fn finished() -> &'static Path {
    static RUN: OnceLock<(Folder, PathBuf)> = OnceLock::new();
    let (_, run) = RUN.get_or_init(|| {
        let folder = Folder::new();
        done(&format!("influence {MLP} --quiet --out {}", folder.arg("run")));
        let run = folder.path("run");
        (folder, run)
    });
    run
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("a run folder") {
        let entry = entry.expect("readable");
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).expect("writable")),
        }
    }
}

/// The artifact of a kind in a run folder.
fn artifact(run: &Path, kind: &str) -> PathBuf {
    let mut files =
        fs::read_dir(run.join("artifacts")).expect("artifacts").map(|entry| entry.expect("readable").path());
    let of_kind = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(kind));
    files.find(of_kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// Flips a bit: of the header with a place counted from the front, of the tensors counted from the back.
fn flip(file: &Path, from_back: bool, at: usize) {
    let mut bytes = fs::read(file).expect("readable");
    let at = if from_back { bytes.len() - 1 - at } else { at };
    bytes[at] ^= 4;
    fs::write(file, bytes).expect("writable");
}

/// A command on a copy of the finished run folder with a change.
fn run(name: &str, named: &str, command: &'static str, change: impl Fn(&Path) + Send + Sync + 'static) -> Case {
    Case::refused(format!("run folder: {name}"), named, move |folder| {
        copy(finished(), &folder.path("run"));
        change(&folder.path("run"));
        words(&command.replace("MLP", MLP))
    })
    .in_run_folder()
}

const AGAIN: &str = "influence MLP --quiet --out RUN";
const RANK: &str = "rank --out RUN --quiet";

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        #[cfg(unix)]
        run("a report of records that are a circle of links", "run.json", "report RUN", |run| {
            fs::remove_file(run.join("run.json")).expect("there");
            std::os::unix::fs::symlink("run.json", run.join("run.json")).expect("a link");
        }),
        #[cfg(unix)]
        run("a report of a ranking without an end", "ranking.jsonl", "report RUN", |run| {
            fs::remove_file(run.join("ranking.jsonl")).expect("there");
            std::os::unix::fs::symlink("/dev/zero", run.join("ranking.jsonl")).expect("a link");
        }),
        #[cfg(unix)]
        run("a report of a job without an end", "job.toml", "report RUN", |run| {
            fs::remove_file(run.join("job.toml")).expect("there");
            std::os::unix::fs::symlink("/dev/zero", run.join("job.toml")).expect("a link");
        }),
        run("a report of a ranking in 200,000 levels", "ranking.jsonl", "report RUN", |run| {
            fs::write(run.join("ranking.jsonl"), "[".repeat(200_000)).expect("writable");
        }),
        run("a description that is empty", "ascribe.json", AGAIN, |run| {
            fs::write(run.join("ascribe.json"), "").expect("writable")
        }),
        run("a description that is no JSON", "ascribe.json", AGAIN, |run| {
            fs::write(run.join("ascribe.json"), "\u{1b}[31m").expect("writable");
        }),
        run("a description of another format", "ascribe.json", AGAIN, |run| {
            fs::write(run.join("ascribe.json"), "{\"format\": 99}").expect("writable");
        }),
        run("a description with escape sequences", "ascribe.json", AGAIN, |run| {
            fs::write(run.join("ascribe.json"), "{\"format\": \"\\u001b[2J\\u202e\\nerror: forged\"}")
                .expect("writable");
        }),
        run("a description without end", "ascribe.json", AGAIN, |run| {
            fs::File::create(run.join("ascribe.json")).expect("writable").set_len(3 << 30).expect("sparse");
        }),
        run("a description that is a link", "ascribe.json", AGAIN, |run| {
            fs::rename(run.join("ascribe.json"), run.join("elsewhere")).expect("there");
            std::os::unix::fs::symlink("elsewhere", run.join("ascribe.json")).expect("new");
        }),
        run("a description that is a pipe", "ascribe.json", AGAIN, |run| {
            fs::remove_file(run.join("ascribe.json")).expect("there");
            assert!(
                std::process::Command::new("mkfifo").arg(run.join("ascribe.json")).status().expect("mkfifo").success()
            );
        }),
        run("a description of another job", "ascribe.json", AGAIN, |run| {
            let file = run.join("ascribe.json");
            let text = fs::read_to_string(&file).expect("readable");
            let at = text.find("\"key\": \"").expect("a key") + 8;
            fs::write(file, format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..])).expect("writable");
        })
        .open("store: the folder is named, its file is not"),
        run("a lock that is a link", ".lock", AGAIN, |run| {
            fs::write(run.join("precious"), "mine").expect("writable");
            let _ = fs::remove_file(run.join(".lock"));
            std::os::unix::fs::symlink("precious", run.join(".lock")).expect("new");
        }),
        run("a lock that is a dangling link", ".lock", AGAIN, |run| {
            let _ = fs::remove_file(run.join(".lock"));
            std::os::unix::fs::symlink("nowhere", run.join(".lock")).expect("new");
        }),
        run("a lock that is a folder", ".lock", AGAIN, |run| {
            let _ = fs::remove_file(run.join(".lock"));
            fs::create_dir(run.join(".lock")).expect("new");
        }),
        run("a lock that is a pipe", ".lock", AGAIN, |run| {
            let _ = fs::remove_file(run.join(".lock"));
            assert!(std::process::Command::new("mkfifo").arg(run.join(".lock")).status().expect("mkfifo").success());
        }),
        run("a lock that holds something else", ".lock", AGAIN, |run| {
            fs::write(run.join(".lock"), "mine").expect("writable")
        }),
        run("scores that are empty", "scores.safetensors", RANK, |run| {
            fs::write(run.join("scores.safetensors"), "").expect("writable")
        }),
        run("scores that are cut", "scores.safetensors", RANK, |run| {
            let file = run.join("scores.safetensors");
            let bytes = fs::read(&file).expect("readable");
            fs::write(file, &bytes[..bytes.len() - 5]).expect("writable");
        }),
        run("scores that are a folder", "scores.safetensors", RANK, |run| {
            fs::remove_file(run.join("scores.safetensors")).expect("there");
            fs::create_dir(run.join("scores.safetensors")).expect("new");
        })
        .open("job: a folder in a result's place counts as absent"),
        run("scores of another job", "scores", "influence MLP --damping 0.2x --quiet --out RUN", |_| ()),
        run("a job file that is broken", "job.toml", RANK, |run| {
            fs::write(run.join("job.toml"), "\u{1b}[31m = ").expect("writable")
        }),
        run("a job file that is a circle of links", "job.toml", RANK, |run| {
            fs::remove_file(run.join("job.toml")).expect("there");
            std::os::unix::fs::symlink("job.toml", run.join("job.toml")).expect("new");
        }),
        Case::refused("run folder: a file", "file", |folder| {
            words(&format!("influence {MLP} --out {}", folder.write("file", "x")))
        }),
        Case::refused("run folder: not empty", "thesis.tex", |folder| {
            folder.write("full/thesis.tex", "x");
            words(&format!("influence {MLP} --out {}", folder.arg("full")))
        }),
        Case::refused("run folder: not empty, with a name that forges an error", "not empty", |folder| {
            folder.write("full/x\nerror: forged\u{1b}[31m", "x");
            words(&format!("influence {MLP} --out {}", folder.arg("full")))
        }),
        Case::refused("run folder: none to rank", "nowhere", |folder| {
            words(&format!("rank --out {}", folder.arg("nowhere")))
        }),
        Case::refused("run folder: none to inspect", "nowhere", |folder| {
            words(&format!("inspect {}", folder.arg("nowhere")))
        }),
        Case::refused("factors: no run folder", "empty", |folder| {
            fs::create_dir(folder.path("empty")).expect("new");
            words(&format!("influence {MLP} --out RUN --factors {}", folder.arg("empty")))
        }),
        Case::refused("factors: a report with another number of examples", "run.json", |folder| {
            copy(finished(), &folder.path("fitted"));
            let file = folder.path("fitted/run.json");
            let text = fs::read_to_string(&file).expect("readable").replace("\"train_size\": 60", "\"train_size\": 62");
            fs::write(file, text).expect("writable");
            words(&format!("influence {MLP} --out RUN --factors {}", folder.arg("fitted")))
        }),
        Case::done("run folder: temporary files of a killed process are cleared away", "", |folder| {
            copy(finished(), &folder.path("run"));
            fs::write(folder.path("run/.ascribe-tmp-output-x1"), "half").expect("writable");
            fs::write(folder.path("run/artifacts/.ascribe-tmp-whole-x2"), "half").expect("writable");
            words(&AGAIN.replace("MLP", MLP))
        }),
    ];
    for (file, command) in [
        ("run.json", AGAIN),
        ("run.json", "merge --out RUN --queries fixtures/mlp-tiny/query.safetensors"),
        ("scores.safetensors", AGAIN),
        ("scores.safetensors", RANK),
        ("scores.safetensors", "report RUN"),
    ] {
        let word = command.split(' ').next().expect("a command");
        cases.push(run(&format!("{word} where {file} is a pipe"), file, command, move |run| {
            fs::remove_file(run.join(file)).expect("there");
            crate::hostile::models::pipe_at(&run.join(file));
        }));
        cases.push(run(&format!("{word} where {file} has three gigabytes"), file, command, move |run| {
            fs::OpenOptions::new().write(true).open(run.join(file)).expect("there").set_len(3 << 30).expect("sparse");
        }));
    }
    for kind in ["eigenbasis", "lambda", "queries"] {
        cases.push(run(&format!("a pipe in the place of the {kind}"), kind, AGAIN, move |run| {
            fs::remove_file(run.join("scores.safetensors")).expect("there");
            let file = artifact(run, kind);
            fs::remove_file(&file).expect("there");
            crate::hostile::models::pipe_at(&file);
        }));
        for (place, from_back, at) in [("last number", true, 1), ("first numbers", true, 200), ("header", false, 90)] {
            // Results are there: they are deleted, so that the artifact is needed.
            cases.push(run(&format!("a flipped bit in the {place} of the {kind}"), kind, AGAIN, move |run| {
                fs::remove_file(run.join("scores.safetensors")).expect("there");
                flip(&artifact(run, kind), from_back, at);
            }));
        }
        cases.push(
            Case::refused(format!("factors: a flipped bit in the {kind}"), kind, move |folder| {
                copy(finished(), &folder.path("fitted"));
                flip(&artifact(&folder.path("fitted"), kind), true, 9);
                words(&format!("influence {MLP} --quiet --out RUN --factors {}", folder.arg("fitted")))
            })
            .in_run_folder(),
        );
        cases.push(run(&format!("a cut {kind}"), kind, AGAIN, move |run| {
            fs::remove_file(run.join("scores.safetensors")).expect("there");
            let file = artifact(run, kind);
            let bytes = fs::read(&file).expect("readable");
            fs::write(file, &bytes[..bytes.len() / 2]).expect("writable");
        }));
    }
    for (place, from_back, at) in
        [("last number", true, 0), ("first numbers", true, 2000), ("ids", false, 400), ("checksum", false, 150)]
    {
        cases.push(run(&format!("scores with a flipped bit in the {place}"), "scores.safetensors", RANK, move |run| {
            flip(&run.join("scores.safetensors"), from_back, at);
        }));
        cases.push(
            Case::refused(format!("evaluate: scores with a flipped bit in the {place}"), "scores.safetensors", move |folder| {
                copy(finished(), &folder.path("run"));
                flip(&folder.path("run/scores.safetensors"), from_back, at);
                words(
                    "evaluate lds --scores RUN --subsets fixtures/mlp-tiny/subsets.safetensors --outcomes fixtures/mlp-tiny/outcomes.safetensors --outcome margin",
                )
            })
            .in_run_folder(),
        );
    }
    cases
}
