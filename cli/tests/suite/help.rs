//! Help, version, completions, man pages, and what is said about flags that make no sense.

use std::time::{Duration, Instant};

use crate::support::{Folder, ascribe, done, ended};

const COMMANDS: [&str; 26] = [
    "influence",
    "source",
    "plan",
    "run",
    "fit",
    "query",
    "score",
    "merge",
    "rank",
    "report",
    "inspect",
    "trajectory",
    "evaluate",
    "evaluate baseline",
    "evaluate calibrate",
    "evaluate candidates",
    "evaluate lds",
    "evaluate likeness",
    "evaluate mislabelled",
    "evaluate qld",
    "evaluate tail-patch",
    "evaluate exact",
    "evaluate retrieval",
    "evaluate subsets",
    "completions",
    "man",
];

#[test]
fn help_of_every_command() {
    insta::assert_snapshot!("help", done("--help").out);
    for command in COMMANDS {
        let long = done(&format!("{command} --help")).out;
        insta::assert_snapshot!(format!("help {command}").replace(' ', "_"), long);
        assert!(long.lines().all(|line| line.chars().count() <= 130), "{command}");
    }
}

/// Options of the later commands are the same groups, so one short help stands for all.
#[test]
fn short_help() {
    insta::assert_snapshot!("help_short", done("-h").out);
    insta::assert_snapshot!("help_influence_short", done("influence -h").out);
}

#[test]
fn version_names_the_program() {
    assert_eq!(done("--version").out, concat!("ascribe ", env!("CARGO_PKG_VERSION"), "\n"));
}

/// Nothing is done before flags are parsed. The limit is far above the 50 ms that a release build on a
/// quiet machine keeps, since tests run beside others.
#[test]
fn help_and_version_are_quick() {
    for flag in ["--version", "--help"] {
        let quickest = (0..5).map(|_| {
            let start = Instant::now();
            done(flag);
            start.elapsed()
        });
        let quickest = quickest.min().expect("five runs");
        assert!(quickest < Duration::from_millis(400), "{flag}: {quickest:?}");
    }
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = done(&format!("completions {shell}")).out;
        for word in ["influence", "evaluate", "retrieval", "store-scores", "add-eos"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
}

#[test]
fn man_pages_of_every_command() {
    let folder = Folder::new();
    done(&format!("man --out {}", folder.arg("man1")));
    let names: Vec<_> =
        folder.files("man1").into_iter().map(|(name, _)| name.rsplit('/').next().unwrap().to_owned()).collect();
    for command in COMMANDS {
        let page = format!("ascribe-{}.1", command.replace(' ', "-"));
        assert!(names.contains(&page), "{page} is not among {names:?}");
    }
    let page = std::fs::read_to_string(folder.path("man1/ascribe-influence.1")).unwrap();
    assert!(page.contains("\\-\\-damping") && page.contains("Exit codes"));
}

#[test]
fn flags_that_make_no_sense_are_explained() {
    let cases = [
        "",
        "influense",
        "influence",
        "influence --model m --train t --queries q",
        "influence --model m --train t --queries q --out r --curvature ekfak",
        "influence --model m --train t --queries q --out r --dampin 3",
        "influence --model m --train t --queries q --out r --damping much",
        "influence --model m --train t --queries q --out r --damping -1",
        "influence --model m --train t --queries q --out r --memory lots",
        "influence --model m --train t --queries q --out r --threads two",
        "influence --model m --train t --queries q --out r --quiet --verbose",
        "fit --out r --shard 3/2",
        "fit --out r --shard half",
        "evaluate lds --scores r --subsets s --outcomes o",
        "completions csh",
    ];
    let mut text = String::new();
    for case in cases {
        let ended = ended(ascribe(case));
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{case}");
        text.push_str(&format!("$ ascribe {case}\n{}\n", ended.err));
    }
    insta::assert_snapshot!(text);
}

/// What only shows once flags and files are put together.
#[test]
fn jobs_that_make_no_sense_are_explained() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let cases = [
        format!("fit --out {run}"),
        format!("fit --model fixtures/gpt2-tiny --out {run}"),
        format!("rank --out {run}"),
        format!("run {run}/job.toml"),
        format!("influence {} --out {run} --top 0", crate::support::MLP),
        format!("influence {} --out {run} --threads 0", crate::support::MLP),
        format!("influence {} --out {run} --label-draws 0", crate::support::MLP),
        format!("influence {} --out {run} --measure prediction", crate::support::MLP),
        format!("influence {} --out {run} --layers nothing.*", crate::support::MLP),
        format!("influence {} --out {run} --memory 1KiB", crate::support::MLP),
    ];
    let mut text = String::new();
    for case in cases {
        let ended = ended(ascribe(&case));
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{case}");
        text.push_str(&folder.filtered(&format!("$ ascribe {case}\n{}\n", ended.err)));
    }
    assert!(!folder.path("run").exists(), "nothing is written before the inputs are checked");
    insta::assert_snapshot!(text);
}
