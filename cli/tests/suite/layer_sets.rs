//! `--layer-set`: scores over some of the tracked layers, from flags to files, `inspect` and `evaluate`.

use std::fs;

use crate::support::{Folder, GPT2, MLP, ROWS, TRAINER, ascribe, assert_near, done, ended, json_lines};
use ascribe::attribution::store::TensorFile;

fn scores(folder: &Folder, file: &str) -> Vec<f32> {
    crate::support::scores(&folder.path(file))
}

fn metadata(folder: &Folder, file: &str, entry: &str) -> String {
    let file = TensorFile::open(&folder.path(file)).expect("scores");
    file.metadata(entry).unwrap_or_default().to_owned()
}

/// 32-bit sums of blocks may be cut elsewhere; each block is rounded alike.
const ROUNDING: f64 = 1e-6;

#[test]
fn sets_are_scored_and_ranked_under_names_of_their_own() {
    let folder = Folder::new();
    let flags =
        "--damping 0.1x,0.01x --csv --layer-set attention=*.attn.* --layer-set mlp=*.{c_fc,c_none},*h.?.mlp.c_proj";
    let run = |name: &str, flags: &str| done(&format!("influence {GPT2} --out {} {flags}", folder.arg(name)));
    let refused = ended(ascribe(&format!("influence {GPT2} --out {} {flags},none.*", folder.arg("run"))));
    assert_eq!(refused.code, Some(2));
    let shown = run("run", flags);
    let plan = [
        "sets      attention: 4 layers with 8,448 weights\n",
        "          mlp: 4 layers with 16,704 weights\n",
        "influence.damping-0.01x, layers-attention, layers-mlp, influence.damping-0.01x.layers-attention, ",
    ];
    for line in plan {
        assert!(shown.err.contains(line), "{line}{}", shown.err);
    }
    run("plain", "--damping 0.1x,0.01x --quiet");
    for (set, layers) in [("attention", "*.attn.*"), ("mlp", "*.mlp.*")] {
        run(set, &format!("--damping 0.1x,0.01x --layers {layers} --quiet"));
        for answer in ["", ".influence.damping-0.01x"] {
            let [of_set, alone] = [format!("run/scores{answer}.layers-{set}"), format!("{set}/scores{answer}")]
                .map(|f| f + ".safetensors");
            assert_near(&scores(&folder, &of_set), &scores(&folder, &alone), ROUNDING, &of_set);
            assert_eq!(metadata(&folder, &of_set, "layers"), metadata(&folder, &alone, "layers"));
            assert_eq!(metadata(&folder, &of_set, "layer_set"), set);
            assert_eq!(metadata(&folder, &of_set, "method"), "influence");
        }
        let ranking = fs::read_to_string(folder.path(&format!("run/ranking.layers-{set}.jsonl"))).expect("a ranking");
        let alone = fs::read_to_string(folder.path(set).join("ranking.jsonl")).expect("a ranking");
        for (found, want) in json_lines(&ranking).iter().zip(json_lines(&alone)) {
            assert_eq!(found["proponents"][0]["id"], want["proponents"][0]["id"]);
        }
        assert!(folder.path(&format!("run/ranking.layers-{set}.csv")).exists());
    }
    // what was there without sets has the same bytes
    for file in ["scores.safetensors", "scores.influence.damping-0.01x.safetensors"] {
        assert!(
            crate::support::tensors(&folder.path("run").join(file))
                == crate::support::tensors(&folder.path("plain").join(file))
        );
    }
    assert_eq!(metadata(&folder, "run/scores.safetensors", "layer_set"), "");
    let about = done(&format!("inspect {}", folder.arg("run"))).out;
    assert!(about.contains("scores.layers-attention.safetensors"), "{about}");
    let queries = "fixtures/gpt2-tiny/queries.jsonl";
    let figures = done(&format!("evaluate retrieval --scores {} --answers {queries}", folder.arg("run"))).out;
    for answer in ["run layers-mlp", "run influence.damping-0.01x.layers-attention"] {
        assert!(figures.contains(answer), "{figures}");
    }
    // the job file says it again
    let again = done(&format!("run {} --out {} --quiet", folder.arg("run/job.toml"), folder.arg("again")));
    assert_eq!(again.out, shown.out);
    let job = fs::read_to_string(folder.path("run/job.toml")).expect("a job");
    assert!(job.contains("[output.layer_sets]\nattention = \"*.attn.*\"\n"), "{job}");
}

#[test]
fn low_rank_and_the_best_alone_have_sets_too() {
    let folder = Folder::new();
    let set = "--layer-set late=transformer.h.1.*";
    let run = |name: &str, flags: &str| done(&format!("influence {GPT2} --out {} --quiet {flags}", folder.arg(name)));
    run("low", &format!("--query-rank 4 {set}"));
    run("alone", "--query-rank 4 --layers transformer.h.1.*");
    run("top", &format!("--query-rank 4 --store-scores top {set}"));
    let late = scores(&folder, "low/scores.layers-late.safetensors");
    assert_near(&late, &scores(&folder, "alone/scores.safetensors"), ROUNDING, "of rank 4");
    let captured = |file: &str| {
        let file = TensorFile::open(&folder.path(file)).expect("scores");
        file.f64("captured").expect("f64").to_vec()
    };
    assert_eq!(captured("low/scores.layers-late.safetensors"), captured("alone/scores.safetensors"));
    assert!(captured("low/scores.layers-late.safetensors") != captured("low/scores.safetensors"));
    let rankings = |name: &str| fs::read_to_string(folder.path(name)).expect("a ranking");
    for file in ["ranking.jsonl", "ranking.layers-late.jsonl"] {
        assert_eq!(rankings(&format!("top/{file}")), rankings(&format!("low/{file}")), "{file}");
    }
    assert!(folder.path("top/top.layers-late.safetensors").exists());
}

#[test]
fn source_takes_sets_with_its_steps() {
    let folder = Folder::new();
    let job = format!("--run fixtures/mlp-trajectory {ROWS} --with tracin --layer-set ends=layers.0,layers.2");
    done(&format!("source {job} --out {} --quiet", folder.arg("whole")));
    let steps = folder.arg("steps");
    done(&format!("fit {job} --out {steps} --quiet"));
    for step in ["query", "score --shard 1/2", "score --shard 2/2", "merge", "rank"] {
        done(&format!("{step} --out {steps} --quiet"));
    }
    for name in ["scores", "scores.layers-ends", "scores.tracin.layers-ends"] {
        let [whole, steps] = ["whole", "steps"].map(|run| scores(&folder, &format!("{run}/{name}.safetensors")));
        assert_near(&steps, &whole, 1e-5, name);
    }
}

#[test]
fn sets_that_make_no_sense_are_explained() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let cases = [
        "--layer-set attention",
        "--layer-set attention=",
        "--layer-set =layers.0",
        "--layer-set a/b=layers.0",
        "--layer-set first=layers.0 --layer-set first=layers.1",
        "--layer-set first=layers.0 --layer-set First=layers.1",
        "--layer-set first=layers.0,layers.9",
        "--layer-set first=layers.[0",
        "--layers layers.0 --layer-set second=layers.1",
        "--layer-set first=layers.0 --normalize cosine --curvature identity",
    ];
    let mut text = String::new();
    for case in cases {
        let ended = ended(ascribe(&format!("influence {MLP} --out {run} {case}")));
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{case}");
        text.push_str(&folder.filtered(&format!("$ ascribe influence ... {case}\n{}\n", ended.err)));
    }
    assert!(!folder.path("run").exists(), "nothing is written before the inputs are checked");
    insta::assert_snapshot!(text);
}

/// The scores of every set whose name begins so, added up, with the sum of their sizes.
fn sum_of(folder: &Folder, run: &str, is_in: impl Fn(&str) -> bool) -> (usize, Vec<f64>, Vec<f64>) {
    let (mut files, mut sum, mut size) = (0, vec![], vec![]);
    for entry in fs::read_dir(folder.path(run)).expect("a run folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        let set = name.strip_prefix("scores.layers-").and_then(|name| name.strip_suffix(".safetensors"));
        if !set.is_some_and(&is_in) {
            continue;
        }
        let own = scores(folder, &format!("{run}/{name}"));
        assert!(own.iter().any(|score| *score != 0.0), "{name}");
        files += 1;
        for (total, sign) in [(&mut sum, false), (&mut size, true)] {
            total.resize(own.len(), 0.0);
            let numbers = own.iter().map(|&score| f64::from(if sign { score.abs() } else { score }));
            total.iter_mut().zip(numbers).for_each(|(total, score)| *total += score);
        }
    }
    (files, sum, size)
}

/// Layers' names give sets, and heads of attention parts of its layers: both add up to the layers that they come from.
#[test]
fn sets_of_names_and_heads_add_up() {
    let folder = Folder::new();
    let train = fs::read_to_string(crate::support::root().join("fixtures/gpt2-tiny/train.jsonl")).expect("a fixture");
    let train = folder.write("train.jsonl", train.lines().take(20).collect::<Vec<_>>().join("\n"));
    for (name, model, flags, parts) in [
        // two blocks of four heads, and the bias behind them
        ("packed", "gpt2-tiny", "", 2 * (4 + 1)),
        ("low", "gpt2-tiny", "--query-rank 4", 2 * (4 + 1)),
        // two blocks of four heads that share two keys and values
        ("shared", "llama-tiny", "--curvature kfac", 2 * (4 + 2)),
    ] {
        let files = format!("--train {train} --queries fixtures/gpt2-tiny/queries.jsonl --top 1");
        let sets = "--layer-sets block,module,head --layer-set attention=*.attn.*,*.self_attn.*";
        let sets = match model {
            "gpt2-tiny" => sets.replace(",*.self_attn.*", ""),
            _ => sets.replace("*.attn.*,", ""),
        };
        let out = folder.arg(name);
        let shown = done(&format!("influence --model fixtures/{model} {files} {flags} {sets} --out {out}"));
        assert!(shown.err.contains("head-3: "), "{}", shown.err);
        let whole: Vec<f64> =
            scores(&folder, &format!("{name}/scores.safetensors")).into_iter().map(f64::from).collect();
        let attention = scores(&folder, &format!("{name}/scores.layers-attention.safetensors"));
        let attention: Vec<f64> = attention.into_iter().map(f64::from).collect();
        let is_part = |set: &str| ["-head-", "-kv-", "-no-head"].iter().any(|kind| set.contains(kind));
        let is_block = |set: &str| {
            !is_part(set)
                && (set.ends_with("-h-0")
                    || set.ends_with("-h-1")
                    || set.ends_with("layers-0")
                    || set.ends_with("layers-1"))
        };
        for (found, want) in [(sum_of(&folder, name, is_part), &attention), (sum_of(&folder, name, is_block), &whole)] {
            let (files, sum, size) = found;
            assert_eq!(files, if want == &attention { parts } else { 2 }, "{name}");
            for ((sum, size), want) in sum.iter().zip(&size).zip(want) {
                assert!((sum - want).abs() <= 1e-5 * size, "{name}: {sum} {want} of {size}");
            }
        }
        let place = if model == "gpt2-tiny" { "transformer-h-0" } else { "model-layers-0" };
        let head = format!("{name}/scores.layers-{place}-head-1.safetensors");
        let slices = metadata(&folder, &head, "layer_slices");
        let want = match model {
            "gpt2-tiny" => {
                r#"["transformer.h.0.attn.c_attn output 8..16","transformer.h.0.attn.c_attn output 40..48","transformer.h.0.attn.c_attn output 72..80","transformer.h.0.attn.c_proj input 8..16"]"#
            }
            _ => r#"["model.layers.0.self_attn.q_proj output 8..16","model.layers.0.self_attn.o_proj input 8..16"]"#,
        };
        assert_eq!(slices, want);
    }
    // heads in a report: the strongest of many parts
    done(&format!("report {} --format markdown", folder.arg("packed")));
    let report = fs::read_to_string(folder.path("packed").join("report.md")).expect("a report");
    assert!(report.contains("head-") || report.contains("c\\_attn"), "{report}");
    let mlp = ended(ascribe(&format!("influence {MLP} --layer-sets head --out {}", folder.arg("mlp"))));
    assert_eq!(mlp.code, Some(2));
    assert!(mlp.err.contains("`--layer-sets head`: a model of type `mlp` has no attention heads"), "{}", mlp.err);
    let linear = "influence --model fixtures/gpt2-tiny --layers *.mlp.* --train fixtures/gpt2-tiny/train.jsonl";
    let linear =
        format!("{linear} --queries fixtures/gpt2-tiny/queries.jsonl --layer-sets head --out {}", folder.arg("mlp"));
    let linear = ended(ascribe(&linear));
    assert!(linear.err.contains("no tracked layer is one of attention's own"), "{}", linear.err);
}

/// Parameters beside the linear layers are layers of their own: the linear layers' part of the scores stays, and the rest is
/// theirs. `shown` is what the plan says of their layer set. Refuses models without them, and Source.
fn check_own_part(folder: &Folder, kind: &str, patterns: &str, shown: &str) {
    let run = |name: &str, flags: &str| done(&format!("influence {GPT2} --out {} {flags}", folder.arg(name)));
    run("plain", "--quiet");
    let sets = format!("--track {kind} --layer-set linear=*.attn.*,*.mlp.* --layer-set own={patterns}");
    let plan = run("with", &sets).err;
    assert!(plan.contains(shown), "{plan}");
    let [plain, all] = ["plain", "with"].map(|run| scores(folder, &format!("{run}/scores.safetensors")));
    let [linear, own] = ["linear", "own"].map(|set| scores(folder, &format!("with/scores.layers-{set}.safetensors")));
    assert_near(&linear, &plain, ROUNDING, "linear layers");
    let largest = |scores: &[f32]| scores.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    assert!(largest(&own) > 1e-3 * largest(&plain), "{kind} have a part");
    let sum: Vec<f32> = linear.iter().zip(&own).map(|(a, b)| a + b).collect();
    assert_near(&all, &sum, ROUNDING, "the sum of both");
    let of_rows = refused_track(folder, &format!("influence {MLP}"), kind);
    assert!(of_rows.contains(&format!("this model has no {kind} that could be tracked")), "{of_rows}");
    let of_source = refused_track(folder, &format!("source {TRAINER}"), kind);
    assert!(of_source.contains(&format!("`--track {kind}` is for influence functions")), "{of_source}");
}

/// What a command says that does not track these parameters.
fn refused_track(folder: &Folder, command: &str, kind: &str) -> String {
    let ended = ended(ascribe(&format!("{command} --out {} --track {kind}", folder.arg("refused"))));
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    ended.err
}

#[test]
fn embeddings_that_are_tracked_add_their_own_part() {
    let folder = Folder::new();
    check_own_part(&folder, "embeddings", "*wte,*wpe", "own: 2 layers with");
    let of_adam = refused_track(&folder, &format!("influence {GPT2} --curvature adam"), "embeddings");
    assert!(of_adam.contains("`--track embeddings` is asked for"), "{of_adam}");
}

#[test]
fn norms_that_are_tracked_add_their_own_part() {
    check_own_part(&Folder::new(), "norms", "*.ln_*", "own: 10 layers with 320 weights");
}
