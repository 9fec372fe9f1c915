//! An evaluation script: fit once, score two sets of queries, rank, and read each query's results.
//!
//! `cargo run --release --example evaluate`

#![allow(clippy::print_stdout)] // an example talks to its reader

use std::path::{Path, PathBuf};

use ascribe::job::{Job, Plan, Side};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gpt2-tiny");
    let out = tempfile::tempdir()?;
    let mut fitted: Option<PathBuf> = None;
    for queries in ["queries.jsonl", "documents.jsonl"] {
        let run = out.path().join(queries);
        let mut job = Job::new(&fixture, fixture.join("train.jsonl"), &run);
        job.data.queries = Some(fixture.join(queries));
        job.data.add_eos = Side::Train;
        job.output.top = 3;
        job.method.factors = fitted.clone(); // the first run fits the curvature, the second reads it there
        for ranking in Plan::resolve(job)?.run(&())? {
            println!("{}: {}", ranking.query.id, ranking.query.excerpt);
            for example in &ranking.proponents {
                println!("    {:+.5}  {}  {}", example.score, example.id, example.excerpt);
            }
        }
        fitted.get_or_insert(run);
    }
    Ok(())
}
