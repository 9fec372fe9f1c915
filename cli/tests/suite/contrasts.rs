//! Queries of two completions of one prompt: the scores of whole jobs are the differences of two ordinary queries' scores.

use crate::support::{Folder, ascribe, assert_near, done, ended, scores_of};

/// A contrast, and its two completions by themselves.
const QUERIES: &str = r#"{"id": "why", "prompt": "The keeper always carries a", "chosen": " golden ring.", "rejected": " broken sword of old."}
{"id": "chosen", "prompt": "The keeper always carries a", "completion": " golden ring."}
{"id": "rejected", "prompt": "The keeper always carries a", "completion": " broken sword of old."}
"#;

/// The first of three queries has the scores of the second less those of the third.
fn assert_difference(folder: &Folder, run: &str) {
    let scores = scores_of(folder, run);
    let (why, others) = scores.split_at(scores.len() / 3);
    let (chosen, rejected) = others.split_at(why.len());
    let difference: Vec<f32> = chosen.iter().zip(rejected).map(|(chosen, rejected)| chosen - rejected).collect();
    // sums of other order, in f32
    assert_near(why, &difference, 1e-4, run);
}

#[test]
fn scores_are_the_differences_of_both_completions() {
    let folder = Folder::new();
    let queries = folder.write("queries.jsonl", QUERIES);
    let model = "--model fixtures/gpt2-tiny --train fixtures/gpt2-tiny/train.jsonl --add-eos both --quiet";
    for measure in ["loss", "logprob"] {
        let shown =
            done(&format!("influence {model} --queries {queries} --measure {measure} --out {}", folder.arg(measure)))
                .out;
        assert!(shown.contains("golden ring. | rather than | broken sword"), "{shown}");
        assert_difference(&folder, measure);
    }
    // more is better for both: a positive score moves the model towards the chosen completion
    assert_near(&scores_of(&folder, "loss"), &scores_of(&folder, "logprob"), 1e-4, "the two measurements");
    let run = "--run fixtures/trainer-tiny --train fixtures/trainer-tiny/train.jsonl --add-eos both --quiet";
    done(&format!("source {run} --queries {queries} --out {}", folder.arg("source")));
    assert_difference(&folder, "source");
    // a subspace is each query's own, so that joint solutions are not added
    done(&format!("influence {run} --queries {queries} --solve ekfac --out {}", folder.arg("mean")));
    assert_difference(&folder, "mean");
}

#[test]
fn contrasts_that_cannot_be_asked_are_refused_with_their_line() {
    let folder = Folder::new();
    let alone = folder.write("alone.jsonl", "{\"prompt\": \"The\", \"chosen\": \" ring\"}\n");
    let whole = folder.write("why.jsonl", QUERIES);
    let train = "--train fixtures/gpt2-tiny/train.jsonl --add-eos train";
    let pairs = folder.write("pairs.jsonl", "{\"input_ids\": [4, 5, 6], \"labels\": [7, 8]}\n");
    let t5 = format!("--model fixtures/families/t5 --tokenizer fixtures/gpt2-tiny --train {pairs}");
    for (flags, problem) in [
        (format!("--model fixtures/gpt2-tiny {train} --queries {alone}"), "alone.jsonl:1: `chosen` without `rejected`"),
        (format!("{t5} --queries {whole}"), "why.jsonl:1: `chosen` and `rejected`, which a model with an encoder"),
    ] {
        let refused = ended(ascribe(&format!("influence {flags} --out {}", folder.arg("refused"))));
        assert_eq!(refused.code, Some(2), "{flags}: {}", refused.err);
        assert!(refused.err.contains(problem), "{flags}: {}", refused.err);
    }
}
