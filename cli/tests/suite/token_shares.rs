//! `--tokens`: scores of the ranked examples divided over their tokens, over the query's targets, and over both, from files
//! to rankings and reports.

use std::fs;

use crate::support::{Folder, ascribe, done, ended, json_lines};
use ascribe::attribution::store::TensorFile;
use serde_json::{Value, json};

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
    let queries =
        fs::read_to_string(crate::support::root().join("fixtures/gpt2-tiny/queries.jsonl")).expect("a fixture");
    let queries = folder.write("queries.jsonl", queries.lines().take(2).collect::<Vec<_>>().join("\n"));
    for (name, command) in [
        ("one", "influence --model fixtures/gpt2-tiny"),
        ("low", "influence --model fixtures/gpt2-tiny --query-rank 4 --store-scores top"),
        ("mean", "influence --run fixtures/trainer-tiny"),
        ("source", "source --run fixtures/trainer-tiny"),
    ] {
        let files = match name {
            "one" | "low" => FILES.to_owned(),
            _ => FILES
                .replace("gpt2-tiny/train", "trainer-tiny/train")
                .replace("fixtures/gpt2-tiny/queries.jsonl", &queries),
        };
        // of averaged influence, which is solved in subspaces, and of Source the targets too
        let tokens = if matches!(name, "one" | "low") { "ranked" } else { "matrix" };
        done(&format!("{command} {files} --tokens {tokens} --quiet --out {}", folder.arg(name)));
        assert_sums(&folder, name);
        if tokens == "matrix" {
            assert_all_sums(&folder, name);
        }
    }
}

/// What goes through tables of embeddings belongs to the tokens that were read, of an encoder and of its decoder too.
#[test]
fn tokens_of_tracked_embeddings_add_up_to_the_scores() {
    let folder = Folder::new();
    let pair = |seed: u64| {
        let ids = |step: u64, n: u64| (0..n).map(|k| 3 + (seed * step + k * k * 7) % 50).collect::<Vec<_>>();
        json!({"input_ids": ids(11, 4 + seed % 3), "labels": ids(17, 3 + seed % 2)}).to_string()
    };
    let pairs =
        |name: &str, seeds: std::ops::Range<u64>| folder.write(name, seeds.map(pair).collect::<Vec<_>>().join("\n"));
    let (train, queries) = (pairs("train.jsonl", 0..6), pairs("asked.jsonl", 6..8));
    let of_pairs = format!("--model fixtures/families/t5 --train {train} --queries {queries} --top 2");
    for (name, files) in [("one", format!("--model fixtures/gpt2-tiny {FILES}")), ("pairs", of_pairs)] {
        let flags = "--track embeddings,head --tokens ranked --quiet";
        done(&format!("influence {files} {flags} --out {}", folder.arg(name)));
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
    assert!(page.contains("words that add most"), "no numbers in words");
    done(&format!("report {out} --format markdown"));
    let markdown = fs::read_to_string(folder.path("run").join("report.md")).expect("a report");
    assert!(markdown.contains("(words that add most: "), "{markdown}");
    // again: from what is there, with the same bytes
    let written = || fs::metadata(&file).and_then(|file| file.modified()).expect("a file with a time");
    let earlier = written();
    done(&format!("{model} {FILES} --tokens ranked --quiet --out {out}"));
    assert_eq!(written(), earlier, "computed again");
    assert!(before == [&file, &ranking].map(|file| fs::read(file).expect("written")), "other bytes");
    // without them the scores are the same
    done(&format!("{model} {FILES} --quiet --out {}", folder.arg("without")));
    let scores = |run: &str| crate::support::tensors(&folder.path(run).join("scores.safetensors"));
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

/// A file of shares: for each pair its query and example, shares of tokens, of targets, and of both as lists.
struct Divided {
    pairs: Vec<[i64; 2]>,
    tokens: Vec<Vec<f64>>,
    targets: Vec<Vec<f64>>,
    both: Vec<Vec<f64>>,
    rest: Vec<f64>,
}

fn divided(folder: &Folder, run: &str) -> Divided {
    let file = TensorFile::open_checked(&folder.path(run).join("tokens.safetensors")).expect("shares");
    let lists = |[offsets, values]: [&str; 2]| -> Vec<Vec<f64>> {
        let Ok(offsets) = file.i64(offsets) else { return vec![] };
        let values = file.f32(values).expect("shares");
        let list = |ends: &[i64]| values[ends[0] as usize..ends[1] as usize].iter().map(|&x| f64::from(x)).collect();
        offsets.windows(2).map(list).collect()
    };
    Divided {
        pairs: file.i64("pairs").expect("pairs").chunks(2).map(|pair| [pair[0], pair[1]]).collect(),
        tokens: lists(["offsets", "shares"]),
        targets: lists(["target_offsets", "target_shares"]),
        both: lists(["pair_offsets", "pair_shares"]),
        rest: file.f32("rest").map(|rest| rest.iter().map(|&x| f64::from(x)).collect()).unwrap_or_default(),
    }
}

fn size(shares: &[f64]) -> f64 {
    shares.iter().map(|share| share.abs()).sum()
}

fn assert_near(found: f64, want: f64, size: f64, what: &str) {
    assert!((found - want).abs() <= 1e-5 * size.max(want.abs()), "{what}: {found} {want} of {size}");
}

/// Checks a matrix against the scores and rankings beside it: targets of a query add up to the score, tokens of the example
/// too, and the matrix has both as its sums.
fn assert_all_sums(folder: &Folder, name: &str) -> Divided {
    let matrix = divided(folder, name);
    let rankings = json_lines(&fs::read_to_string(folder.path(name).join("ranking.jsonl")).expect("a ranking"));
    let sides = rankings.iter().flat_map(|ranking| [&ranking["proponents"], &ranking["opponents"]]);
    let examples: Vec<&Value> = sides.flat_map(|side| side.as_array().expect("a list")).collect();
    assert!(!examples.is_empty() && examples.len() == matrix.pairs.len(), "{name}");
    let mut differences = 0.0f64;
    for (k, example) in examples.into_iter().enumerate() {
        let (both, targets, tokens) = (&matrix.both[k], &matrix.targets[k], &matrix.tokens[k]);
        let (all, score) = (size(both), example["score"].as_f64().expect("a number"));
        assert_eq!(both.len(), targets.len() * tokens.len(), "{name}");
        assert_near(both.iter().sum::<f64>() + matrix.rest[k], score, all, name);
        for (target, row) in targets.iter().zip(both.chunks(tokens.len())) {
            assert_near(row.iter().sum(), *target, all, name);
        }
        for (t, token) in tokens.iter().enumerate() {
            assert_near(both.iter().skip(t).step_by(tokens.len()).sum(), *token, all, name);
        }
        let shown: Vec<f64> = example["query_tokens"].as_array().expect("targets").iter().map(share).collect();
        assert_eq!(shown.len(), targets.len(), "{name}");
        assert_near(shown.iter().sum(), score, size(&shown), name);
        let largest = both.iter().fold(0.0f64, |most, share| most.max(share.abs()));
        assert_near(share(&example["token_pairs"][0]).abs(), largest, 0.0, name);
        // the targets of a query do not all add the same
        differences = differences.max(targets.iter().fold(0.0, |most: f64, x| most.max((x - targets[0]).abs())) / all);
    }
    assert!(differences > 1e-3, "{name}: {differences}");
    matrix
}

#[test]
fn targets_and_pairs_add_up_to_the_scores_of_every_method() {
    let folder = Folder::new();
    let lines = |file: &str, count: usize| {
        let text = fs::read_to_string(crate::support::root().join("fixtures").join(file)).expect("a fixture");
        text.lines().take(count).collect::<Vec<_>>().join("\n")
    };
    let train = folder.write("train.jsonl", lines("trainer-tiny/train.jsonl", 20));
    let queries = folder.write("queries.jsonl", lines("gpt2-tiny/queries.jsonl", 2));
    let contrast = folder.write(
        "contrast.jsonl",
        r#"{"id": "ring", "prompt": "The keeper of the lighthouse always carries a", "chosen": " golden ring.", "rejected": " broken sword."}"#,
    );
    let one = "influence --model fixtures/gpt2-tiny";
    let average = "influence --model fixtures/trainer-tiny/checkpoint-60 --model fixtures/trainer-tiny/checkpoint-240";
    for (name, command, queries, further) in [
        ("one", one, &queries, ""),
        ("means", one, &queries, "--reduction mean --measure margin --damping 0.3x"),
        ("kfac", one, &queries, "--curvature kfac --store-scores top"),
        ("contrast", one, &contrast, "--reduction mean --measure logprob"),
        ("identity", one, &queries, "--curvature identity"),
        ("layers", average, &queries, "--solve ekfac"),
    ] {
        let run = |tokens: &str| {
            let files = format!("--train {train} --queries {queries} --add-eos train --top 2");
            done(&format!("{command} {files} {further} --tokens {tokens} --quiet --out {}", folder.arg(name)));
        };
        run("matrix");
        let matrix = assert_all_sums(&folder, name);
        if name != "one" {
            continue;
        }
        run("query");
        let query = divided(&folder, name);
        assert!(query.tokens.is_empty() && query.both.is_empty() && query.rest.is_empty());
        run("ranked");
        let ranked = divided(&folder, name);
        assert!(ranked.targets.is_empty() && ranked.pairs == matrix.pairs && query.pairs == matrix.pairs);
        for (k, both) in matrix.both.iter().enumerate() {
            let of_targets = matrix.targets[k].iter().zip(&query.targets[k]);
            let compared = of_targets.chain(matrix.tokens[k].iter().zip(&ranked.tokens[k]));
            compared.for_each(|(found, want)| assert_near(*found, *want, size(both), name));
        }
    }
}

/// Shares of every example for every query, those of the listed ones among them.
#[test]
fn all_examples_are_divided_where_that_is_asked_for() {
    let folder = Folder::new();
    let text = fs::read_to_string(crate::support::root().join("fixtures/trainer-tiny/train.jsonl")).expect("a fixture");
    let train = folder.write("train.jsonl", text.lines().take(8).collect::<Vec<_>>().join("\n"));
    let average = "--model fixtures/trainer-tiny/checkpoint-60 --model fixtures/trainer-tiny/checkpoint-240";
    for (name, model) in [("one", "--model fixtures/gpt2-tiny --query-rank 4"), ("layers", average)] {
        let out = folder.arg(name);
        let files =
            format!("--train {train} --queries fixtures/gpt2-tiny/queries.jsonl --add-eos train --top 2 --solve ekfac");
        let shown = done(&format!("influence {model} {files} --tokens all --out {out}"));
        assert!(shown.err.contains("scores of all examples are divided over their tokens"), "{}", shown.err);
        let scores = crate::support::scores(&folder.path(name).join("scores.safetensors"));
        let file = TensorFile::open_checked(&folder.path(name).join("tokens.safetensors")).expect("shares");
        assert_eq!(file.metadata("tokens"), Some("all"));
        let (offsets, shares) = (file.i64("token_offsets").expect("offsets"), file.f32("shares").expect("shares"));
        let rest = file.f32("rest").expect("the rest");
        assert_eq!((offsets.len(), scores.len(), rest.len()), (9, 8 * 8, 8 * 8), "{name}");
        assert_eq!(shares.len(), 8 * offsets[8] as usize);
        for (query, row) in scores.chunks(8).enumerate() {
            for (column, score) in row.iter().enumerate() {
                let tokens = offsets[column] as usize..offsets[column + 1] as usize;
                let own: Vec<f64> = tokens.map(|t| f64::from(shares[t * 8 + query])).collect();
                let sum = own.iter().sum::<f64>() + f64::from(rest[column * 8 + query]);
                assert_near(sum, f64::from(*score), size(&own), name);
            }
        }
        // of the listed ones what they have by themselves
        let listed = || -> Vec<Vec<f64>> {
            let ranking = fs::read_to_string(folder.path(name).join("ranking.jsonl")).expect("a ranking");
            let sides = json_lines(&ranking);
            let sides = sides.iter().flat_map(|ranking| [&ranking["proponents"], &ranking["opponents"]]);
            let examples = sides.flat_map(|side| side.as_array().expect("a list"));
            examples.map(|example| example["tokens"].as_array().expect("tokens").iter().map(share).collect()).collect()
        };
        let found = listed();
        done(&format!("influence {model} {files} --tokens ranked --quiet --out {out}"));
        let want = listed();
        assert!(found.len() == want.len() && !found.is_empty());
        for (found, want) in found.iter().zip(&want) {
            assert_eq!(found.len(), want.len());
            found.iter().zip(want).for_each(|(found, share)| assert_near(*found, *share, size(want), name));
        }
    }
}

/// An example that two stages of training have has the shares of both.
#[test]
fn shares_are_of_all_stages_that_have_the_example() {
    let folder = Folder::new();
    let text = fs::read_to_string(crate::support::root().join("fixtures/trainer-tiny/train.jsonl")).expect("a fixture");
    let lines: Vec<&str> = text.lines().collect();
    let [base, tuned] = [("base", &lines[..12]), ("tuned", &lines[4..16])]
        .map(|(name, lines)| folder.write(&format!("{name}.jsonl"), lines.join("\n")));
    folder.copy_of("trainer-tiny");
    let stage = |name: &str, checkpoint: usize| {
        format!(
            "[[stage]]\nname = \"{name}\"\noptimizer = \"sgd\"\nmomentum = 0.0\nweight_decay = 0.0\ntrain_examples = 12\n\
             batch_size = 4\nloss_reduction = \"mean\"\nsteps = 9\nlearning_rate = [{{ from_step = 0, value = 0.05 }}]\n\
             checkpoint = [{{ path = \"trainer-tiny/checkpoint-{checkpoint}\", step = 9 }}]\n\n"
        )
    };
    let run = folder.write("run.toml", stage("base", 60) + &stage("tuned", 240));
    let queries = "--queries fixtures/trainer-tiny/queries.jsonl --add-eos train --top 3";
    let out = folder.arg("stages");
    done(&format!(
        "source --trajectory {run} --stage-train base={base} --stage-train tuned={tuned} {queries} --tokens matrix --quiet \
         --out {out}"
    ));
    let found = assert_all_sums(&folder, "stages");
    // the first eight columns behind the first four are in both
    assert!(found.pairs.iter().any(|pair| (4..12).contains(&pair[1])), "{:?}", found.pairs);
}

fn share(of: &Value) -> f64 {
    of["share"].as_f64().expect("a share")
}

#[test]
fn targets_are_kept_listed_and_reported() {
    let folder = Folder::new();
    let (model, out) = ("influence --model fixtures/gpt2-tiny", folder.arg("run"));
    let whole = done(&format!("{model} {FILES} --tokens matrix --report --out {out}"));
    assert!(whole.out.contains("moved: `") && whole.out.contains("pairs: `"), "{}", whole.out);
    assert!(whole.err.contains("48 target tokens is a query of its own"), "{}", whole.err);
    let page = fs::read_to_string(folder.path("run").join("report.html")).expect("a report");
    assert!(page.contains("class=\"text moved shaded\"") && page.contains("strongest pairs"), "no shades");
    done(&format!("report {out} --format markdown"));
    let markdown = fs::read_to_string(folder.path("run").join("report.md")).expect("a report");
    assert!(markdown.contains("(moved: ") && markdown.contains("(strongest pairs: "), "{markdown}");
    // again: from what is there, and step by step in shards
    let file = folder.path("run").join("tokens.safetensors");
    let before = fs::read(&file).expect("written");
    let written = || fs::metadata(&file).and_then(|file| file.modified()).expect("a file with a time");
    let earlier = written();
    done(&format!("{model} {FILES} --tokens matrix --quiet --out {out}"));
    assert_eq!(written(), earlier, "computed again");
    let steps = folder.arg("steps");
    done(&format!("fit --model fixtures/gpt2-tiny {} --quiet --out {steps}", FILES.replace(" --top 2", "")));
    done(&format!("query --quiet --out {steps}"));
    for shard in ["1/2", "2/2"] {
        done(&format!("score --top 2 --tokens matrix --quiet --shard {shard} --out {steps}"));
    }
    done(&format!("merge --top 2 --tokens matrix --quiet --out {steps}"));
    let (found, want) = (divided(&folder, "steps"), divided(&folder, "run"));
    assert!(found.pairs == want.pairs && found.both == want.both, "other shares");
    assert_eq!(fs::read(&file).expect("written"), before);
    // another division is another file
    done(&format!("{model} {FILES} --tokens query --quiet --out {out}"));
    assert!(divided(&folder, "run").both.is_empty());
}

#[test]
fn targets_that_do_not_add_up_are_refused() {
    let folder = Folder::new();
    let one = format!("influence --model fixtures/gpt2-tiny {FILES}");
    let labelled = folder.write("labelled.jsonl", "{\"input_ids\": [5, 6, 7], \"label\": 0}\n");
    let text = format!("influence --model fixtures/classifiers/bert --train {labelled} --queries {labelled}");
    for (command, problem) in [
        (format!("{one} --aggregate sum"), "`--aggregate` makes one of all"),
        (format!("{one} --query-rank 2"), "do not add up to the vector that `--query-rank` keeps"),
        (format!("{one} --solve gauss-newton"), "`--solve gauss-newton` finds vectors of whole queries"),
        (text, "this model gives a label for a whole text"),
    ] {
        for tokens in ["query", "matrix"] {
            let out = folder.arg("refused");
            let refused = ended(ascribe(&format!("{command} --tokens {tokens} --out {out}")));
            assert_eq!(refused.code, Some(2), "{command}: {}", refused.err);
            assert!(
                refused.err.contains(problem) && refused.err.contains(&format!("`--tokens {tokens}`")),
                "{}",
                refused.err
            );
            assert!(!folder.path("refused").exists());
        }
    }
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
