//! Broken files and flags of `evaluate`.

use std::fs;
use std::path::Path;

use ascribe::attribution::store::{Metadata, TensorData, write_safetensors};
use serde_json::json;

use crate::hostile::runner::{Case, words};
use crate::support::root;

/// Scores of 2 queries for 4 examples, with this metadata on top.
fn scores(file: &Path, more: &[(&str, &str)], values: &[f32]) {
    let mut metadata = Metadata::from([
        ("query_ids".to_owned(), json!(["q0", "q1"]).to_string()),
        ("train_ids".to_owned(), json!(["a", "b", "c", "d"]).to_string()),
    ]);
    metadata.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    write_safetensors(file, &[TensorData::new("scores", &[2, 4], values)], &metadata).expect("writable");
}

const SCORES: [f32; 8] = [0.5, -0.5, 0.25, 0.0, 1.0, 2.0, 3.0, -4.0];

/// Masks of 3 subsets of 4 examples and outcomes of 2 queries.
fn rest(folder: &Path, mask: &[u8; 12], outcomes: &[f32; 6]) {
    let masks = [TensorData::new("mask", &[3, 4], mask)];
    write_safetensors(&folder.join("subsets.safetensors"), &masks, &Metadata::new()).expect("writable");
    let values = [TensorData::new("margin", &[3, 2], outcomes)];
    write_safetensors(&folder.join("outcomes.safetensors"), &values, &Metadata::new()).expect("writable");
}

const MASK: [u8; 12] = [1, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 1];
const OUTCOMES: [f32; 6] = [0.1, 0.2, 0.3, 0.1, 0.5, 0.9];

/// An evaluation whose files are changed, with more flags.
fn lds(name: &str, named: &str, flags: &'static str, change: impl Fn(&Path) + Send + Sync + 'static) -> Case {
    Case::refused(format!("lds: {name}"), named, move |folder| {
        let here = folder.path("");
        scores(&here.join("scores.safetensors"), &[], &SCORES);
        rest(&here, &MASK, &OUTCOMES);
        change(&here);
        let place = here.display();
        words(&format!(
            "evaluate lds --scores {place}/scores.safetensors --subsets {place}/subsets.safetensors --outcomes {place}/outcomes.safetensors --outcome margin --resamples 10 {flags}"
        ))
    })
}

fn answers(name: &str, content: impl AsRef<[u8]> + Send + Sync + 'static) -> Case {
    Case::refused(format!("retrieval: {name}"), "answers.jsonl", move |folder| {
        let here = folder.path("");
        scores(&here.join("scores.safetensors"), &[], &SCORES);
        let answers = folder.write("answers.jsonl", &content);
        words(&format!("evaluate retrieval --scores {}/scores.safetensors --answers {answers}", here.display()))
    })
}

fn subsets(flags: &'static str, named: &str) -> Case {
    Case::refused(format!("subsets: {flags}"), named, move |folder| {
        words(&format!("evaluate subsets {flags} --out {}", folder.arg("drawn.safetensors")))
    })
}

const ESCAPES: &str = "\u{1b}[31m\u{202e}\nerror: forged\r";

pub fn cases() -> Vec<Case> {
    let nothing = |_: &Path| ();
    let mut cases = vec![
        lds("scores of an unknown format", "scores.safetensors", "", |here| {
            scores(&here.join("scores.safetensors"), &[("format", "99"), ("ascribe_key", "k")], &SCORES);
        })
        .and("99"),
        lds("scores of a format that is no number", "scores.safetensors", "", |here| {
            scores(&here.join("scores.safetensors"), &[("format", ESCAPES), ("ascribe_key", "k")], &SCORES);
        }),
        lds("scores that are NaN", "scores.safetensors", "", |here| {
            scores(&here.join("scores.safetensors"), &[], &[f32::NAN; 8]);
        }),
        lds("scores with other ids than rows", "scores.safetensors", "", |here| {
            scores(&here.join("scores.safetensors"), &[("query_ids", "[\"q0\"]")], &SCORES);
        }),
        lds("scores with ids that are no list", "scores.safetensors", "", |here| {
            scores(&here.join("scores.safetensors"), &[("train_ids", "{}")], &SCORES);
        }),
        lds("scores without a matrix", "scores.safetensors", "", |here| {
            let ids = ["query_ids", "train_ids"].map(|name| (name.to_owned(), "[]".to_owned()));
            write_safetensors(&here.join("scores.safetensors"), &[], &Metadata::from(ids)).expect("writable");
        }),
        lds("no scores", "scores.safetensors", "", |here| {
            fs::remove_file(here.join("scores.safetensors")).expect("there")
        }),
        lds("masks that are all zero", "subsets.safetensors", "", |here| rest(here, &[0; 12], &OUTCOMES)),
        lds("masks that are all one", "subsets.safetensors", "", |here| rest(here, &[1; 12], &OUTCOMES)),
        lds("masks of removed examples that are all one", "subsets.safetensors", "--mask removed", |here| {
            rest(here, &[1; 12], &OUTCOMES);
        }),
        lds("masks of twos", "subsets.safetensors", "", |here| rest(here, &[2; 12], &OUTCOMES)),
        lds("masks that are empty", "subsets.safetensors", "", |here| {
            fs::write(here.join("subsets.safetensors"), "").expect("writable")
        }),
        lds("masks of other examples", "subsets.safetensors", "", |here| {
            let masks = [TensorData::new("mask", &[3, 3], &[1_u8, 0, 0, 0, 1, 0, 0, 0, 1])];
            write_safetensors(&here.join("subsets.safetensors"), &masks, &Metadata::new()).expect("writable");
        }),
        lds("masks under another name", "subsets.safetensors", "", |here| {
            let masks = [TensorData::new(ESCAPES, &[3, 4], &MASK)];
            write_safetensors(&here.join("subsets.safetensors"), &masks, &Metadata::new()).expect("writable");
        }),
        lds("outcomes that are NaN", "outcomes.safetensors", "", |here| rest(here, &MASK, &[f32::NAN; 6])),
        lds("outcomes that are infinite", "outcomes.safetensors", "", |here| rest(here, &MASK, &[f32::INFINITY; 6])),
        lds("outcomes of other queries", "outcomes.safetensors", "", |here| {
            let values = [TensorData::new("margin", &[3, 3], &[0.1_f32; 9])];
            write_safetensors(&here.join("outcomes.safetensors"), &values, &Metadata::new()).expect("writable");
        }),
        lds("outcomes of other subsets", "outcomes.safetensors", "", |here| {
            let values = [TensorData::new("margin", &[2, 2], &[0.1_f32; 4])];
            write_safetensors(&here.join("outcomes.safetensors"), &values, &Metadata::new()).expect("writable");
        }),
        lds("outcomes under another name", "outcomes.safetensors", "", |here| {
            let values = [TensorData::new(ESCAPES, &[3, 2], &OUTCOMES)];
            write_safetensors(&here.join("outcomes.safetensors"), &values, &Metadata::new()).expect("writable");
        }),
        lds("outcomes that are whole numbers", "outcomes.safetensors", "", |here| {
            let values = [TensorData::new("margin", &[3, 2], &[1_i64; 6])];
            write_safetensors(&here.join("outcomes.safetensors"), &values, &Metadata::new()).expect("writable");
        }),
        lds("outcomes that are cut", "outcomes.safetensors", "", |here| {
            let file = here.join("outcomes.safetensors");
            let bytes = fs::read(&file).expect("readable");
            fs::write(file, &bytes[..bytes.len() - 3]).expect("writable");
        }),
        lds("masks that are a pipe", "subsets.safetensors", "", |here| {
            fs::remove_file(here.join("subsets.safetensors")).expect("there");
            crate::hostile::models::pipe_at(&here.join("subsets.safetensors"));
        })
        .and("it is a pipe"),
        lds("outcomes without an end", "outcomes.safetensors", "", |here| {
            fs::remove_file(here.join("outcomes.safetensors")).expect("there");
            std::os::unix::fs::symlink("/dev/zero", here.join("outcomes.safetensors")).expect("new");
        })
        .and("it is a device"),
        lds("outcomes of three gigabytes", "outcomes.safetensors", "", |here| {
            let file = fs::OpenOptions::new().write(true).open(here.join("outcomes.safetensors")).expect("there");
            file.set_len(3 << 30).expect("sparse");
        })
        .and("it is longer than 1 GiB"),
        lds("scores that are a pipe", "scores.safetensors", "", |here| {
            fs::remove_file(here.join("scores.safetensors")).expect("there");
            crate::hostile::models::pipe_at(&here.join("scores.safetensors"));
        })
        .and("it is a pipe"),
        lds("2^40 resamples", "--resamples", "--resamples 1099511627776", nothing),
        lds("a negative number of resamples", "--resamples", "--resamples=-1", nothing),
        lds("a check against no number", "--at-least", "--at-least nan", nothing),
        lds("a check against infinity", "--at-least", "--at-least inf", nothing),
        lds("a check against text", "--at-least", "--at-least x", nothing),
        lds("a seed that is negative", "--seed", "--seed=-1", nothing),
        answers("empty", ""),
        answers("no JSON", "\u{1b}[31m"),
        answers("an array", "[]"),
        answers("no ids", "{\"stated_by\": [\"a\"]}\n"),
        answers("no lists", "{\"id\": \"q0\"}\n"),
        answers("lists that are text", "{\"id\": \"q0\", \"stated_by\": \"a\"}\n"),
        answers("an id twice", "{\"id\": \"q0\", \"stated_by\": [\"a\"]}\n".repeat(2)),
        answers(
            "an answer that is no example",
            "{\"id\": \"q0\", \"stated_by\": [\"\\u001b[31mz\\nerror: forged\"]}\n",
        ),
        answers("queries that were not scored", "{\"id\": \"\\u202ex\", \"stated_by\": [\"a\"]}\n"),
        answers("no UTF-8", b"{\"id\": \"q0\xff\"}\n".as_slice()),
        Case::refused("retrieval: no place to look at", "--k", |folder| {
            let here = folder.path("");
            scores(&here.join("scores.safetensors"), &[], &SCORES);
            let answers = folder.write("answers.jsonl", "{\"id\": \"q0\", \"stated_by\": [\"a\"]}\n");
            words(&format!(
                "evaluate retrieval --scores {}/scores.safetensors --answers {answers} --k x",
                here.display()
            ))
        }),
        Case::refused("retrieval: answers that are a pipe", "answers.jsonl", |folder| {
            scores(&folder.path("scores.safetensors"), &[], &SCORES);
            crate::hostile::models::pipe(folder, "answers.jsonl");
            let here = folder.path("");
            let here = here.display();
            words(&format!("evaluate retrieval --scores {here}/scores.safetensors --answers {here}/answers.jsonl"))
        })
        .and("it is a pipe"),
        Case::refused("retrieval: answers of three gigabytes", "answers.jsonl", |folder| {
            scores(&folder.path("scores.safetensors"), &[], &SCORES);
            let file = fs::File::create(folder.path("answers.jsonl")).expect("writable");
            file.set_len(3 << 30).expect("sparse");
            let here = folder.path("");
            let here = here.display();
            words(&format!("evaluate retrieval --scores {here}/scores.safetensors --answers {here}/answers.jsonl"))
        })
        .and("it is longer than 256 MiB"),
        subsets("--examples 10 --count 0", "--count"),
        subsets("--examples 10 --count 18446744073709551615", "--count"),
        subsets("--examples 100000 --count 100000", "--count"),
        subsets("--examples 18446744073709551615 --count 2", "--examples"),
        subsets("--examples 0", "examples"),
        subsets("--examples 1", "examples"),
        subsets("--examples 10 --share 0", "share"),
        subsets("--examples 10 --share 1", "share"),
        subsets("--examples 10 --share nan", "share"),
        subsets("--examples 10 --share=-0.5", "share"),
        subsets("--examples ten", "--examples"),
        Case::refused("subsets: a folder that is not there", "nowhere", |folder| {
            words(&format!("evaluate subsets --examples 10 --out {}/nowhere/x.safetensors", folder.path("").display()))
        }),
        Case::refused("subsets: a file that is there", "there.safetensors", |folder| {
            words(&format!("evaluate subsets --examples 10 --out {}", folder.write("there.safetensors", "")))
        }),
        Case::done("lds: names with escape sequences", "LDS", |folder| {
            let here = folder.path("\u{1b}[31mscores");
            fs::create_dir(&here).expect("new");
            scores(&here.join("scores.safetensors"), &[("answer", ESCAPES)], &SCORES);
            rest(&here, &MASK, &OUTCOMES);
            let place = here.display();
            words(&format!(
                "evaluate lds --scores {place}/scores.safetensors --subsets {place}/subsets.safetensors --outcomes {place}/outcomes.safetensors --outcome margin --resamples 10"
            ))
        }),
        Case::done("inspect: metadata and tensors with escape sequences", "metadata", |folder| {
            let file = folder.path("x.safetensors");
            let metadata =
                Metadata::from([(ESCAPES.to_owned(), ESCAPES.to_owned()), ("kind".to_owned(), ESCAPES.to_owned())]);
            write_safetensors(&file, &[TensorData::new(ESCAPES, &[1], &[1_u8])], &metadata).expect("writable");
            vec!["inspect".into(), file.display().to_string()]
        }),
    ];
    for (name, path) in
        [("a checkpoint", "fixtures/gpt2-tiny"), ("a checkpoint's weights", "fixtures/gpt2-tiny/model.safetensors")]
    {
        assert!(root().join(path).exists());
        cases.push(Case::refused(format!("lds: {name} instead of scores"), path, move |folder| {
            rest(&folder.path(""), &MASK, &OUTCOMES);
            let place = folder.path("");
            let place = place.display();
            words(&format!(
                "evaluate lds --scores {path} --subsets {place}/subsets.safetensors --outcomes {place}/outcomes.safetensors --outcome margin"
            ))
        }));
    }
    cases
}
