//! `--eigen-block-width`: covariances cut into blocks, from flags to scores.

use std::fs;

use crate::support::{Folder, GPT2, TRAINER, ascribe, assert_near, correlations, done, ended, root, scores_of};
use ascribe::attribution::store::TensorFile;
use ascribe::curvature::SymmetricMatrix;
use serde_json::{Value, json};

fn artifact(folder: &Folder, run: &str, kind: &str) -> TensorFile {
    let mut files = fs::read_dir(folder.path(run).join("artifacts")).unwrap().map(|entry| entry.unwrap().path());
    let of_kind = |file: &std::path::PathBuf| file.file_name().unwrap().to_string_lossy().starts_with(kind);
    TensorFile::open(&files.find(of_kind).expect("one")).expect("a file of tensors")
}

/// The small Qwen2 with a vocabulary of this many tokens, whose rows repeat those that it has.
fn with_tokens(folder: &Folder, tokens: usize) -> String {
    let from = root().join("fixtures/families/qwen2");
    let mut keys: Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    keys["vocab_size"] = json!(tokens);
    let file = fs::read(from.join("model.safetensors")).unwrap();
    let (length, rest) = file.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let mut tensors: Value = serde_json::from_slice(header).unwrap();
    let mut bytes: Vec<u8> = vec![];
    for (name, tensor) in tensors.as_object_mut().unwrap().iter_mut().filter(|(name, _)| *name != "__metadata__") {
        let [start, end] = [0, 1].map(|k| tensor["data_offsets"][k].as_u64().unwrap() as usize);
        let before = bytes.len();
        if matches!(name.as_str(), "model.embed_tokens.weight" | "lm_head.weight") {
            let row = (end - start) / tensor["shape"][0].as_u64().unwrap() as usize;
            tensor["shape"][0] = json!(tokens);
            bytes.extend(data[start..end].iter().cycle().take(tokens * row));
        } else {
            bytes.extend(&data[start..end]);
        }
        tensor["data_offsets"] = json!([before, bytes.len()]);
    }
    let header = tensors.to_string();
    let model = folder.path("model");
    fs::create_dir(&model).unwrap();
    fs::write(model.join("config.json"), keys.to_string()).unwrap();
    let whole = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes].concat();
    fs::write(model.join("model.safetensors"), whole).unwrap();
    folder.arg("model")
}

/// Head and embedding of more than 4,096 tokens have covariances in blocks, whatever width is asked for.
#[test]
fn covariances_of_large_vocabularies_are_kept_in_blocks() {
    let folder = Folder::new();
    let model = with_tokens(&folder, 4_100);
    let line =
        |seed: usize| json!({"input_ids": (0..9).map(|k| 3 + (seed * 977 + k * k * 131) % 4_000).collect::<Vec<_>>()});
    let lines = |seeds: std::ops::Range<usize>| seeds.map(|seed| line(seed).to_string()).collect::<Vec<_>>().join("\n");
    let (train, queries) = (folder.write("train.jsonl", lines(0..5)), folder.write("asked.jsonl", lines(5..7)));
    let files = format!("--model {model} --train {train} --queries {queries} --track head,embeddings");
    let whole = done(&format!("influence {files} --verbose --out {}", folder.arg("whole")));
    let note = "the covariance `lm_head.output` of 4100 tokens is kept in 5 blocks on its diagonal";
    assert!(whole.err.contains(note), "{}", whole.err);
    assert!(!whole.err.contains("embed_tokens.input"), "nothing is dropped of a table: {}", whole.err);
    assert!(whole.err.contains("lm_head 4100 x 16, eigenbasis in 5 and 1 blocks"), "{}", whole.err);
    let (covariance, basis) = (artifact(&folder, "whole", "covariance-"), artifact(&folder, "whole", "eigenbasis-"));
    for side in ["lm_head.output", "model.embed_tokens.input"] {
        assert_eq!(covariance.f64(side).expect("triangles").len(), 5 * 820 * 821 / 2);
        assert_eq!(basis.spec(&format!("{side}.vectors.4")).expect("a block").shape, [820, 820]);
    }
    let scores = TensorFile::open(&folder.path("whole/scores.safetensors")).unwrap();
    let said: Value = serde_json::from_str(scores.metadata("covariances_in_blocks").expect("said")).unwrap();
    let block = |side: &str| json!({"side": side, "tokens": 4_100, "blocks": 5});
    assert_eq!(said, json!([block("model.embed_tokens.input"), block("lm_head.output")]));
    // a narrow width leaves these blocks as they are, and a stored covariance serves it
    let narrow = done(&format!("influence {files} --eigen-block-width 10 --verbose --out {}", folder.arg("narrow")));
    assert!(narrow.err.contains("lm_head 4100 x 16, eigenbasis in 5 and 2 blocks"), "{}", narrow.err);
    // again, from what is there
    let again =
        done(&format!("influence {files} --factors {} --verbose --out {}", folder.arg("whole"), folder.arg("again")));
    assert!(again.err.contains("queries            found from before"), "{}", again.err);
    assert_eq!(scores_of(&folder, "whole"), scores_of(&folder, "again"));
}

#[test]
fn a_width_that_cuts_nothing_is_the_whole_basis() {
    let folder = Folder::new();
    let run = |name: &str, flags: &str| done(&format!("influence {GPT2} --out {} {flags}", folder.arg(name)));
    run("whole", "--quiet");
    let wide = run("wide", "--eigen-block-width 1000");
    assert!(wide.err.contains("blocks    none: no tracked layer has a covariance wider than 1,000\n"), "{}", wide.err);
    assert_eq!(scores_of(&folder, "whole"), scores_of(&folder, "wide"));
    // the same artifacts, by their keys
    let again = run("again", &format!("--eigen-block-width 1000 --factors {} --verbose", folder.arg("whole")));
    assert!(again.err.contains("queries            found from before"), "{}", again.err);
    let refused = ended(ascribe(&format!("influence {GPT2} --out {} --eigen-block-width 0", folder.arg("none"))));
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("`--eigen-block-width` is 0"), "{}", refused.err);
    assert!(folder.files("none").is_empty());
}

/// Eigenvectors on disk rebuild the diagonal blocks of the covariances, in the steps' own folder.
#[test]
fn blocks_of_the_covariances_are_decomposed() {
    let folder = Folder::new();
    let run = folder.arg("cut");
    let flags = format!("{GPT2} --dtype f64 --eigen-block-width 20");
    let fitted = done(&format!("fit {flags} --out {run} --verbose"));
    let plan = "blocks    eigenbases in blocks of at most 20 in 8 of 8 layers\n";
    assert!(fitted.err.contains(plan), "{}", fitted.err);
    let (covariance, basis) = (artifact(&folder, "cut", "covariance-"), artifact(&folder, "cut", "eigenbasis-"));
    assert_eq!(basis.metadata("eigen_block_width"), Some("20"));
    let mut cut = 0;
    for name in covariance.names() {
        let (triangle, values) = (covariance.f64(name).unwrap(), basis.f64(&format!("{name}.values")).unwrap());
        let n = values.len();
        let whole = SymmetricMatrix::new(triangle.to_vec(), n);
        let count = n.div_ceil(20);
        let scale = triangle.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        for k in 0..count {
            let (start, end) = (k * n / count, (k + 1) * n / count);
            let size = end - start;
            let own = if count == 1 { format!("{name}.vectors") } else { format!("{name}.vectors.{k}") };
            assert_eq!(basis.spec(&own).expect("a block").shape, [size, size]);
            let u = basis.f64(&own).unwrap();
            for (r, c) in (0..size * size).map(|k| (k / size, k % size)) {
                let rebuilt: f64 = (0..size).map(|j| u[r * size + j] * values[start + j] * u[c * size + j]).sum();
                assert!((rebuilt - whole.at(start + r, start + c)).abs() < 1e-12 * scale, "{own} [{r}, {c}]");
            }
        }
        cut += usize::from(count > 1);
    }
    assert!(cut > 8, "{cut} covariances are cut");

    // the steps take the width from the folder's job; another one belongs into another folder
    done(&format!("query --out {run} --quiet"));
    done(&format!("score --out {run} --quiet"));
    let refused = ended(ascribe(&format!("score --out {run} --eigen-block-width 10 --quiet")));
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert_eq!(
        TensorFile::open(&folder.path("cut/scores.safetensors")).unwrap().metadata("eigen_block_width"),
        Some("20")
    );
    done(&format!("influence {GPT2} --dtype f64 --out {} --quiet", folder.arg("whole")));
    let size = |run: &str| artifact(&folder, run, "eigenbasis-").path().metadata().unwrap().len();
    assert!(5 * size("cut") < 3 * size("whole"), "{} {}", size("cut"), size("whole"));
    // a coarser curvature: more like the whole one than not, and not the same
    let found = correlations(&folder, 8, "cut", "whole");
    assert!(found.iter().all(|&found| found > 0.5 && found < 1.0), "{found:?}");
}

/// In shards and in little memory as at once.
#[test]
fn parts_of_a_run_join_to_the_same_blocks() {
    let folder = Folder::new();
    let flags = format!("{GPT2} --dtype f64 --eigen-block-width 20 --batch-tokens 256");
    done(&format!("influence {flags} --out {} --quiet", folder.arg("once")));
    let run = folder.arg("shards");
    for shard in ["1/2", "2/2"] {
        done(&format!("fit {flags} --out {run} --shard {shard} --quiet"));
    }
    done(&format!("merge --out {run} --quiet"));
    for shard in ["1/2", "2/2"] {
        done(&format!("fit --out {run} --shard {shard} --quiet"));
    }
    done(&format!("merge --out {run} --quiet"));
    done(&format!("query --out {run} --quiet"));
    done(&format!("score --out {run} --quiet"));
    assert_near(&scores_of(&folder, "shards"), &scores_of(&folder, "once"), 1e-5, "shards");
}

/// AdamW, so that covariances are conditioned before they are cut, and queries of low rank.
#[test]
fn source_decomposes_blocks_in_every_leg() {
    let folder = Folder::new();
    done(&format!("source {TRAINER} --out {} --quiet", folder.arg("whole")));
    let cut = done(&format!("source {TRAINER} --eigen-block-width 12 --out {}", folder.arg("cut")));
    assert!(cut.err.contains("blocks    eigenbases in blocks of at most 12 in "), "{}", cut.err);
    let queries = crate::support::json_lines(&fs::read_to_string(folder.path("cut/ranking.jsonl")).unwrap()).len();
    let found = correlations(&folder, queries, "cut", "whole");
    assert!(found.iter().all(|&found| found > 0.9 && found < 1.0), "{found:?}");
    let flags = "--eigen-block-width 12 --query-rank 6";
    done(&format!("source {TRAINER} {flags} --out {} --quiet", folder.arg("low")));
    let found = correlations(&folder, queries, "low", "cut");
    assert!(found.iter().all(|&found| found > 0.97), "{found:?}");
}
