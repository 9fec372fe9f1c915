//! `--eigen-block-width`: covariances cut into blocks, from flags to scores.

use std::fs;

use crate::support::{Folder, GPT2, TRAINER, ascribe, assert_near, correlations, done, ended, scores_of};
use ascribe::attribution::store::TensorFile;
use ascribe::curvature::SymmetricMatrix;

fn artifact(folder: &Folder, run: &str, kind: &str) -> TensorFile {
    let mut files = fs::read_dir(folder.path(run).join("artifacts")).unwrap().map(|entry| entry.unwrap().path());
    let of_kind = |file: &std::path::PathBuf| file.file_name().unwrap().to_string_lossy().starts_with(kind);
    TensorFile::open(&files.find(of_kind).expect("one")).expect("a file of tensors")
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
