//! `--query-rank`: queries as factors, from flags to rankings.

use std::fs;

use crate::support::{
    Folder, GPT2, MLP, TRAINER, ascribe, assert_near, correlations, done, ended, json_lines, scores_of,
};
use ascribe::attribution::store::TensorFile;

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

/// The share of each query's squared norm that the artifact of its vectors says was kept, over all layers.
fn kept(folder: &Folder, queries: usize, run: &str) -> Vec<f64> {
    let mut files = fs::read_dir(folder.path(run).join("artifacts")).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|file| file.file_name().unwrap().to_string_lossy().starts_with("queries-"));
    let file = TensorFile::open(&file.expect("vectors")).expect("readable");
    let norms = file.f64("ascribe.captured").expect("norms"); // [legs, layers, queries, 2]
    let places = norms.len() / (2 * queries);
    let sum = |query: usize, which: usize| -> f64 {
        (0..places).map(|place| norms[2 * (place * queries + query) + which]).sum()
    };
    (0..queries).map(|query| sum(query, 0) / sum(query, 1)).collect()
}

/// Each query's share and correlation are those that were recorded, up to the digits that are written down.
#[track_caller]
fn assert_recorded(found: &[(f64, f64)], recorded: &[(f64, f64)]) {
    assert_eq!(found.len(), recorded.len());
    for (found, recorded) in found.iter().zip(recorded) {
        let is_near = (found.0 - recorded.0).abs() < 2e-4 && (found.1 - recorded.1).abs() < 2e-3;
        assert!(is_near, "found {found:?}, recorded {recorded:?}");
    }
}

#[test]
fn scores_of_low_rank_are_as_near_as_the_captured_norm_says() {
    let folder = Folder::new();
    let run = |name: &str, flags: &str| done(&format!("influence {GPT2} --out {} {flags}", folder.arg(name)));
    run("exact", "--quiet");
    let of_rank_2 = [
        (0.8717, 0.963),
        (0.8655, 0.924),
        (0.8691, 0.943),
        (0.8467, 0.971),
        (0.8888, 0.968),
        (0.8713, 0.927),
        (0.8885, 0.938),
        (0.8679, 0.976),
    ];
    let of_rank_8 = [
        (0.9828, 0.995),
        (0.9844, 0.995),
        (0.9861, 0.995),
        (0.9805, 0.997),
        (0.9872, 0.996),
        (0.9865, 0.996),
        (0.9876, 0.996),
        (0.9824, 0.996),
    ];
    for (rank, recorded, disk) in [(2, of_rank_2, "64.5 KiB"), (8, of_rank_8, "258.0 KiB")] {
        let name = format!("rank-{rank}");
        let shown = run(&name, &format!("--query-rank {rank} --factors {}", folder.arg("exact")));
        let plan = format!("vectors   of rank {rank} in 8 of 8 layers: {disk} instead of 786.0 KiB\n");
        assert!(shown.err.contains(&plan), "{}", shown.err);
        let compared = compare(&folder, "exact", &name);
        assert_recorded(&compared, &recorded);
        for ((found, _), kept) in compared.into_iter().zip(kept(&folder, recorded.len(), &name)) {
            assert!((found - kept).abs() < 1e-12, "{rank}: {found} in the results, {kept} in the vectors");
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
    let recorded = [(0.9993, 0.989), (0.9996, 0.984), (0.9994, 0.994), (0.9998, 0.994)];
    assert_recorded(&compare(&folder, "exact", "low"), &recorded);
    let tracin = json_lines(&fs::read_to_string(folder.path("low/ranking.tracin.jsonl")).unwrap());
    for (ranking, recorded) in tracin.iter().zip([0.9973, 0.9963, 0.9974, 0.9978]) {
        let captured = ranking["query"]["captured"].as_f64().unwrap();
        assert!((captured - recorded).abs() < 2e-4, "found {captured}, recorded {recorded}");
    }

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
