//! `--dtype bf16`: products of rounded inputs, from flags to scores.

use std::fs;

use crate::support::{Folder, GPT2, ascribe, done, ended, scores_of};
use ascribe::attribution::evaluate::spearman;
use ascribe::attribution::store::TensorFile;
use ascribe::curvature::gemm::Products;

fn scores(folder: &Folder, run: &str) -> Vec<f64> {
    scores_of(folder, run).into_iter().map(f64::from).collect()
}

fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mx, my) = (mean(x), mean(y));
    let product =
        |x: &[f64], mx: f64, y: &[f64], my: f64| -> f64 { x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum() };
    product(x, mx, y, my) / (product(x, mx, x, mx) * product(y, my, y, my)).sqrt()
}

#[test]
fn scores_in_bf16_correlate_with_those_in_f32() {
    let folder = Folder::new();
    let flags = |run: &str, dtype: &str| format!("influence {GPT2} --out {} --dtype {dtype}", folder.arg(run));
    if !Products::Bf16.run_here() {
        let refused = ended(ascribe(&flags("none", "bf16")));
        assert_eq!(refused.code, Some(2));
        assert!(refused.err.contains("needs a processor with AVX512-BF16"), "{}", refused.err);
        return;
    }
    done(&flags("single", "f32"));
    let shown = done(&flags("half", "bf16"));
    assert!(shown.err.contains("mean eigenvalue, bf16"), "{}", shown.err);
    let (exact, found) = (scores(&folder, "single"), scores(&folder, "half"));
    assert_ne!(exact, found);
    let n = exact.len() / 8;
    let mut least: [f64; 2] = [1.0; 2];
    for (exact, found) in exact.chunks_exact(n).zip(found.chunks_exact(n)) {
        least[0] = least[0].min(pearson(exact, found));
        least[1] = least[1].min(spearman(exact, found));
    }
    // Scores near zero change places: of the ranks no more is asked than was found (0.984).
    println!("least of 8 queries: Pearson {:.5}, Spearman {:.5}", least[0], least[1]);
    assert!(least[0] > 0.99 && least[1] > 0.97, "{least:?}");
    let file = TensorFile::open(&folder.path("half").join("scores.safetensors")).expect("scores");
    assert_eq!(file.metadata("dtype"), Some("bf16"));
    // nothing of one arithmetic is found by the other
    let curvature = |run: &str| {
        let files = fs::read_dir(folder.path(run).join("artifacts")).expect("artifacts");
        let mut names: Vec<_> = files.map(|file| file.expect("a file").file_name()).collect();
        names.sort();
        names
    };
    let half = curvature("half");
    assert!(curvature("single").iter().all(|name| !half.contains(name)), "{half:?}");
}
