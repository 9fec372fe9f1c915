//! `--query-rank`: queries as factors, from flags to rankings.

mod support;

use std::fs;

use support::{Folder, GPT2, MLP, TRAINER, ascribe, assert_near, correlations, done, ended, json_lines, scores_of};

/// Each query's share, and its correlation with the exact scores.
fn compare(folder: &Folder, exact: &str, low: &str) -> Vec<(f64, f64)> {
    let rankings = json_lines(&fs::read_to_string(folder.path(low).join("ranking.jsonl")).unwrap());
    let captured = rankings.iter().map(|ranking| ranking["query"]["captured"].as_f64().unwrap());
    captured.zip(correlations(folder, rankings.len(), exact, low)).collect()
}

/// Bytes of the file of query vectors.
fn vector_bytes(folder: &Folder, run: &str) -> u64 {
    let files = fs::read_dir(folder.path(run).join("artifacts")).unwrap().map(|entry| entry.unwrap());
    let queries = files.filter(|file| file.file_name().to_string_lossy().starts_with("queries-"));
    queries.map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn scores_of_low_rank_are_as_near_as_the_captured_norm_says() {
    let folder = Folder::new();
    let run = |name: &str, flags: &str| done(&format!("influence {GPT2} --out {} {flags}", folder.arg(name)));
    run("exact", "--quiet");
    for (rank, captured, correlated, disk) in [(2, 0.8, 0.9, "64.5 KiB"), (8, 0.975, 0.99, "258.0 KiB")] {
        let name = format!("rank-{rank}");
        let shown = run(&name, &format!("--query-rank {rank} --factors {}", folder.arg("exact")));
        let plan = format!("vectors   of rank {rank} in 8 of 8 layers: {disk} instead of 786.0 KiB\n");
        assert!(shown.err.contains(&plan), "{}", shown.err);
        for (found, correlation) in compare(&folder, "exact", &name) {
            assert!(found > captured && found < 0.99 && correlation > correlated, "{rank}: {found} {correlation}");
            let line = format!("\n  captured {:.1} %: scores are approximate; raise --query-rank\n", 100.0 * found);
            assert!(shown.out.contains(&line), "{line}{}", shown.out);
        }
    }
    // rank 8: a third of the numbers, and a header
    let [exact, low] = ["exact", "rank-8"].map(|name| vector_bytes(&folder, name));
    assert!(exact > 786 << 10 && low < 268 << 10, "{exact} {low}");
    // the same queries, found in another run, and kept as their best and worst alone
    let factors = folder.arg("rank-8");
    let top = run("top", &format!("--query-rank 8 --factors {factors} --store-scores top --verbose"));
    assert!(top.err.contains("queries            found from before"), "{}", top.err);
    let rankings = |name: &str| fs::read_to_string(folder.path(name).join("ranking.jsonl")).unwrap();
    assert_eq!(rankings("top"), rankings("rank-8"));
    let refused = ended(ascribe(&format!("influence {GPT2} --out {} --query-rank 0", folder.arg("none"))));
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("`--query-rank` is 0"), "{}", refused.err);
}

#[test]
fn a_rank_that_no_layer_exceeds_is_exact() {
    let folder = Folder::new();
    done(&format!("influence {MLP} --out {} --quiet", folder.arg("exact")));
    let high = done(&format!("influence {MLP} --out {} --query-rank 100", folder.arg("high")));
    assert!(high.err.contains("vectors   whole: no tracked layer has smaller ones of rank 100\n"), "{}", high.err);
    assert!(!high.out.contains("captured"), "{}", high.out);
    assert_eq!(scores_of(&folder, "exact"), scores_of(&folder, "high"));
    assert!(compare(&folder, "exact", "high").iter().all(|&(captured, _)| captured == 1.0));
}

/// AdamW, so that curvature is conditioned; in shards as at once.
#[test]
fn source_takes_low_rank_in_every_leg() {
    let folder = Folder::new();
    done(&format!("source {TRAINER} --out {} --with tracin --quiet", folder.arg("exact")));
    let flags = format!("{TRAINER} --query-rank 6 --with tracin");
    done(&format!("source {flags} --out {} --quiet", folder.arg("low")));
    for (captured, correlation) in compare(&folder, "exact", "low") {
        assert!(captured > 0.95 && captured < 1.0 && correlation > 0.98, "{captured} {correlation}");
    }
    let tracin = json_lines(&fs::read_to_string(folder.path("low/ranking.tracin.jsonl")).unwrap());
    assert!(tracin.iter().all(|ranking| ranking["query"]["captured"].as_f64().unwrap() > 0.9));

    let run = folder.arg("shards");
    done(&format!("fit {flags} --out {run} --quiet"));
    done(&format!("query --out {run} --quiet"));
    for shard in ["2/2", "1/2"] {
        done(&format!("score --out {run} --shard {shard} --quiet"));
    }
    done(&format!("merge --out {run} --quiet"));
    done(&format!("rank --out {run} --quiet"));
    // batches of the second shard end at other places
    assert_near(&scores_of(&folder, "shards"), &scores_of(&folder, "low"), 1e-5, "shards");
}
