//! Adapters over frozen bases: against what PEFT and transformers computed of fixtures/adapters (losses, logits, and the
//! gradient of every A and B), and against the checkpoints that the Trainer left in the zoo (shared/data/zoo/README.md),
//! where they are there.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use crate::support::agreement::{Agreement, Tolerances, folders_of, logits, same_parameters};
use crate::support::passes::{BATCH, Batched, Run};
use crate::support::recorded::Recorded;
use crate::support::{Outcome, Source, fixture, shared};
use ascribe::Hint;
use ascribe::curvature::{CurvatureKind, Measurement, Network};
use ascribe::data::{self, Batch, DataOptions, DoubtfulEnd, EndToken, Format, Role, Which, read_tokens_from};
use ascribe::job::{Job, Plan, Side, SourceRequest};
use ascribe::model::{AdapterMode, LayerSelection, Limits, LoadOptions, Model};
use ascribe::trajectory::TrajectoryRequest;
use ascribe::trajectory::torch_parameters::TorchParameters;
use candle_core::DType;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

fn options(base: PathBuf, dtype: DType, mode: AdapterMode) -> LoadOptions {
    LoadOptions { dtype, base: Some(base), adapter: Some(mode), ..LoadOptions::default() }
}

/// The recorded sequences.
fn sequences(model: &Model, expected: &Recorded) -> Batch {
    let (ids, mask) = (expected.get("input_ids"), expected.get("attention_mask"));
    let length = ids.shape[1];
    let whole = |x: &[f64]| x.iter().map(|&x| x as u32).collect::<Vec<_>>();
    let lines: Vec<String> = ids
        .values
        .chunks(length)
        .zip(mask.values.chunks(length))
        .enumerate()
        .map(|(example, (ids, mask))| {
            let mut line = json!({"input_ids": whole(ids), "attention_mask": whole(mask)});
            if let Some(label) = expected.find("label") {
                line["label"] = json!(label.values[example] as u32);
            }
            if let Some(labels) = expected.find("labels") {
                let own = labels.values[example * labels.shape[1]..][..labels.shape[1]].iter().map(|&x| x as i64);
                // masked tokens are as many as the inputs, of which some have no loss; of a pair the rest is padding
                let is_masked = labels.shape[1] == length;
                line["labels"] = json!(own.filter(|&x| is_masked || x >= 0).collect::<Vec<_>>());
            }
            line.to_string()
        })
        .collect();
    let Limits::Tokens(limits) = model.limits() else { panic!("a language model") };
    let labels = expected.find("label").and(model.labels().cloned());
    let (name, options) = (Path::new("lines.jsonl"), DataOptions { labels, ..DataOptions::default() });
    let text = Cursor::new(lines.join("\n"));
    let read = read_tokens_from(text, name, Format::JsonLines, Role::Train, None, limits, options);
    let dataset = read.expect("tokens").0;
    data::batch(&dataset, 0..dataset.len())
}

/// The recorded metadata of a folder.
fn metadata(folder: &Path, key: &str) -> Option<String> {
    let bytes = std::fs::read(folder.join("expected.safetensors")).expect("readable");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("sound");
    header.metadata().as_ref().and_then(|all| all.get(key)).cloned()
}

/// Folders of fixtures/adapters, of which there is at least one.
fn adapters() -> Vec<PathBuf> {
    folders_of("adapters").iter().map(|name| fixture("adapters").join(name)).collect()
}

fn base_of(folder: &Path) -> PathBuf {
    fixture(&metadata(folder, "base").expect("a base"))
}

#[test]
fn every_adapter_gives_the_logits_losses_and_gradients_of_peft() {
    for folder in adapters() {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        for (dtype, tolerance) in [(DType::F64, 1e-5), (DType::F32, 1e-4)] {
            let model = Model::load(&folder, &options(base_of(&folder), dtype, AdapterMode::Only)).expect(&name);
            // with `bias = all` PEFT also saves a classifier's biases before training, which must be named
            let has_originals = model.notes().iter().any(|note| note.contains(".original_module.dense.bias`"));
            assert_eq!(has_originals, name == "roberta-biases", "{name}: {:?}", model.notes());
            let batch = sequences(&model, &expected);
            let mut agreement = Agreement::new("adapters", &name, dtype);
            check_outputs(&mut agreement, &model, &batch, &expected, tolerance);
            // the first two examples of every tracked layer, and no other
            let mut compared = agreement.gradients(&model, &batch, &expected, tolerance);
            assert_eq!(compared.len(), 2 * model.layers().len(), "{name}");
            let recorded: Vec<String> =
                expected.names().into_iter().filter(|name| name.starts_with("gradient.")).collect();
            compared.sort();
            assert_eq!(compared, recorded, "{name}");
            agreement.report();
        }
    }
}

/// Losses and logits against the recorded ones.
fn check_outputs(agreement: &mut Agreement, model: &Model, batch: &Batch, expected: &Recorded, tolerance: f64) {
    agreement.logits(model, batch, expected, tolerance);
    agreement.losses(model, batch, &expected.values("loss_sum"), tolerance);
}

#[test]
fn a_merged_adapter_gives_the_same_outputs_and_tracks_the_base() {
    for folder in adapters() {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        let merged = Model::load(&folder, &options(base_of(&folder), DType::F64, AdapterMode::Merged));
        if name == "gpt-neox-bias" {
            let error = merged.expect_err("B has a bias").to_string();
            assert!(error.contains("`lora_bias`"), "{error}");
            continue;
        }
        let merged = merged.expect(&name);
        let batch = sequences(&merged, &expected);
        let mut agreement = Agreement::new("merged adapters", &name, DType::F64);
        check_outputs(&mut agreement, &merged, &batch, &expected, 1e-5);
        let base = Model::load(&base_of(&folder), &LoadOptions::default()).expect("a base");
        assert_eq!(merged.layers(), base.layers(), "{name}");
        assert_ne!(merged.content_hash(), base.content_hash());
        let both = Model::load(&folder, &options(base_of(&folder), DType::F64, AdapterMode::Both));
        if name.contains("dora") || name == "phi3-all" || name == "qwen3-tied" {
            assert!(both.expect_err("DoRA").to_string().contains("`use_dora`"));
            continue;
        }
        let both = both.expect(&name);
        check_outputs(&mut agreement, &both, &batch, &expected, 1e-5);
        let only = Model::load(&folder, &options(base_of(&folder), DType::F64, AdapterMode::Only)).expect(&name);
        for layer in base.layers() {
            assert!(both.layers().iter().any(|other| other.name == layer.name), "{name}, {}", layer.name);
        }
        for layer in only.layers() {
            assert!(both.layers().iter().any(|other| other.name == layer.name), "{name}, {}", layer.name);
        }
        assert_ne!(both.content_hash(), only.content_hash());
    }
}

#[test]
fn adapters_of_the_trainer_have_the_losses_and_scores_of_torch() -> Outcome {
    let mut tested = 0;
    for name in ["lora-gpt2", "lora-llama-rslora", "lora-llama-head", "lora-qwen2"] {
        let Some(folder) = shared(&format!("zoo/{name}")) else { continue };
        let (checkpoint, base) = (folder.join("checkpoint-120"), folder.join("base"));
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        let load = |options: LoadOptions| Model::load(&checkpoint, &options).expect(name);
        let model = load(options(base.clone(), DType::F32, AdapterMode::Only));
        let source =
            |file: &str, role| Source { add_eos: Which::Train, ..Source::new(folder.join(file), role, &checkpoint) };
        let train = source("train.jsonl", Role::Train).read(&model);
        let queries = source("queries.jsonl", Role::Queries).read(&model);
        let tolerances = Tolerances { losses: 1e-5, products: 2e-5, ekfac: 1e-4 };
        let mut agreement = Agreement::new("zoo", name, DType::F32);
        agreement.losses_and_scores(&model, [&train, &queries], &expected, tolerances)?;
        let (train, queries) = (&Batched(&train, BATCH), &Batched(&queries, BATCH));
        let layers: Vec<String> = serde_json::from_str(&metadata(&folder, "layers").expect("layers"))?;
        let mut names: Vec<&String> = model.layers().iter().map(|layer| &layer.name).collect();
        let mut recorded: Vec<&String> = layers.iter().collect();
        names.sort();
        recorded.sort();
        assert_eq!(names, recorded, "{name}");
        let by_layer = expected.get("identity.layers");
        let size = by_layer.shape[1] * by_layer.shape[2];
        for (l, layer) in layers.iter().enumerate() {
            let selection = LayerSelection::new(std::slice::from_ref(layer), &[])?;
            let one = load(LoadOptions { selection, ..options(base.clone(), DType::F32, AdapterMode::Only) });
            let run = Run::empirical(CurvatureKind::Identity, Measurement::Loss);
            let found = run.scores::<_, f32>(&one, train, queries)?.wide();
            agreement.compare("products", &found, &by_layer.values[l * size..(l + 1) * size], 2e-5, layer);
        }
        let apart: Vec<String> = serde_json::from_str(&metadata(&folder, "apart").expect("apart"))?;
        for (k, tensor) in apart.iter().enumerate() {
            let layer = tensor.trim_start_matches("base_model.model.").trim_end_matches(".weight").to_owned();
            assert!(model.notes().iter().any(|note| note.contains("in no score") && note.contains(&layer)));
            let selection = LayerSelection::new(&[layer], &[])?;
            let one = load(LoadOptions { selection, ..options(base.clone(), DType::F32, AdapterMode::Only) });
            let run = Run::empirical(CurvatureKind::Identity, Measurement::Loss);
            let found = run.scores::<_, f32>(&one, train, queries)?.wide();
            let want = expected.values("identity.apart");
            agreement.compare("products", &found, &want[k * size..(k + 1) * size], 2e-5, tensor);
        }
        agreement.report();
        tested += 1;
    }
    if shared("zoo").is_some() {
        assert_eq!(tested, 4, "adapters of the zoo");
    }
    Ok(())
}

#[test]
fn optimizers_number_an_adapters_parameters_as_named_parameters_does() {
    for folder in adapters() {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let found = TorchParameters::read_over(&folder, Some(&base_of(&folder))).expect("known");
        let found: Vec<&str> = found.list.iter().map(|parameter| parameter.name.as_str()).collect();
        same_parameters("adapters", &name, &folder, &found);
    }
}

/// The bias of a tied decoder is one parameter with two names. PEFT saves both; where they differ, the decoder's own counts,
/// which PEFT loads last, and the plan says so.
#[test]
fn of_two_names_of_a_tied_decoders_bias_the_decoders_own_counts() {
    for (name, shared) in [("bert-masked-biases", "cls.predictions.bias"), ("roberta-masked-biases", "lm_head.bias")] {
        let (copy, base) = copied(name);
        let load = |folder: &Path| Model::load(folder, &options(base.clone(), DType::F64, AdapterMode::Only));
        let expected = Recorded::open(&fixture(&format!("adapters/{name}/expected.safetensors")));
        let differs = |model: &Model| model.notes().iter().any(|note| note.contains("differs from"));
        let own = load(copy.path()).expect(name);
        assert!(!differs(&own), "{name}");
        let want = logits(&own, &sequences(&own, &expected));
        let file = copy.path().join("adapter_model.safetensors");
        let bytes = std::fs::read(&file).expect("readable");
        let all = SafeTensors::deserialize(&bytes).expect("sound");
        let shared = format!("base_model.model.{shared}");
        let zeros = vec![0; all.tensor(&shared).expect("saved").data().len()];
        let changed = all.iter().map(|(name, view)| {
            let bytes = if name == shared { &zeros } else { view.data() };
            (name, TensorView::new(view.dtype(), view.shape().to_vec(), bytes).expect("fitting"))
        });
        let changed = safetensors::serialize(changed, None).expect("sound");
        std::fs::remove_file(&file).expect("writable");
        std::fs::write(&file, changed).expect("writable");
        let model = load(copy.path()).expect(name);
        assert!(differs(&model), "{name}: {:?}", model.notes());
        assert_eq!(logits(&model, &sequences(&model, &expected)), want, "{name}");
    }
}

/// A copy of an adapter's folder that can be damaged.
fn copied(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = fixture(&format!("adapters/{name}"));
    let copy = tempfile::tempdir().expect("writable");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(folder.join(file), copy.path().join(file)).expect("copied");
    }
    (copy, base_of(&folder))
}

fn set(folder: &Path, key: &str, value: Value) {
    let file = folder.join("adapter_config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&file).expect("readable")).expect("JSON");
    json[key] = value;
    std::fs::write(file, json.to_string()).expect("writable");
}

#[test]
fn what_does_not_belong_together_is_refused_by_name() {
    let refused = |name: &str, key: &str, value: Value| -> String {
        let (copy, base) = copied(name);
        set(copy.path(), key, value);
        let error = Model::load(copy.path(), &options(base, DType::F32, AdapterMode::Only)).expect_err(key);
        format!("{error}\n{}", error.hint().unwrap_or_default())
    };
    for (key, value, parts) in [
        ("r", json!(4), vec!["`base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight`", "[2, 16]", "[4, 16]"]),
        ("r", json!("four"), vec!["`r`", "positive whole numbers"]),
        (
            "target_modules",
            json!(r".*layers\.[12]\.self_attn\.q_proj"),
            vec!["o_proj", "`target_modules`", "does not select"],
        ),
        ("target_modules", json!(r".*layers\.[12]\.self_attn\.(q|o|k)_proj"), vec!["k_proj.lora_A.weight", "selects"]),
        ("target_modules", json!("("), vec!["`target_modules`", "regular expression"]),
        ("peft_type", json!("IA3"), vec!["`peft_type`", "\"IA3\"", "LORA"]),
        ("task_type", json!("TOKEN_CLS"), vec!["`task_type`", "TOKEN_CLS", "SEQ_CLS"]),
        ("init_lora_weights", json!("pissa"), vec!["`init_lora_weights`", "pissa"]),
        ("layer_replication", json!([[0, 2]]), vec!["`layer_replication`"]),
        ("some_new_key", json!(true), vec!["`some_new_key` = true"]),
        ("use_dora", json!(true), vec!["lora_magnitude_vector"]),
        ("lora_bias", json!(true), vec!["lora_B.bias"]),
        ("bias", json!("some"), vec!["`bias`"]),
    ] {
        let said = refused("qwen2-late", key, value);
        for part in parts {
            assert!(said.contains(part), "{key}: {part} not in {said}");
        }
    }
}

/// What PEFT puts on `shared` is in no forward pass of transformers.
#[test]
fn adapters_of_an_encoder_decoders_embeddings_are_refused() {
    let (copy, base) = copied("t5");
    let file = copy.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&file).expect("readable");
    let tensors = SafeTensors::deserialize(&bytes).expect("sound");
    let name = "base_model.model.shared.lora_embedding_A";
    let (_, other) = tensors.iter().next().expect("a tensor");
    let all = tensors.iter().chain([(name, other.clone())]);
    std::fs::write(&file, safetensors::serialize(all, None).expect("sound")).expect("writable");
    let load = |base: PathBuf| Model::load(copy.path(), &options(base, DType::F32, AdapterMode::Only));
    let error = load(base).expect_err("an embedding").to_string();
    assert!(error.contains(name) && error.contains("in no forward pass"), "{error}");
    let error = load(fixture("families/qwen2")).expect_err("no encoder").to_string();
    assert!(error.contains("`SEQ_2_SEQ_LM`, and this model has no encoder"), "{error}");
}

/// A Trainer's folder as it lies: the loss is the base's, the optimizer's state the adapter's.
#[test]
fn source_follows_a_trainers_run_of_an_adapter() -> Outcome {
    let Some(zoo) = shared("zoo/lora-qwen2") else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let mut job = Job::new("", zoo.join("train.jsonl"), folder.path().join("run"));
    job.data.queries = Some(zoo.join("queries.jsonl"));
    job.data.add_eos = Side::Train;
    job.model.base = Some(zoo.join("base"));
    job.source = Some(SourceRequest::new(TrajectoryRequest::new(zoo.clone())));
    let rankings = Plan::resolve(job)?.run(&())?;
    let first = |k: usize| rankings[k].proponents.first().map(|example| example.id.clone());
    // each question's own fact, word for word
    assert_eq!((0..4).filter(|&k| first(k) == Some(format!("fact-{k}-a"))).count(), 4, "{rankings:?}");
    Ok(())
}

/// Names of labels that belong to another classifier than the adapter's are not taken over without a word.
#[test]
fn labels_of_another_classifier_are_named() {
    let notes = |name: &str| {
        let folder = fixture(&format!("adapters/{name}"));
        let options = options(base_of(&folder), DType::F32, AdapterMode::Only);
        Model::load(&folder, &options).expect(name).notes().join("\n")
    };
    assert!(
        notes("roberta-classes").contains("`id2label` has 4 labels and is not used"),
        "{}",
        notes("roberta-classes")
    );
    assert!(
        notes("qwen2-classes").contains("trained as `Qwen2ForSequenceClassification`"),
        "{}",
        notes("qwen2-classes")
    );
}

/// A classifier's folder as the body alone is saved: names without the prefix of the class, and no classifier.
fn body_of(classifier: &Path, prefix: &str) -> tempfile::TempDir {
    let body = tempfile::tempdir().expect("writable");
    let bytes = std::fs::read(classifier.join("model.safetensors")).expect("readable");
    let all = SafeTensors::deserialize(&bytes).expect("sound");
    let own = all.tensors().into_iter().filter_map(|(name, view)| Some((name.strip_prefix(prefix)?.to_owned(), view)));
    std::fs::write(body.path().join("model.safetensors"), safetensors::serialize(own, None).expect("sound"))
        .expect("writable");
    std::fs::copy(classifier.join("config.json"), body.path().join("config.json")).expect("copied");
    body
}

/// `AutoModelForSequenceClassification` takes such a folder as it is, the pooler of BERT included.
#[test]
fn an_adapter_that_classifies_lies_over_a_body_that_was_saved_alone() {
    for (name, prefix) in [("bert-classes", "bert."), ("bert-pooler-dora", "bert."), ("roberta-classes", "roberta.")] {
        let (adapter, classifier) = copied(name);
        let body = body_of(&classifier, prefix);
        let model = Model::load(adapter.path(), &options(body.path().to_owned(), DType::F64, AdapterMode::Only));
        let (model, recorded) = (model.expect(name), fixture(&format!("adapters/{name}/expected.safetensors")));
        let expected = Recorded::open(&recorded);
        let batch = sequences(&model, &expected);
        let mut agreement = Agreement::new("adapters over bodies", name, DType::F64);
        check_outputs(&mut agreement, &model, &batch, &expected, 1e-5);
        assert_eq!(agreement.gradients(&model, &batch, &expected, 1e-5).len(), 2 * model.layers().len(), "{name}");
    }
}

/// A copy of an adapter that classifies texts over a copy of its base of which `pad_token_id` was taken away, as PEFT
/// leaves it after `model.config.pad_token_id = tokenizer.pad_token_id`; the tokenizer names this token, if there is one.
fn without_padding(tokenizer: Option<&Value>) -> [tempfile::TempDir; 2] {
    let (adapter, base) = copied("qwen2-classes");
    let copy = tempfile::tempdir().expect("writable");
    std::fs::copy(base.join("model.safetensors"), copy.path().join("model.safetensors")).expect("copied");
    let mut keys: Value =
        serde_json::from_slice(&std::fs::read(base.join("config.json")).expect("readable")).expect("JSON");
    assert_eq!(keys["eos_token_id"], 2);
    keys["pad_token_id"] = Value::Null;
    std::fs::write(copy.path().join("config.json"), keys.to_string()).expect("writable");
    if let Some(keys) = tokenizer {
        std::fs::write(adapter.path().join("tokenizer_config.json"), keys.to_string()).expect("writable");
    }
    [adapter, copy]
}

/// Logits of one text.
fn logits_of(model: &Model, ids: &[u32]) -> Vec<f64> {
    let Limits::Tokens(limits) = model.limits() else { panic!("a model of texts") };
    let (line, name) = (json!({"input_ids": ids, "label": 0}).to_string(), Path::new("lines.jsonl"));
    let options = DataOptions { labels: model.labels().cloned(), ..DataOptions::default() };
    let read = read_tokens_from(Cursor::new(line), name, Format::JsonLines, Role::Train, None, limits, options);
    logits(model, &data::batch(&read.expect("tokens").0, 0..1))
}

#[test]
fn padding_of_an_adapters_training_is_its_tokenizers() {
    let load = |[adapter, base]: &[tempfile::TempDir; 2]| {
        Model::load(adapter.path(), &options(base.path().to_owned(), DType::F64, AdapterMode::Only)).expect("a model")
    };
    let named = json!({"pad_token": "</s>", "added_tokens_decoder": {"2": {"content": "</s>"}}});
    let known = load(&without_padding(Some(&named)));
    let unknown = load(&without_padding(None));
    assert!(known.notes().iter().any(|note| note.contains("padding is token 2") && note.contains("tokenizer_config")));
    assert!(unknown.notes().iter().any(|note| note.contains("each text's last token is classified")));
    let of = |counts_as| Some(DoubtfulEnd { token: 2, counts_as });
    assert_eq!(known.labels().expect("labels").end, of(EndToken::Padding));
    assert_eq!(unknown.labels().expect("labels").end, of(EndToken::Unknown));
    // the base with the key, as transformers had it in memory
    let [adapter, base] = without_padding(None);
    let mut keys: Value =
        serde_json::from_slice(&std::fs::read(base.path().join("config.json")).expect("readable")).expect("JSON");
    keys["pad_token_id"] = json!(2);
    std::fs::write(base.path().join("config.json"), keys.to_string()).expect("writable");
    let as_trained = load(&[adapter, base]);
    let (text, plain) = ([7, 9, 30, 2], [7, 9, 30]);
    assert_eq!(logits_of(&known, &text), logits_of(&as_trained, &text));
    assert_eq!(logits_of(&known, &plain), logits_of(&unknown, &plain));
    assert_ne!(logits_of(&known, &text), logits_of(&unknown, &text));
    // and the number may stand in the tokenizer's own file
    let folders = without_padding(Some(&json!({"pad_token": {"content": "</s>"}})));
    let tokenizer = json!({"added_tokens": [{"id": 2, "content": "</s>", "special": true}]});
    std::fs::write(folders[0].path().join("tokenizer.json"), tokenizer.to_string()).expect("writable");
    assert_eq!(load(&folders).labels().expect("labels").end, of(EndToken::Padding));
}

#[test]
fn texts_that_end_with_what_may_be_padding_are_counted_or_refused() -> Outcome {
    let data = tempfile::tempdir()?;
    let file = data.path().join("train.jsonl");
    let rows =
        [[7, 9, 30, 2], [7, 9, 30, 8], [5, 2, 4, 2]].map(|ids| json!({"input_ids": ids, "label": 1}).to_string());
    std::fs::write(&file, rows.join("\n"))?;
    let resolve = |[adapter, base]: &[tempfile::TempDir; 2]| {
        let mut job = Job::new(adapter.path(), file.clone(), data.path().join("run"));
        job.model.base = Some(base.path().to_owned());
        job.data.queries = Some(file.clone());
        Plan::resolve(job)
    };
    let named = json!({"pad_token": "</s>", "added_tokens_decoder": {"2": {"content": "</s>"}}});
    let notes = resolve(&without_padding(Some(&named)))?.summary().notes.join("\n");
    assert!(notes.contains("2 of 3 training examples end with token 2, which counts as padding"), "{notes}");
    assert!(notes.contains("2 of 3 queries end with token 2, which counts as padding"), "{notes}");
    // the base's own key counts beside a tokenizer that pads with another token
    let contradicted = without_padding(Some(&named));
    let config = contradicted[1].path().join("config.json");
    let mut keys: Value = serde_json::from_slice(&std::fs::read(&config)?)?;
    keys["pad_token_id"] = json!(0);
    std::fs::write(&config, keys.to_string())?;
    let notes = resolve(&contradicted)?.summary().notes.join("\n");
    assert!(notes.contains("padding is token 0, the base's") && notes.contains("is another, 2"), "{notes}");
    assert!(notes.contains("2 of 3 training examples end with token 2 and are classified by it"), "{notes}");
    let error = resolve(&without_padding(None)).err().ok_or("not refused")?;
    assert!(error.to_string().contains("2 of 3 texts end with token 2"), "{error}");
    assert!(error.to_string().contains("train.jsonl"), "{error}");
    Ok(())
}
