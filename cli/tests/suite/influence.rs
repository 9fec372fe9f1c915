//! The whole job, from files to a ranking.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use crate::support::{Folder, GPT2, MLP, ROWS, ascribe, assert_near, done, ended, json_lines, root, scores_of};
use ascribe::attribution::store::TensorFile;
use serde_json::Value;

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

/// `∇p = p ∇log p`, of one label and, token by token, of a completion's.
#[test]
fn scores_of_a_probability_are_those_of_its_logarithm_times_it() {
    let folder = Folder::new();
    let measured = |name: &str, measure: &str| {
        let run = folder.arg(name);
        done(&format!("influence {MLP} --measure {measure} --curvature kfac --out {run} --quiet"));
        let rankings = json_lines(&fs::read_to_string(folder.path(&format!("{name}/ranking.jsonl"))).unwrap());
        let values = rankings.iter().map(|ranking| ranking["query"]["value"].as_f64().expect("a number"));
        (values.collect::<Vec<f64>>(), scores_of(&folder, name))
    };
    let (logarithms, of_logarithms) = measured("logprob", "logprob");
    let (probabilities, found) = measured("probability", "probability");
    let examples = found.len() / probabilities.len();
    let mut want = vec![];
    for ((p, log), scores) in probabilities.iter().zip(&logarithms).zip(of_logarithms.chunks_exact(examples)) {
        assert!((p - log.exp()).abs() < 1e-6, "{p} {log}");
        want.extend(scores.iter().map(|score| score * *p as f32));
    }
    assert_near(&found, &want, 1e-5, "probability");
    let refused = ended(ascribe(&format!(
        "influence --model fixtures/mlp-regression --train fixtures/mlp-regression/train.safetensors --queries \
         fixtures/mlp-regression/query.safetensors --measure probability --out {}",
        folder.arg("none")
    )));
    assert!(refused.code == Some(2) && refused.err.contains("`prediction` or `loss`"), "{}", refused.err);
}

/// Weighted sums and means are those of the queries' own scores.
#[test]
fn weights_say_what_each_query_counts() {
    let folder = Folder::new();
    let all = fs::read_to_string(root().join("fixtures/gpt2-tiny/queries.jsonl")).unwrap();
    let weights = [2.0, -0.5, 1.5];
    let rows: Vec<Value> = json_lines(&all).into_iter().take(3).collect();
    let weighted = |rows: &[Value], weights: &[f64]| {
        let with = |(row, weight): (&Value, &f64)| {
            let mut row = row.clone();
            row["weight"] = (*weight).into();
            format!("{row}\n")
        };
        rows.iter().zip(weights).map(with).collect::<String>()
    };
    let queries = folder.write("queries.jsonl", weighted(&rows, &weights));
    let job = |name: &str, flags: &str, queries: &str| {
        format!(
            "influence --model fixtures/gpt2-tiny --train fixtures/gpt2-tiny/train.jsonl --queries {queries} --add-eos both \
             --curvature diagonal --quiet --out {} {flags}",
            folder.arg(name)
        )
    };
    done(&job("each", "", &queries));
    let each = scores_of(&folder, "each");
    let n = each.len() / 3;
    for (how, divisor) in [("sum", 1.0), ("mean", 3.0)] {
        let flags = format!("--aggregate {how} --query-weights weight");
        let plan = done(&format!("{} --dry-run", job(how, &flags, &queries).replace(" --quiet", "")));
        assert!(plan.out.contains(&format!(", {how} of all queries, weighted by their `weight`")), "{}", plan.out);
        done(&job(how, &flags, &queries));
        let want = |m: usize| (0..3).map(|q| weights[q] * f64::from(each[q * n + m])).sum::<f64>() / divisor;
        let want: Vec<f32> = (0..n).map(|m| want(m) as f32).collect();
        assert_near(&scores_of(&folder, how), &want, 1e-5, how);
        let value = |name: &str, q: usize| {
            let rankings = json_lines(&fs::read_to_string(folder.path(&format!("{name}/ranking.jsonl"))).unwrap());
            rankings[q]["query"]["value"].as_f64().expect("a number")
        };
        let of_all = (0..3).map(|q| weights[q] * value("each", q)).sum::<f64>() / divisor;
        assert!((value(how, 0) - of_all).abs() < 1e-9 * of_all.abs(), "{how}");
    }
    // systems of all layers are solved for the weighted sum
    let joint = "--solve subspace --solve-label-draws 2 --aggregate sum --query-weights weight --curvature kfac";
    done(&job("joint", joint, &queries).replace("--curvature diagonal", ""));
    let without = job("none", "--query-weights weight", &queries);
    let partly = folder.write("partly.jsonl", weighted(&rows, &weights[..2]) + &format!("{}\n", rows[2]));
    let nothing = folder.write("nothing.jsonl", weighted(&rows, &[1.0, -2.0, 0.5]));
    let mut messages = String::new();
    for refused in [
        without,
        job("none", "--aggregate sum --query-weights weight", &partly),
        job("none", "--aggregate mean --query-weights weight", &nothing),
    ] {
        let ended = ended(ascribe(&refused));
        assert_eq!(ended.code, Some(2), "{}", ended.err);
        messages.push_str(&ended.err);
    }
    insta::assert_snapshot!(messages);
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
        // seven documents state each answer, and they are the seven best; so they are for kronfluence
        let missing: Vec<&&Value> =
            stated.iter().filter(|id| proponents.iter().all(|example| example["id"] != ***id)).collect();
        assert!((stated.len(), proponents.len()) == (7, 7) && missing.is_empty(), "{}: {missing:?}", answer["id"]);
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
    let scores = crate::support::tensors(&folder.path("run/scores.safetensors"));
    let again = done(&format!("influence {MLP} --out {} --verbose", folder.arg("run")));
    assert_eq!(first.out, again.out);
    assert!(again.err.contains("scores             found from before"), "{}", again.err);
    // the run folder's own job, into another folder
    let repeated = done(&format!("run {} --out {} --quiet", folder.arg("run/job.toml"), folder.arg("again")));
    assert_eq!(first.out, repeated.out);
    assert!(scores == crate::support::tensors(&folder.path("again/scores.safetensors")), "the same bytes");
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
    crate::support::assert_untouched(&before, &folder.files("run"));
}

/// `--intervals`: the lowest and highest of a score and its variants, and how much of a ranking they share.
#[test]
fn rankings_say_how_sure_they_are() {
    let folder = Folder::new();
    let run = folder.arg("sure");
    // in f64, so that sums in another order are the same numbers in the files
    let flags = format!("influence {MLP} --dtype f64 --intervals all --csv --top 4");
    let shown = done(&format!("{flags} --report --out {run}"));
    assert!(shown.err.contains("intervals are the lowest and the highest of 4 variants"), "{}", shown.err);
    assert!(shown.out.contains("  stable: ") && shown.out.contains("In brackets:"), "{}", shown.out);
    let file = |name: &str| fs::read(folder.path("sure").join(name)).expect("written");
    let scores = |name: &str| crate::support::scores(&folder.path("sure").join(name));
    let variants = ["half-1", "half-2", "damping-0.3", "damping-3"];
    let variants = variants.map(|name| scores(&format!("scores.variant-{name}.safetensors")));
    let first = scores("scores.safetensors");
    let rankings = json_lines(&String::from_utf8(file("ranking.jsonl")).expect("text"));
    let n = first.len() / rankings.len();
    let place = |id: &Value| id.as_str().expect("an id").parse::<usize>().expect("a row's number");
    for (q, ranking) in rankings.iter().enumerate() {
        let side = ranking["proponents"].as_array().expect("a list");
        for example in side {
            let k = q * n + place(&example["id"]);
            let all = || variants.iter().chain([&first]).map(|of| of[k]);
            let ends = [all().fold(f32::MAX, f32::min), all().fold(f32::MIN, f32::max)];
            let found = [0, 1].map(|end| example["interval"][end].as_f64().map(|value| value as f32));
            assert_eq!(found, ends.map(Some), "{example}");
        }
        let stability = &ranking["stability"]["proponents"];
        let mut stable = side.len();
        for (of, variant) in variants.iter().zip(stability["kept"].as_array().expect("shares")) {
            let mut order: Vec<usize> = (0..n).filter(|m| of[q * n + m] > 0.0).collect();
            order.sort_by(|&a, &b| of[q * n + b].total_cmp(&of[q * n + a]).then(a.cmp(&b)));
            order.truncate(side.len());
            let is_in = |example: &&Value| order.contains(&place(&example["id"]));
            let kept = side.iter().filter(is_in).count() as f64 / side.len().max(1) as f64;
            assert_eq!(variant["share"], if side.is_empty() { 1.0 } else { kept }, "{variant}");
            stable = stable.min(side.iter().take_while(is_in).count());
        }
        assert_eq!(stability["stable"], stable);
    }
    let csv = String::from_utf8(file("ranking.csv")).expect("text");
    assert!(csv.lines().next().is_some_and(|header| header.ends_with(",score_low,score_high")), "{csv}");
    let page = String::from_utf8(file("report.html")).expect("text");
    assert!(
        page.contains("class=\"span\"") && page.contains("class=\"verdict\">How sure: stable are "),
        "no intervals"
    );
    assert!(page.contains("<dt>between</dt>"), "no numbers");
    done(&format!("report {run} --format markdown"));
    let markdown = fs::read_to_string(folder.path("sure").join("report.md")).expect("a report");
    assert!(markdown.contains("\nHow sure: stable are "), "{markdown}");

    // again: the same bytes; without: the same scores
    let before = folder.files("sure");
    done(&format!("{flags} --quiet --out {run}"));
    let results = |files: &[(String, Vec<u8>)]| {
        let of = |name: &str| name.contains("scores") || name.contains("ranking");
        files.iter().filter(|(name, _)| of(name)).cloned().collect::<Vec<_>>()
    };
    crate::support::assert_untouched(&results(&before), &results(&folder.files("sure")));
    let without = folder.arg("without");
    done(&format!("{} --quiet --out {without}", flags.replace("--intervals all ", "")));
    let scores_of = |run: &str| crate::support::scores_of(&folder, run);
    crate::support::assert_near(&scores_of("sure"), &scores_of("without"), 1e-6, "without intervals");

    // step by step, in shards: the same rankings but for rounding
    let steps = folder.arg("steps");
    let fit = "--model fixtures/mlp-tiny --train fixtures/mlp-tiny/train.safetensors --dtype f64 --intervals all";
    for _ in 0..2 {
        for shard in ["1/2", "2/2"] {
            done(&format!("fit {fit} --quiet --shard {shard} --out {steps}"));
        }
        done(&format!("merge --quiet --out {steps}"));
    }
    done(&format!("query --queries fixtures/mlp-tiny/query.safetensors --quiet --out {steps}"));
    for shard in ["1/2", "2/2"] {
        done(&format!("score --top 4 --quiet --shard {shard} --out {steps}"));
    }
    done(&format!("merge --quiet --out {steps}"));
    done(&format!("rank --top 4 --quiet --out {steps}"));
    let rows = |run: &str| crate::support::scores(&folder.path(run).join("scores.variant-half-2.safetensors"));
    crate::support::assert_near(&rows("steps"), &rows("sure"), 1e-6, "half 2 in shards");
    let verdicts = |run: &str| {
        let lines = json_lines(&fs::read_to_string(folder.path(run).join("ranking.jsonl")).expect("a ranking"));
        lines.into_iter().map(|line| line["stability"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(verdicts("steps"), verdicts("sure"));
}

#[test]
fn what_has_no_intervals_is_refused() {
    let folder = Folder::new();
    let source = "source --trajectory fixtures/mlp-trajectory/trajectory.toml \
                  --train fixtures/mlp-tiny/train.safetensors --queries fixtures/mlp-tiny/query.safetensors";
    for (command, problem) in [
        (format!("influence {MLP} --curvature identity"), "vary the curvature and its damping"),
        (format!("influence {MLP} --normalize cosine"), "cosines have no `--intervals`"),
        (format!("influence {MLP} --store-scores top"), "need every score of every variant"),
        (
            format!("influence {MLP} --solve gauss-newton --damping 0.03"),
            "`--solve gauss-newton` all dampings share one",
        ),
        (
            format!("influence {MLP} --interval-scores strongest --duplicates exact"),
            "`--duplicates` lists copies as one",
        ),
        (source.to_owned(), "Source is asked for"),
        (format!("influence {MLP} --fisher empirical --intervals labels"), "draws labels by another seed"),
        (format!("influence {MLP} --solve subspace --intervals labels"), "whose variants are halves of the draws"),
    ] {
        let intervals = if command.contains("--intervals") { "" } else { "--intervals all" };
        let refused = ended(ascribe(&format!("{command} {intervals} --out {}", folder.arg("refused"))));
        assert_eq!(refused.code, Some(2), "{command}: {}", refused.err);
        assert!(refused.err.contains(problem), "{command}: {}", refused.err);
        assert!(!folder.path("refused").exists());
    }
}

/// `--before`: each query's measurement at another checkpoint stands beside it, and the scores are the same.
#[test]
fn queries_are_measured_at_another_checkpoint_too() {
    let folder = Folder::new();
    let before = "fixtures/mlp-trajectory/checkpoint-336";
    let flags = format!("influence {MLP} --curvature identity --quiet");
    let rankings =
        |name: &str| json_lines(&fs::read_to_string(folder.path(name).join("ranking.jsonl")).expect("written"));
    let shown = done(&format!("{flags} --before {before} --report --out {}", folder.arg("both")));
    done(&format!("{flags} --out {}", folder.arg("now")));
    done(&format!(
        "{} --out {}",
        flags.replace("--model fixtures/mlp-tiny", &format!("--model {before}")),
        folder.arg("then")
    ));
    assert_eq!(scores_of(&folder, "both"), scores_of(&folder, "now"));
    for (both, then) in rankings("both").iter().zip(rankings("then")) {
        let found = both["query"]["before"]["value"].as_f64().expect("a number");
        let want = then["query"]["value"].as_f64().expect("a number");
        assert!((found - want).abs() <= 1e-6 * want.abs().max(1.0), "{found} {want}");
        assert_eq!(both["query"]["before"]["checkpoint"], "checkpoint-336");
        let line = format!("({want:.4} at checkpoint-336, a change of ");
        assert!(shown.out.contains(&line), "{line}: {}", shown.out);
    }
    let page = fs::read_to_string(folder.path("both").join("report.html")).expect("a report");
    assert!(page.contains("At the checkpoint checkpoint-336 this "), "no sentence");
    for (before, problem) in [
        ("fixtures/mlp-tiny", "holds the weights that the queries are asked at"),
        ("fixtures/mlp-regression", "fixtures/mlp-regression"),
        ("fixtures/gpt2-tiny", "fixtures/gpt2-tiny"),
        ("fixtures/nowhere", "fixtures/nowhere"),
    ] {
        let refused = ended(ascribe(&format!("{flags} --before {before} --out {}", folder.arg("none"))));
        assert!(refused.code == Some(2) && refused.err.contains(problem), "{before}: {}", refused.err);
        assert!(!folder.path("none").exists(), "{before}");
    }
}

/// The metadata entry of a run's scores, as JSON.
fn entry(folder: &Folder, run: &str, name: &str) -> Value {
    let file = TensorFile::open(&folder.path(run).join("scores.safetensors")).expect("scores");
    serde_json::from_str(file.metadata(name).expect("an entry")).expect("JSON")
}

/// A run of candidates has the scores that a whole run has for them and for the control sample, but for the order in
/// which batches are summed, and the same curvature; the control sample tells how many were missed.
#[test]
fn candidates_have_the_scores_of_the_whole_run() {
    let folder = Folder::new();
    let (whole, some) = (folder.arg("whole"), folder.arg("some"));
    done(&format!("influence {GPT2} --quiet --out {whole}"));
    let flags = "--candidates bm25:5 --candidate-control 30";
    let plan = done(&format!("influence {GPT2} {flags} --out {some} --dry-run")).out;
    assert!(plan.contains("training examples are candidates (bm25:5)"), "{plan}");
    let printed = done(&format!("influence {GPT2} {flags} --quiet --out {some}")).out;
    assert!(printed.contains("Candidates hold, as means over queries"), "{printed}");

    let indices = |name: &str| -> Vec<usize> {
        let list = entry(&folder, "some", name);
        list.as_array().expect("an array").iter().map(|x| x.as_u64().expect("a place") as usize).collect()
    };
    let (rows, control) = (indices("train_rows"), indices("control_columns"));
    assert!(control.len() == 30 && rows.len() > 35 && rows.len() <= 30 + 40, "{}", rows.len());
    assert_eq!(entry(&folder, "some", "train_size"), 160);
    let (all_ids, ids) = (entry(&folder, "whole", "train_ids"), entry(&folder, "some", "train_ids"));
    assert!(rows.iter().enumerate().all(|(m, &row)| ids[m] == all_ids[row]));
    let (of_whole, found) = (scores_of(&folder, "whole"), scores_of(&folder, "some"));
    let want: Vec<f32> = of_whole.chunks_exact(160).flat_map(|of| rows.iter().map(|&row| of[row])).collect();
    assert_near(&found, &want, 1e-6, "candidates");
    // scores alone differ: what the curvature is made of has the same keys and bytes
    let artifacts = |run: &str| {
        let of_curvature = |(name, _): &(String, Vec<u8>)| name.contains("artifacts") && !name.contains("scores");
        let mut files: Vec<_> = folder.files(&format!("{run}/artifacts")).into_iter().filter(of_curvature).collect();
        files.sort();
        files.into_iter().map(|(name, bytes)| (name.replace("/some/", "/whole/"), bytes)).collect::<Vec<_>>()
    };
    assert!(!artifacts("whole").is_empty() && artifacts("whole") == artifacts("some"));

    // the true recall, and what the sample says of it
    let is_candidate = |row: usize| rows.iter().position(|&of| of == row).is_some_and(|m| !control.contains(&m));
    let ranking = json_lines(&fs::read_to_string(folder.path("some/ranking.jsonl")).expect("a ranking"));
    let (mut held, mut sides) = (0, 0);
    for (query, of_whole) in ranking.iter().zip(of_whole.chunks_exact(160)) {
        for (side, sign) in [("proponents", 1.0), ("opponents", -1.0)] {
            let check = &query["candidates"][side];
            let (listed, threshold) = (check["listed"].as_f64().expect("a number"), check["threshold"].as_f64());
            let beyond = |row: &usize| sign * f64::from(of_whole[*row]) > sign * threshold.expect("a score") + 1e-9;
            let missed = (0..160).filter(|&row| !is_candidate(row)).filter(beyond).count();
            let Some(recall) = check["recall"].as_f64() else { continue };
            let interval = ["low", "high"].map(|end| check["interval"][end].as_f64().expect("an end"));
            let want = listed / (listed + missed as f64);
            assert!(interval[0] <= recall && recall <= interval[1]);
            held += usize::from(interval[0] <= want && want <= interval[1]);
            sides += 1;
        }
        for example in query["proponents"].as_array().expect("a side") {
            let row = example["row"].as_u64().expect("a place") as usize;
            assert_eq!(example["id"], all_ids[row]);
            assert_eq!(example["is_control"].as_bool().unwrap_or(false), !is_candidate(row));
            assert!(!example["excerpt"].as_str().expect("a text").starts_with("row "));
        }
    }
    assert!(sides >= 12 && held >= sides - 1, "{held} of {sides}");
}

/// A control sample of everything that is left out is the whole run.
#[test]
fn a_file_lists_candidates() {
    let folder = Folder::new();
    let whole = folder.arg("whole");
    let run = |flags: &str, out: &str| format!("influence {MLP} --curvature identity --quiet {flags} --out {out}");
    done(&run("", &whole));
    let ids = folder.write("ids.txt", "3\r\n17\n\n5\n");
    let n = scores_of(&folder, "whole").len() / 10;
    let flags = format!("--candidates {ids} --candidate-control");
    let all = done(&run(&format!("{flags} 100000"), &folder.arg("all"))).out;
    assert_near(&scores_of(&folder, "all"), &scores_of(&folder, "whole"), 1e-6, "everything");
    assert!(all.contains("(control) "), "{all}");
    let alone = done(&run(&format!("{flags} 0"), &folder.arg("alone"))).out;
    assert!(alone.contains("without a control sample nothing says what was missed"), "{alone}");
    let want: Vec<f32> = scores_of(&folder, "whole").chunks_exact(n).flat_map(|of| [of[3], of[5], of[17]]).collect();
    assert_near(&scores_of(&folder, "alone"), &want, 1e-6, "three");
    // every leg of Source has the columns, each of its own network
    let source = |flags: &str, out: &str| {
        done(&format!("source --run fixtures/mlp-trajectory {ROWS} --quiet {flags} --out {}", folder.arg(out)));
        scores_of(&folder, out)
    };
    let want: Vec<f32> = source("", "legs").chunks_exact(n).flat_map(|of| [of[3], of[5], of[17]]).collect();
    assert_near(&source(&format!("{flags} 0"), "some-legs"), &want, 1e-6, "Source");
    // the same folder, another choice: other scores, which are not mixed in
    let refused = ended(ascribe(&run(&format!("{flags} 1"), &folder.arg("alone"))));
    assert_eq!(refused.code, Some(2), "{}", refused.err);
}

/// In shards and joined, with all steps by themselves.
#[test]
fn candidates_are_scored_in_shards() {
    let folder = Folder::new();
    let (whole, run) = (folder.arg("whole"), folder.arg("run"));
    let flags = format!("{GPT2} --curvature identity --candidates tfidf:4 --candidate-control 9 --quiet");
    let want = done(&format!("influence {flags} --out {whole}")).out;
    done(&format!("fit {flags} --out {run}"));
    done(&format!("query --out {run} --quiet"));
    done(&format!("score --out {run} --shard 2/2 --quiet"));
    done(&format!("score --out {run} --shard 1/2 --quiet"));
    done(&format!("merge --out {run} --quiet"));
    assert_eq!(done(&format!("rank --out {run} --quiet")).out, want);
}

#[test]
fn choices_of_candidates_that_mean_nothing_are_refused() {
    let folder = Folder::new();
    let file = |name: &str, content: &str| folder.write(name, content);
    let (unknown, twice, empty) =
        (file("unknown", "fact-0-c\nnobody\n"), file("twice", "3\n4\n3\n"), file("empty", "\n\n"));
    let tokens = file("tokens.jsonl", "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [4, 5, 6]}\n");
    let strange = file("strange.jsonl", "{\"text\": \"Zzyzx\"}\n");
    let gpt2 = |train: &str, queries: &str| {
        format!("--model fixtures/gpt2-tiny --train {train} --queries {queries} --curvature identity")
    };
    let (train, queries) = ("fixtures/gpt2-tiny/train.jsonl", "fixtures/gpt2-tiny/queries.jsonl");
    let mut text = String::new();
    for flags in [
        format!("{GPT2} --candidates {unknown}"),
        format!("{MLP} --candidates {twice}"),
        format!("{MLP} --candidates {empty}"),
        format!("{MLP} --candidates nowhere.txt"),
        format!("{MLP} --candidates bm25:5"),
        format!("{} --candidates bm25:1", gpt2(&tokens, queries)),
        format!("{} --candidates bm25:1", gpt2(train, &strange)),
        format!("{GPT2} --candidates bm25"),
        format!("{GPT2} --candidate-control 5"),
        format!("{GPT2} --candidates bm25:5 --pack 16"),
        format!("{GPT2} --candidates bm25:5 --group-by topic"),
        format!("{GPT2} --candidates bm25:5 --store-scores top"),
    ] {
        let ended = ended(ascribe(&format!("influence {flags} --out {} --quiet", folder.arg("run"))));
        assert_eq!(ended.code, Some(2), "{flags}\n{}", ended.out);
        text.push_str(&folder.filtered(&format!("$ {flags}\n{}\n", ended.err)));
    }
    assert!(!folder.path("run").exists(), "nothing is written");
    insta::assert_snapshot!(text);
    let many = done(&format!("influence {GPT2} --candidates bm25:161 --out {} --dry-run", folder.arg("run")));
    assert!(many.out.contains("asks for more than there are: all 160 training examples are scored"), "{}", many.out);
}
