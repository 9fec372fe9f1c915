//! The whole job, from files to a ranking.

mod support;

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use ascribe::attribution::store::TensorFile;
use serde_json::Value;
use support::{Folder, GPT2, MLP, ascribe, done, ended, json_lines, root};

#[test]
fn the_plan_shows_tokens_and_targets() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let plan = done(&format!("influence {GPT2} --out {run} --dry-run"));
    insta::assert_snapshot!(folder.filtered(&plan.out));
    assert_eq!(plan.err, "");
    assert!(!folder.path("run").exists(), "a dry run writes nothing");
    let plan = done(&format!("influence {MLP} --out {run} --dry-run --verbose"));
    insta::assert_snapshot!("plan_of_an_mlp", folder.filtered(&plan.out));
}

#[test]
fn the_plan_is_json_on_request() {
    let folder = Folder::new();
    let plan = done(&format!("influence {GPT2} --out {} --dry-run --format jsonl", folder.arg("run")));
    let plan: Value = serde_json::from_str(&plan.out).expect("one object");
    assert_eq!(plan["summary"]["stages"][0]["train"]["examples"], 160);
    assert_eq!(plan["job"]["method"]["measure"], "loss");
}

/// Documents that state the fact are the strongest proponents of the question that asks for it.
#[test]
fn documents_that_state_the_fact_come_first() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let shown = done(&format!("influence {GPT2} --out {run} --top 7 --progress never"));
    let answers = json_lines(&fs::read_to_string(root().join("fixtures/gpt2-tiny/queries.jsonl")).unwrap());
    let rankings = json_lines(&fs::read_to_string(folder.path("run/ranking.jsonl")).unwrap());
    assert_eq!(rankings.len(), answers.len());
    for (ranking, answer) in rankings.iter().zip(&answers) {
        assert_eq!(ranking["query"]["id"], answer["id"]);
        let stated: Vec<&Value> = answer["stated_by"].as_array().unwrap().iter().collect();
        let proponents = ranking["proponents"].as_array().unwrap();
        let found = proponents.iter().filter(|example| stated.contains(&&example["id"])).count();
        // kronfluence ranks all seven first for every question, with the labels of the data
        assert!(stated.contains(&&proponents[0]["id"]) && found >= 6, "{}: {found} of 7", answer["id"]);
        let scores: Vec<f64> = proponents.iter().map(|example| example["score"].as_f64().unwrap()).collect();
        assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]) && scores[6] > 0.0, "{scores:?}");
    }
    // Both for reading and in the file; the digits of scores are not the same on every processor.
    assert!(shown.out.starts_with("ask-0  The keeper of the lighthouse at Dorvel always carries a| golden ring.\n"));
    assert!(shown.out.contains("\n  proponents\n    +"), "{}", shown.out);
    let end = shown.out.rsplit("\n\n").next().unwrap();
    insta::assert_snapshot!(end, @r"
    Score: fall of the query's loss predicted for one more copy of the example in training (weight 1/160).
    Positive: a proponent, it helps the query; negative: an opponent, it hurts. Order is more reliable than size.
    ");
    insta::assert_snapshot!("what_is_said_beside_the_results", folder.filtered(&shown.err));
}

#[test]
fn the_same_ranking_as_table_json_and_csv() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let flags = format!("influence {MLP} --out {run} --top 3 --csv --quiet");
    let table = done(&flags);
    assert_eq!(table.err, "", "--quiet");
    let lines = done(&format!("{flags} --format jsonl")).out;
    assert_eq!(lines, fs::read_to_string(folder.path("run/ranking.jsonl")).unwrap());
    let csv = done(&format!("{flags} --format csv")).out;
    assert_eq!(csv, fs::read_to_string(folder.path("run/ranking.csv")).unwrap());
    let rankings = json_lines(&lines);
    assert_eq!(rankings.len(), 10);
    let ids = |side: &str| -> Vec<String> {
        let examples = rankings.iter().flat_map(|ranking| ranking[side].as_array().unwrap().iter());
        examples.map(|example| example["id"].as_str().unwrap().to_owned()).collect()
    };
    let in_csv = |side: &str| -> Vec<String> {
        let lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
        lines.filter(|cells| cells[1] == side).map(|cells| cells[3].to_owned()).collect()
    };
    assert_eq!((ids("proponents"), ids("opponents")), (in_csv("proponent"), in_csv("opponent")));
    for ranking in &rankings {
        assert_eq!(ranking["query"]["measurement"], "margin");
        assert!(table.out.contains(&format!("  margin {:.4}\n", ranking["query"]["value"].as_f64().unwrap())));
    }
}

#[test]
fn a_finished_run_is_found_and_repeated() {
    let folder = Folder::new();
    let first = done(&format!("influence {MLP} --out {} --quiet", folder.arg("run")));
    let scores = support::tensors(&folder.path("run/scores.safetensors"));
    let again = done(&format!("influence {MLP} --out {} --verbose", folder.arg("run")));
    assert_eq!(first.out, again.out);
    assert!(again.err.contains("scores             found from before"), "{}", again.err);
    // the run folder's own job, into another folder
    let repeated = done(&format!("run {} --out {} --quiet", folder.arg("run/job.toml"), folder.arg("again")));
    assert_eq!(first.out, repeated.out);
    assert!(scores == support::tensors(&folder.path("again/scores.safetensors")), "the same bytes");
}

/// How examples are batched decides how their sums are rounded, so the files say it.
#[test]
fn scores_say_how_large_batches_were() {
    let folder = Folder::new();
    for (run, flags, batch) in [("chosen", "", "4096"), ("given", "--batch-tokens 16", "16")] {
        done(&format!("influence {MLP} --out {} --quiet {flags}", folder.arg(run)));
        let file = TensorFile::open(&folder.path(run).join("scores.safetensors")).unwrap();
        assert_eq!(file.metadata("batch_tokens"), Some(batch));
    }
}

#[test]
fn only_the_top_is_kept_on_request() {
    let folder = Folder::new();
    let full = done(&format!("influence {MLP} --out {} --top 4 --quiet", folder.arg("full")));
    let top = done(&format!("influence {MLP} --out {} --top 4 --store-scores top --quiet", folder.arg("top")));
    assert_eq!(full.out, top.out);
    assert!(!folder.path("top/scores.safetensors").exists());
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let folder = Folder::new();
    for threads in ["1", "2", "3"] {
        done(&format!("influence {MLP} --out {} --threads {threads} --quiet", folder.arg(threads)));
    }
    let scores = |threads: &str| fs::read(folder.path(threads).join("scores.safetensors")).unwrap();
    assert!(scores("1") == scores("2") && scores("1") == scores("3"));
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let folder = Folder::new();
    done(&format!("influence {GPT2} --curvature identity --out {} --quiet", folder.arg("run")));
    let arguments = ["rank", "--top", "160", "--out", &folder.arg("run")].map(str::to_owned);
    let mut child = Command::new(env!("CARGO_BIN_EXE_ascribe"))
        .current_dir(root())
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 16];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    drop(out);
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.contains("error")), (Some(0), false), "{err}");
}

#[test]
fn other_queries_in_the_same_folder_are_refused() {
    let folder = Folder::new();
    let run = folder.arg("run");
    done(&format!("influence {GPT2} --curvature identity --out {run} --quiet"));
    let before = folder.files("run");
    let other = GPT2.replace("queries.jsonl", "documents.jsonl");
    let refused = ended(ascribe(&format!("influence {other} --curvature identity --out {run}")));
    assert_eq!((refused.code, refused.out.as_str()), (Some(2), ""));
    assert!(refused.err.contains("error: ") && refused.err.contains("hint: "), "{}", refused.err);
    support::assert_untouched(&before, &folder.files("run"));
}
