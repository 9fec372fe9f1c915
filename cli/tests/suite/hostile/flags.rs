//! Flags with values out of reason, and names that would steer a terminal.

use crate::hostile::runner::{Case, words};
use crate::support::{GPT2, MLP, TRAINER};

fn flag(flags: &'static str, named: &str) -> Case {
    Case::refused(format!("flag: {flags}"), named, move |_| {
        words(&format!("influence {GPT2} --out RUN --dry-run {flags}"))
    })
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        flag("--threads 20000", "--threads"),
        flag("--threads 100000000", "threads"),
        flag("--threads 18446744073709551616", "--threads"),
        flag("--threads 0", "threads"),
        flag("--threads=-1", "--threads"),
        flag("--memory 0", "--memory"),
        flag("--memory=-1", "--memory"),
        flag("--memory 1e400", "--memory"),
        flag("--memory nan", "--memory"),
        flag("--memory 1", "MiB"),
        flag("--disk 1", "MiB"),
        flag("--batch-tokens 0", "--batch-tokens"),
        flag("--device tpu", "--device"),
        flag("--device cuda:99999999999999999999", "--device"),
        flag("--top 0", "--top"),
        flag("--solve gauss-newton --solve-iterations 0", "--solve-iterations"),
        flag("--solve gauss-newton --solve-iterations 1000000000", "--solve-iterations"),
        flag("--solve gauss-newton --solve-iterations 18446744073709551615", "--solve-iterations"),
        flag("--solve gauss-newton --solve-examples 0", "--solve-examples"),
        flag("--solve gauss-newton --solve-examples nan", "--solve-examples"),
        flag("--solve gauss-newton --solve-examples=-1", "--solve-examples"),
        flag("--solve gauss-newton --solve-examples 1e400", "--solve-examples"),
        flag("--solve gauss-newton --solve-block 0", "--solve-block"),
        flag("--top=-1", "--top"),
        flag("--damping 0x,0x", "damping"),
        flag("--damping nan", "--damping"),
        flag("--damping=-1", "--damping"),
        flag("--label-draws 0", "--label-draws"),
        flag("--label-draws 4096", "--label-draws"),
        flag("--seed 9223372036854775808", "--seed"),
        flag("--query-rank 0", "--query-rank"),
        flag("--query-rank 1000000000000000000", "--query-rank"),
        flag("--eigen-block-width 0", "--eigen-block-width"),
        flag("--max-length 0", "--max-length"),
        flag("--pack 0", "--pack"),
        flag("--train-size 0", "--train-size"),
        flag("--layer-set x", "--layer-set"),
        flag("--layer-set a=[", "layer"),
        flag("--layers [", "["),
        flag("--layers nothing-at-all", "nothing-at-all"),
        flag("--measure accuracy", "--measure"),
        flag("--curvature best", "--curvature"),
        flag("--format yaml", "--format"),
        flag("--no-such-flag", "--no-such-flag"),
        flag("--group-by topic --store-scores top", "--group-by"),
    ];
    let escapes = "\u{1b}[31m\u{202e}x\nerror: forged";
    for name in ["--measure", "--layers", "--damping", "--device", "--tokenizer", "--memory", "--no-such"] {
        cases.push(Case::refused(format!("flag: {name} with escape sequences"), "x", move |_| {
            let mut arguments = words(&format!("influence {GPT2} --out RUN --dry-run"));
            arguments.extend([name.to_owned(), escapes.to_owned()]);
            arguments
        }));
    }
    for command in ["influence", "source", "fit", "rank", "merge", "query", "score", "inspect", "trajectory", "run"] {
        cases.push(Case::refused(format!("flag: {command} without anything"), "required", move |_| words(command)));
        cases.push(Case::refused(format!("flag: {command} with an unknown word"), "forged", move |_| {
            vec![command.to_owned(), "--\u{1b}[31m\nerror: forged".to_owned()]
        }));
    }
    cases.push(Case::refused("flag: queries of a classifier for a language model", "query.safetensors", |_| {
        words("influence --model fixtures/gpt2-tiny --train fixtures/gpt2-tiny/train.jsonl --queries fixtures/mlp-tiny/query.safetensors --out RUN")
    }));
    cases.push(Case::refused("flag: no processes", "`processes` is 0, expected at least 1", |_| {
        words(&format!("source {TRAINER} --processes 0 --out RUN --dry-run"))
    }));
    for processes in ["1000000000000000000", "18446744073709551615"] {
        cases.push(Case::refused(format!("flag: {processes} processes"), "48 examples in batches of", move |_| {
            words(&format!("source {TRAINER} --processes {processes} --out RUN --dry-run"))
        }));
    }
    cases.push(Case::refused("flag: a shard beyond all", "--shard", |_| {
        words(&format!("fit {MLP} --out RUN --shard 9/2"))
    }));
    cases.push(Case::refused("flag: a shard of none", "--shard", |_| {
        words(&format!("fit {MLP} --out RUN --shard 1/0"))
    }));
    cases
}
