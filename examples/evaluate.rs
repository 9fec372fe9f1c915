//! An evaluation script: fit once, score two sets of queries, rank, and read each query's results.
//!
//! `cargo run --release --example evaluate`

#![allow(clippy::print_stdout)] // an example talks to its reader

use std::path::{Path, PathBuf};

use ascribe::job::{DataRequest, Job, MethodRequest, ModelRequest, OutputRequest, Plan, Precision, Side};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gpt2-tiny");
    let out = tempfile::tempdir()?;
    let job = |queries: &str, run: PathBuf| Job {
        model: ModelRequest { path: fixture.clone(), layers: vec![], skip_layers: vec![], dtype: Precision::F32 },
        data: DataRequest {
            train: fixture.join("train.jsonl"),
            queries: Some(fixture.join(queries)),
            tokenizer: None,
            max_length: None,
            pack: None,
            add_bos: Side::None,
            add_eos: Side::Train,
            train_size: None,
        },
        method: MethodRequest::default(),
        resources: Default::default(),
        output: OutputRequest {
            path: run,
            top: 3,
            store_scores: Default::default(),
            csv: false,
            scale: Default::default(),
        },
    };
    for queries in ["queries.jsonl", "documents.jsonl"] {
        let plan = Plan::resolve(job(queries, out.path().join(queries)))?;
        for ranking in plan.run(&())? {
            println!("{}: {}", ranking.query.id, ranking.query.excerpt);
            for example in &ranking.proponents {
                println!("    {:+.5}  {}  {}", example.score, example.id, example.excerpt);
            }
        }
    }
    Ok(())
}
