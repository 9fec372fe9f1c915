//! `--tokens ranked`: scores of the ranked examples divided over their tokens, from files to rankings and reports.

mod support;

use std::fs;

use serde_json::Value;
use support::{Folder, ascribe, done, ended, json_lines};

const FILES: &str =
    "--train fixtures/gpt2-tiny/train.jsonl --queries fixtures/gpt2-tiny/queries.jsonl --add-eos train --top 2";

/// Every listed example's score, the sum of what its tokens add, and the sum of their sizes.
fn sums(folder: &Folder, run: &str) -> Vec<(f64, f64, f64)> {
    let rankings = json_lines(&fs::read_to_string(folder.path(run).join("ranking.jsonl")).expect("a ranking"));
    let sides = rankings.iter().flat_map(|ranking| [&ranking["proponents"], &ranking["opponents"]]);
    let examples = sides.flat_map(|side| side.as_array().expect("a list"));
    let number = |value: &Value| value.as_f64().expect("a number");
    let of = |example: &Value| {
        let tokens = example["tokens"].as_array().expect("tokens");
        assert!(tokens.len() > 1 && tokens.iter().all(|token| token["text"].is_string()), "{example}");
        let shares: Vec<f64> = tokens.iter().map(|token| number(&token["share"])).collect();
        let rest = example.get("rest").map_or(0.0, number);
        (number(&example["score"]), shares.iter().sum::<f64>() + rest, shares.iter().map(|share| share.abs()).sum())
    };
    let found: Vec<_> = examples.map(of).collect();
    assert!(!found.is_empty());
    found
}

fn assert_sums(folder: &Folder, run: &str) {
    for (score, sum, size) in sums(folder, run) {
        assert!((score - sum).abs() <= 1e-5 * size.max(score.abs()), "{run}: {score} {sum} of {size}");
    }
}

#[test]
fn tokens_add_up_to_the_scores_of_every_method() {
    let folder = Folder::new();
    for (name, command) in [
        ("one", "influence --model fixtures/gpt2-tiny"),
        ("low", "influence --model fixtures/gpt2-tiny --query-rank 4 --store-scores top"),
        ("mean", "influence --run fixtures/trainer-tiny"),
        ("source", "source --run fixtures/trainer-tiny"),
    ] {
        let files = match name {
            "one" | "low" => FILES.to_owned(),
            _ => FILES.replace("gpt2-tiny/train", "trainer-tiny/train"),
        };
        done(&format!("{command} {files} --tokens ranked --quiet --out {}", folder.arg(name)));
        assert_sums(&folder, name);
    }
}

#[test]
fn they_are_kept_listed_and_reported() {
    let folder = Folder::new();
    let (model, out) = ("influence --model fixtures/gpt2-tiny", folder.arg("run"));
    let whole = done(&format!("{model} {FILES} --tokens ranked --report --out {out}"));
    assert!(whole.out.contains("tokens: `"), "{}", whole.out);
    assert!(whole.err.contains("divided over their tokens"), "{}", whole.err);
    let (file, ranking) = (folder.path("run").join("tokens.safetensors"), folder.path("run").join("ranking.jsonl"));
    let before = [&file, &ranking].map(|file| fs::read(file).expect("written"));
    let page = fs::read_to_string(folder.path("run").join("report.html")).expect("a report");
    assert!(page.contains("class=\"text shaded\"") && page.contains("class=\"p4\" title=\"+"), "no shades");
    assert!(page.contains("strongest tokens"), "no numbers in words");
    done(&format!("report {out} --format markdown"));
    let markdown = fs::read_to_string(folder.path("run").join("report.md")).expect("a report");
    assert!(markdown.contains("(tokens: "), "{markdown}");
    // again: from what is there, with the same bytes
    let written = || fs::metadata(&file).and_then(|file| file.modified()).expect("a file with a time");
    let earlier = written();
    done(&format!("{model} {FILES} --tokens ranked --quiet --out {out}"));
    assert_eq!(written(), earlier, "computed again");
    assert!(before == [&file, &ranking].map(|file| fs::read(file).expect("written")), "other bytes");
    // without them the scores are the same
    done(&format!("{model} {FILES} --quiet --out {}", folder.arg("without")));
    let scores = |run: &str| support::tensors(&folder.path(run).join("scores.safetensors"));
    assert!(scores("run") == scores("without"), "other scores");
    assert!(!folder.path("without").join("tokens.safetensors").exists());
    // step by step and in shards
    let steps = folder.arg("steps");
    done(&format!("fit --model fixtures/gpt2-tiny {} --quiet --out {steps}", FILES.replace(" --top 2", "")));
    done(&format!("query --quiet --out {steps}"));
    for shard in ["1/2", "2/2"] {
        done(&format!("score --top 2 --tokens ranked --quiet --shard {shard} --out {steps}"));
    }
    done(&format!("merge --top 2 --tokens ranked --quiet --out {steps}"));
    done(&format!("rank --top 2 --out {steps}"));
    assert_sums(&folder, "steps");
}

#[test]
fn what_has_no_tokens_is_refused() {
    let folder = Folder::new();
    let mlp = "--model fixtures/mlp-tiny --train fixtures/mlp-tiny/train.safetensors \
               --queries fixtures/mlp-tiny/query.safetensors";
    for (flags, problem) in [
        (mlp.to_owned(), "`--tokens` divides scores over the tokens of a text, and this model reads rows of numbers"),
        (format!("--model fixtures/gpt2-tiny {FILES} --normalize cosine"), "cosines are not divided over tokens"),
    ] {
        let out = folder.arg("refused");
        let refused = ended(ascribe(&format!("influence {flags} --tokens ranked --out {out}")));
        assert_eq!(refused.code, Some(2), "{flags}: {}", refused.err);
        assert!(refused.err.contains(problem), "{flags}: {}", refused.err);
        assert!(!folder.path("refused").exists());
    }
}
