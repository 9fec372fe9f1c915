//! `--query-rank`: queries as factors, from flags to rankings.

mod support;

use std::fs;

use ascribe::attribution::evaluate::spearman;
use ascribe::attribution::store::TensorFile;
use serde_json::Value;
use support::{Folder, GPT2, MLP, TRAINER, ascribe, done, ended, json_lines};

fn scores(folder: &Folder, run: &str) -> Vec<f32> {
    let file = TensorFile::open(&folder.path(run).join("scores.safetensors")).expect("scores");
    file.f32("scores").expect("f32").to_vec()
}

/// Each query's share, and its correlation with the exact scores.
fn compare(folder: &Folder, exact: &str, low: &str) -> Vec<(f64, f64)> {
    let (exact, found) = (scores(folder, exact), scores(folder, low));
    let rankings = json_lines(&fs::read_to_string(folder.path(low).join("ranking.jsonl")).unwrap());
    let n = exact.len() / rankings.len();
    let wide = |row: &[f32]| row.iter().copied().map(f64::from).collect::<Vec<f64>>();
    let rows = exact.chunks_exact(n).zip(found.chunks_exact(n)).zip(&rankings);
    rows.map(|((exact, found), ranking)| {
        (ranking["query"]["captured"].as_f64().unwrap(), spearman(&wide(exact), &wide(found)))
    })
    .collect()
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
    let mut before = 0.0;
    for rank in ["2", "8"] {
        let name = format!("rank-{rank}");
        let shown = run(&name, &format!("--query-rank {rank} --factors {} --progress never", folder.arg("exact")));
        let found = compare(&folder, "exact", &name);
        eprintln!("{rank}: {found:?}\n{}\n{}", shown.err, shown.out.lines().take(8).collect::<Vec<_>>().join("\n"));
        eprintln!("{} {}", vector_bytes(&folder, &name), vector_bytes(&folder, "exact"));
        let least = found.iter().map(|(captured, _)| *captured).fold(1.0, f64::min);
        assert!(least > before);
        before = least;
    }
}
