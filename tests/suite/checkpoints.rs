//! Checkpoints that were changed, mixed up or saved by another class: each is run as what it is, refused by name, or
//! read with a note about what was not used.

#![allow(clippy::unwrap_used)] // a test may panic

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ascribe::Hint;
use ascribe::curvature::Positions;
use ascribe::data::{Batch, DoubtfulEnd, EndToken, Inputs, Targets, TokenInputs};
use ascribe::model::{LoadError, LoadOptions, Model};
use ascribe::trajectory::torch_parameters::TorchParameters;
use candle_core::Tensor;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A fixture's checkpoint in memory, to be changed and written.
struct Checkpoint {
    config: Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
    folder: TempDir,
}

impl Checkpoint {
    /// One that stores `f32` in a single file.
    fn of(fixture: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
        let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let weights = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = weights.iter().map(|(name, view)| {
            assert_eq!(view.dtype(), Dtype::F32);
            (name.to_owned(), (view.shape().to_vec(), view.data().to_vec()))
        });
        Self { config, tensors: tensors.collect(), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.config.as_object_mut().unwrap().remove(key);
        self
    }

    fn add(mut self, name: &str, shape: &[usize]) -> Self {
        let bytes = vec![0; 4 * shape.iter().product::<usize>()];
        self.tensors.insert(name.to_owned(), (shape.to_vec(), bytes));
        self
    }

    fn drop(mut self, name: &str) -> Self {
        self.tensors.remove(name).unwrap();
        self
    }

    fn copy(mut self, from: &str, to: &str) -> Self {
        let tensor = self.tensors[from].clone();
        self.tensors.insert(to.to_owned(), tensor);
        self
    }

    fn write_tensors(&self, file: &str, keep: impl Fn(&str) -> bool) {
        let views =
            self.tensors.iter().filter(|(name, _)| keep(name)).map(|(name, (shape, bytes))| {
                (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
            });
        let bytes = safetensors::serialize(views, None).unwrap();
        std::fs::write(self.folder.path().join(file), bytes).unwrap();
    }

    fn write(self) -> Self {
        std::fs::write(self.folder.path().join("config.json"), self.config.to_string()).unwrap();
        self.write_tensors("model.safetensors", |_| true);
        self
    }

    fn load(self) -> Result<Model, LoadError> {
        let written = self.write();
        Model::load(&written.path(), &LoadOptions::default())
    }

    /// The model and its notes as one text.
    fn notes(self) -> String {
        self.load().unwrap().notes().join("\n")
    }

    /// The error, and its hint.
    fn refused(self) -> (String, String) {
        let error = self.load().map(|model| model.notes().to_vec()).unwrap_err();
        (error.to_string(), error.hint().unwrap_or_default())
    }

    fn logits(self) -> Vec<f32> {
        logits(&self.load().unwrap())
    }
}

/// Logits of one short sequence.
fn logits(model: &Model) -> Vec<f32> {
    let ids: Vec<u32> = (0..9).map(|t| (t * t * 31 + 7 * t + 3) % 61).collect();
    let batch = Batch {
        targets: Targets::Tokens(vec![None; ids.len()]),
        keys: vec![0],
        positions: Positions::from_lengths([ids.len()]),
        contrasts: None,
        range: 0..1,
        inputs: Inputs::Tokens(TokenInputs { ids, types: None, encoder: None }),
    };
    let logits: Tensor = model.logits(&batch).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn a_checkpoint_of_another_class_is_refused_by_its_class() {
    let classifier = Checkpoint::of("gpt2-tiny").set("architectures", json!(["GPT2ForTokenClassification"]));
    let width = classifier.tensors["transformer.ln_f.weight"].0[0];
    let (error, hint) = classifier.add("classifier.weight", &[2, width]).refused();
    assert_contains(&error, &["config.json", r#"["GPT2ForTokenClassification"]"#, "`gpt2`"]);
    assert_contains(&hint, &["`GPT2LMHeadModel`", "`GPT2ForSequenceClassification`", "architectures"]);
    let classifier = Checkpoint::of("llama-tiny").set("architectures", json!(["LlamaForSequenceClassification"]));
    // a class of its own, which needs its own head
    assert_contains(&classifier.refused().0, &["no tensor `score.weight`"]);
    // a folder that somebody else wrote need not say it
    assert!(Checkpoint::of("llama-tiny").without("architectures").load().is_ok());
    assert!(Checkpoint::of("llama-tiny").set("architectures", Value::Null).load().is_ok());
}

#[test]
fn an_untied_model_without_a_head_is_refused() {
    let untied = Checkpoint::of("llama-tiny").set("tie_word_embeddings", json!(false)).drop("lm_head.weight");
    let (error, hint) = untied.refused();
    assert_contains(&error, &["model.safetensors", "`lm_head.weight`", "no head"]);
    assert_contains(&hint, &["AutoModelForCausalLM", "tie_word_embeddings"]);
}

#[test]
fn tied_weights_are_read_under_either_name() {
    let tied = || Checkpoint::of("llama-tiny").set("tie_word_embeddings", json!(true));
    let one = tied().drop("lm_head.weight");
    let other = tied()
        .drop("lm_head.weight")
        .copy("model.embed_tokens.weight", "lm_head.weight")
        .drop("model.embed_tokens.weight");
    let written = tied()
        .drop("lm_head.weight")
        .copy("model.embed_tokens.weight", "lm_head.weight")
        .drop("model.embed_tokens.weight")
        .write();
    let parameters = TorchParameters::read(&written.path()).unwrap();
    // the embedding's place, which is the first, and one parameter
    assert_eq!(parameters.list[0].name, "lm_head.weight");
    assert_eq!(parameters.list.iter().filter(|parameter| parameter.name == "lm_head.weight").count(), 1);
    assert_eq!(one.logits(), other.logits());
}

#[test]
fn a_decoder_that_sees_what_comes_is_refused() {
    for (fixture, key, value) in [
        ("llama-tiny", "is_causal", json!(false)),
        ("gpt2-tiny", "is_causal", json!(false)),
        ("llama-tiny", "use_bidirectional_attention", json!(true)),
        ("gpt2-tiny", "is_encoder_decoder", json!(true)),
        ("gpt2-tiny", "add_cross_attention", json!(true)),
        ("llama-tiny", "quantization_config", json!({"quant_method": "bitsandbytes"})),
        ("gpt2-tiny", "pruned_heads", json!({"0": [1]})),
    ] {
        let (error, _) = Checkpoint::of(fixture).set(key, value.clone()).refused();
        assert_contains(&error, &["config.json", &format!("`{key}` = {value} is not supported")]);
    }
    assert!(Checkpoint::of("llama-tiny").set("is_causal", json!(true)).load().is_ok());
    assert!(Checkpoint::of("gpt2-tiny").set("pruned_heads", json!({})).load().is_ok());
}

/// transformers' Gemma 3 has the key from Gemma 2, and its attention takes no notice of it (seen in 5.24).
#[test]
fn a_soft_cap_that_gemma3s_attention_leaves_out_is_named_and_left_out() {
    let plain = || Checkpoint::of("families/gemma3");
    let capped = || plain().set("attn_logit_softcapping", json!(0.5));
    assert_eq!(capped().logits(), plain().logits());
    assert_contains(&capped().notes(), &["`attn_logit_softcapping` = 0.5 has no effect"]);
    assert!(!plain().notes().contains("softcapping"));
    assert_ne!(plain().set("final_logit_softcapping", json!(0.5)).logits(), plain().logits());
}

/// `llama-tiny` in the spelling of transformers 5, without any rotary settings.
fn unrotated() -> Checkpoint {
    Checkpoint::of("llama-tiny").without("rope_scaling").without("rope_parameters").without("rope_theta")
}

#[test]
fn rope_scaling_replaces_rope_parameters() {
    let (linear, plain) = (json!({"rope_type": "linear", "factor": 2.0}), json!({"rope_type": "default"}));
    let both = || unrotated().set("rope_parameters", plain.clone()).set("rope_scaling", linear.clone());
    let scaled = unrotated().set("rope_parameters", linear.clone()).logits();
    assert_eq!(both().logits(), scaled);
    assert_ne!(unrotated().set("rope_parameters", plain.clone()).logits(), scaled);
    assert_contains(&both().notes(), &["`rope_scaling`", "the former counts"]);
    // as a whole: the base is not taken from what it replaces, but from the top level or the default
    let based = json!({"rope_type": "default", "rope_theta": 77.0});
    let replaced = || unrotated().set("rope_parameters", based.clone()).set("rope_scaling", linear.clone());
    assert_eq!(replaced().logits(), scaled);
    let with_base = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 77.0});
    let expected = unrotated().set("rope_parameters", with_base).logits();
    assert_eq!(replaced().set("rope_theta", json!(77.0)).logits(), expected);
    // an empty dictionary and null replace nothing
    for empty in [json!({}), Value::Null] {
        let given = unrotated().set("rope_parameters", linear.clone()).set("rope_scaling", empty);
        assert_eq!(given.logits(), scaled);
    }
}

#[test]
fn llama_ignores_a_partial_rotary_factor() {
    let plain = unrotated().logits();
    assert_eq!(unrotated().set("partial_rotary_factor", json!(0.5)).logits(), plain);
    let inside = json!({"rope_type": "default", "partial_rotary_factor": 0.5});
    assert_eq!(unrotated().set("rope_parameters", inside).logits(), plain);
    // transformers fails on it
    let scaled = json!({"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5});
    assert_contains(&unrotated().set("rope_parameters", scaled).refused().0, &["partial_rotary_factor"]);
}

#[test]
fn keys_that_nobody_knows_are_named() {
    assert_eq!(Checkpoint::of("llama-tiny").notes(), "");
    assert_eq!(Checkpoint::of("gpt2-tiny").notes(), "");
    let notes = Checkpoint::of("llama-tiny").set("residual_scale", json!(0.5)).notes();
    assert_contains(&notes, &["`config.json`", "not known for `llama`", "`residual_scale`"]);
    // what transformers knows and does not compute with is no news
    let usual = Checkpoint::of("gpt2-tiny").set("summary_type", json!("last")).set("temperature", json!(0.7));
    assert_eq!(usual.set("reorder_and_upcast_attn", json!(true)).notes(), "");
    assert_eq!(Checkpoint::of("llama-tiny").set("pretraining_tp", json!(2)).notes(), "");
}

#[test]
fn tensors_without_a_place_are_named() {
    let name = "model.layers.0.self_attn.q_norm.weight";
    let notes = Checkpoint::of("llama-tiny").add(name, &[8]).notes();
    assert_contains(&notes, &["no place in the model", &format!("`{name}`")]);
    let notes = Checkpoint::of("llama-tiny").add("model.layers.0.self_attn.o_proj.bias", &[3]);
    assert_contains(&notes.set("attention_bias", json!(false)).notes(), &["`model.layers.0.self_attn.o_proj.bias`"]);
    let many = (0..40).fold(Checkpoint::of("llama-tiny"), |c, n| c.add(&format!("visual.{n}.weight"), &[2]));
    let notes = many.notes();
    assert_contains(&notes, &["and 32 more"]);
    assert!(notes.len() < 500, "{notes}");
    // buffers of old files are no parameters
    assert_eq!(Checkpoint::of("gpt2-tiny").add("transformer.h.0.attn.bias", &[1, 1, 4, 4]).notes(), "");
}

#[test]
fn an_adapter_that_is_not_merged_is_refused() {
    let layer = "model.layers.0.self_attn.q_proj";
    for name in [format!("{layer}.lora_A.default.weight"), format!("{layer}.base_layer.weight")] {
        let (error, hint) = Checkpoint::of("llama-tiny").add(&name, &[2, 3]).refused();
        assert_contains(&error, &["model.safetensors", &name, "adapter"]);
        assert_contains(&hint, &["merge_and_unload()", "save_pretrained(folder)"]);
    }
}

#[test]
fn an_adapter_beside_weights_is_named() {
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let merged = Checkpoint::of("gpt2-tiny");
        std::fs::write(merged.path().join(file), "{}").unwrap();
        assert_contains(
            &merged.notes(),
            &["weights were used", "adapter was not", "`--adapter only` takes the adapter", "`--base DIR`"],
        );
    }
}

#[test]
fn an_adapter_that_names_no_base_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
    std::fs::write(folder.path().join("adapter_model.safetensors"), "").unwrap();
    let error = Model::load(folder.path(), &LoadOptions::default()).unwrap_err();
    assert_contains(&error.hint().unwrap(), &["give the base's folder", "`--base DIR`"]);
}

#[test]
fn null_is_no_default() {
    for (fixture, key) in [
        ("gpt2-tiny", "activation_function"),
        ("gpt2-tiny", "layer_norm_epsilon"),
        ("gpt2-tiny", "tie_word_embeddings"),
        ("llama-tiny", "hidden_act"),
        ("llama-tiny", "rms_norm_eps"),
        ("mlp-tiny", "activation"),
    ] {
        let (error, _) = Checkpoint::of(fixture).set(key, Value::Null).refused();
        assert_contains(&error, &["config.json", &format!("`{key}` = null, expected")]);
    }
    // of these null is a value
    assert!(Checkpoint::of("gpt2-tiny").set("n_inner", Value::Null).load().is_ok());
    assert!(Checkpoint::of("llama-tiny").set("rope_scaling", Value::Null).load().is_ok());
}

#[test]
fn a_huge_configuration_is_refused_before_it_is_read() {
    let written = Checkpoint::of("gpt2-tiny").write();
    let file = std::fs::OpenOptions::new().write(true).open(written.path().join("config.json")).unwrap();
    file.set_len(3 << 30).unwrap();
    let before = std::time::Instant::now();
    let error = Model::load(&written.path(), &LoadOptions::default()).unwrap_err().to_string();
    assert!(before.elapsed().as_secs() < 2);
    assert_contains(&error, &["config.json", "3221225472 bytes", "16 MiB"]);
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let checkpoint = Checkpoint::of("llama-tiny").write();
    let path = checkpoint.path();
    std::fs::remove_file(path.join("model.safetensors")).unwrap();
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let index = |twice: &str| {
        checkpoint.write_tensors(shards[0], |name| name.contains("layers") || name == twice);
        checkpoint.write_tensors(shards[1], |name| !name.contains("layers"));
        let map: BTreeMap<&String, &str> =
            checkpoint.tensors.keys().map(|name| (name, shards[usize::from(!name.contains("layers"))])).collect();
        let index = json!({"weight_map": map}).to_string();
        std::fs::write(path.join("model.safetensors.index.json"), index).unwrap();
    };
    index("");
    let sound = Model::load(&path, &LoadOptions::default()).unwrap();
    assert_eq!(logits(&sound), Checkpoint::of("llama-tiny").logits());
    drop(sound);
    shards.iter().for_each(|shard| std::fs::remove_file(path.join(shard)).unwrap());
    index("model.norm.weight");
    let error = Model::load(&path, &LoadOptions::default()).unwrap_err().to_string();
    assert_contains(&error, &shards);
    assert_contains(&error, &["`model.norm.weight`"]);
}

#[test]
fn an_error_about_a_shape_is_short_however_many_dimensions_it_has() {
    let shape = [vec![2], vec![1; 5000]].concat();
    let (error, _) = Checkpoint::of("llama-tiny").drop("model.norm.weight").add("model.norm.weight", &shape).refused();
    assert_contains(&error, &["`model.norm.weight`", "[2, 1, 1, 1, 1, 1, 1, 1, and 4993 more dimensions]"]);
    assert!(error.len() < 400, "{error}");
    let (error, _) = Checkpoint::of("mlp-tiny").add("layers.9.weight", &shape).refused();
    assert!(error.len() < 400, "{error}");
}

#[test]
fn an_error_about_a_key_is_short_however_long_its_value_is() {
    let long = Value::String("é".repeat(100_000));
    for key in ["hidden_act", "rms_norm_eps", "num_key_value_heads", "architectures", "rope_parameters"] {
        let (error, _) = Checkpoint::of("llama-tiny").set(key, long.clone()).refused();
        assert_contains(&error, &[&format!("`{key}`")]);
        assert!(error.len() < 800, "{key}: {} bytes", error.len());
    }
}

#[test]
fn a_weight_that_is_not_a_number_is_reported_with_its_file() {
    let mut checkpoint = Checkpoint::of("gpt2-tiny");
    let bytes = &mut checkpoint.tensors.get_mut("transformer.h.0.ln_1.weight").unwrap().1;
    bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    let folder = checkpoint.path();
    let (error, _) = checkpoint.refused();
    assert_contains(&error, &[&folder.display().to_string(), "`transformer.h.0.ln_1.weight`", "index 2"]);
}

/// One of fixtures/families.
fn family(name: &str) -> Checkpoint {
    Checkpoint::of(&format!("families/{name}"))
}

#[test]
fn the_language_model_inside_gemma_3_is_read_in_both_spellings() {
    let plain = family("gemma3").logits();
    for prefix in ["model.language_model.", "language_model.model."] {
        let mut inside = family("gemma3").add("vision_tower.embeddings.weight", &[3, 2]);
        let names: Vec<String> = inside.tensors.keys().filter(|name| name.starts_with("model.")).cloned().collect();
        for name in names {
            let tensor = inside.tensors.remove(&name).unwrap();
            inside.tensors.insert(name.replace("model.", prefix), tensor);
        }
        inside.config = json!({
            "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
            "text_config": inside.config, "vision_config": {"hidden_size": 8}, "mm_tokens_per_image": 4,
        });
        let model = inside.load().unwrap();
        assert_contains(&model.notes().join("\n"), &["`vision_tower.embeddings.weight`"]);
        assert!(!model.notes().join("\n").contains("config.json"), "{:?}", model.notes());
        assert_eq!(logits(&model), plain);
    }
}

#[test]
fn a_window_that_does_not_apply_is_ignored() {
    // hub configurations of Qwen 2 have a number there
    let with = |window: Value, used: bool| {
        family("qwen2").without("layer_types").set("sliding_window", window).set("use_sliding_window", json!(used))
    };
    let whole = with(Value::Null, false).logits();
    assert_eq!(with(json!(2), false).logits(), whole);
    assert_ne!(with(json!(2), true).logits(), whole);
    let (error, _) = family("qwen2").set("layer_types", json!(["full_attention"])).refused();
    assert_contains(&error, &["`layer_types` has 1 entries for 3 layers"]);
    let odd = json!(["full_attention", "linear_attention", "full_attention"]);
    assert_contains(&family("qwen2").set("layer_types", odd).refused().0, &["`layer_types`", "not supported"]);
}

#[test]
fn a_relative_with_llamas_settings_is_llama() {
    // Mistral without a window is Llama but for its name
    let checkpoint = || Checkpoint::of("llama-tiny").without("architectures");
    let renamed = checkpoint().set("model_type", json!("mistral")).set("sliding_window", Value::Null);
    assert_eq!(renamed.without("attention_bias").without("mlp_bias").logits(), checkpoint().logits());
}

#[test]
fn settings_of_t5_are_honoured_or_refused() {
    let scaled = |checkpoint: Checkpoint| pair_logits(&checkpoint.load().unwrap());
    let tied = scaled(family("t5"));
    // a file of transformers 4 says by the tie whether logits are scaled, one of transformers 5 by a key of its own
    let before = || family("t5").without("scale_decoder_outputs").set("transformers_version", json!("4.40.0"));
    assert_eq!(scaled(before()), tied);
    let plain = scaled(family("t5").set("scale_decoder_outputs", json!(false)));
    let width = 10f32;
    for (plain, tied) in plain.iter().zip(&tied) {
        assert!((plain - tied * width.sqrt()).abs() <= 1e-5 * plain.abs().max(1.0), "{plain} {tied}");
    }
    let apart = before().set("tie_word_embeddings", json!(false)).copy("shared.weight", "lm_head.weight");
    assert_eq!(scaled(apart), plain);
    let (error, _) = before().set("tie_word_embeddings", json!(false)).refused();
    assert_contains(&error, &["`lm_head.weight`", "no head"]);
    // other names of the one embedding, beside it or in its place
    let copy = "encoder.embed_tokens.weight";
    let twice = family("t5").copy("shared.weight", copy).copy("shared.weight", "decoder.embed_tokens.weight").load();
    assert_eq!(twice.as_ref().unwrap().notes(), [""; 0]);
    assert_eq!(pair_logits(&twice.unwrap()), tied);
    assert_eq!(scaled(family("t5").copy("shared.weight", copy).drop("shared.weight")), tied);
    let (error, _) = family("t5").add(copy, &[61, 10]).refused();
    assert_contains(&error, &["`encoder.embed_tokens.weight`", "differs from `shared.weight`"]);
    for (key, value, parts) in [
        ("decoder_start_token_id", json!(61), ["`decoder_start_token_id` = 61", "below `vocab_size` = 61"]),
        ("decoder_start_token_id", Value::Null, ["no key `decoder_start_token_id`", "reads first"]),
        ("relative_attention_max_distance", json!(2), ["8 `relative_attention_num_buckets`", "= 2"]),
        ("is_encoder_decoder", json!(false), ["`is_encoder_decoder`", "false"]),
        ("is_decoder", json!(true), ["`is_decoder`", "true"]),
        ("dense_act_fn", json!("prelu"), ["`dense_act_fn`", "prelu"]),
        ("architectures", json!(["T5EncoderModel"]), ["T5EncoderModel", "`t5`"]),
        ("architectures", json!(["T5ForSequenceClassification"]), ["T5ForSequenceClassification", "`t5`"]),
    ] {
        assert_contains(&family("t5").set(key, value).refused().0, &parts);
    }
    let (error, _) = family("t5").drop("decoder.block.1.layer.1.EncDecAttention.k.weight").refused();
    assert_contains(&error, &["no tensor `decoder.block.1.layer.1.EncDecAttention.k.weight`"]);
    let (error, _) = family("mt5").set("transformers_version", json!("4.40.0")).refused();
    assert_contains(&error, &["`tie_word_embeddings`"]);
    let unknown = family("t5").set("relative_attention_kind", json!(1)).notes();
    assert_contains(&unknown, &["`relative_attention_kind`"]);
}

/// Logits of one text behind another.
fn pair_logits(model: &Model) -> Vec<f32> {
    let encoder = Some(Positions::from_lengths([4]));
    let batch = Batch {
        targets: Targets::Tokens(vec![None; 3]),
        keys: vec![0],
        positions: Positions::from_lengths([3]),
        contrasts: None,
        range: 0..1,
        inputs: Inputs::Tokens(TokenInputs { ids: vec![5, 9, 14, 3, 0, 22, 7], types: None, encoder }),
    };
    model.logits(&batch).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Number `i` of a tensor of fixtures/gemma3_published.json, row by row.
fn made_up(name: &str, shape: &[usize]) -> Vec<u8> {
    let start = 40503 * name.bytes().map(u64::from).sum::<u64>();
    let scale = if shape.len() == 1 { 0.6 } else { 4.0 / (shape[1] as f64).sqrt() };
    let number = |i: u64| (((i * 2_654_435_761 + start) % (1 << 32)) as f64 / (1u64 << 32) as f64 - 0.5) * scale;
    (0..shape.iter().product::<usize>() as u64).flat_map(|i| (number(i) as f32).to_le_bytes()).collect()
}

/// The hub's Gemma 3 of 4, 12 and 27 billion parameters say inside `text_config` what differs from the class alone: the
/// vocabulary, and 4B its heads, stand nowhere.
#[test]
fn a_published_gemma_3_has_the_numbers_of_its_class() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let recorded: Value =
        serde_json::from_slice(&std::fs::read(folder.join("gemma3_published.json")).unwrap()).unwrap();
    let (d, inner, v) = (8, 6, 262_208);
    let mut shapes = vec![("embed_tokens".to_owned(), vec![v, d]), ("norm".to_owned(), vec![d])];
    for n in 0..7 {
        let mut add = |module: &str, shape: &[usize]| shapes.push((format!("layers.{n}.{module}"), shape.to_vec()));
        for (module, shape) in [("q_proj", [8 * 256, d]), ("k_proj", [4 * 256, d]), ("v_proj", [4 * 256, d])] {
            add(&format!("self_attn.{module}"), &shape);
        }
        add("self_attn.o_proj", &[d, 8 * 256]);
        add("self_attn.q_norm", &[256]);
        add("self_attn.k_norm", &[256]);
        add("mlp.gate_proj", &[inner, d]);
        add("mlp.up_proj", &[inner, d]);
        add("mlp.down_proj", &[d, inner]);
        for norm in ["input", "post_attention", "pre_feedforward", "post_feedforward"] {
            add(&format!("{norm}_layernorm"), &[d]);
        }
    }
    let checkpoint = |prefix: &str| {
        let tensor = |(module, shape): &(String, Vec<usize>)| {
            let name = format!("{module}.weight");
            (format!("{prefix}{name}"), (shape.clone(), made_up(&name, shape)))
        };
        let tensors = shapes.iter().map(tensor).collect();
        Checkpoint { config: recorded["config"].clone(), tensors, folder: tempfile::tempdir().unwrap() }
    };
    // the names that transformers 4 gave to files
    let model = checkpoint("language_model.model.").load().unwrap();
    let taken = "`max_position_embeddings` = 131072, `num_attention_heads` = 8, `vocab_size` = 262208";
    assert_contains(&model.notes().join("\n"), &["that `config.json` leaves out are the class's", taken]);
    let ids: Vec<u32> = recorded["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let rows = ids.len();
    let batch = Batch {
        targets: Targets::Tokens(vec![None; rows]),
        keys: vec![0],
        positions: Positions::from_lengths([rows]),
        contrasts: None,
        range: 0..1,
        inputs: Inputs::Tokens(TokenInputs { ids, types: None, encoder: None }),
    };
    let found: Vec<f32> = model.logits(&batch).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    for (row, want) in recorded["logits"].as_array().unwrap().iter().enumerate() {
        for (column, want) in recorded["columns"].as_array().unwrap().iter().zip(want.as_array().unwrap()) {
            let (found, want) = (f64::from(found[row * v + column.as_u64().unwrap() as usize]), want.as_f64().unwrap());
            assert!((found - want).abs() < 1e-4 * want.abs().max(1.0), "{row}, {column}: {found}, {want}");
        }
    }
    // weights that do not fit the class's numbers are not said to contradict what the file does not say
    let smaller = checkpoint("model.language_model.").add("model.language_model.embed_tokens.weight", &[64, d]);
    let (error, hint) = smaller.refused();
    assert_contains(&error, &["config.json", "`vocab_size` = 262208", "embed_tokens.weight", "[64, 8]", "[262208, 8]"]);
    assert_contains(&hint, &["write the model's own numbers into `config.json`"]);
}

/// Without a class a decoder with a classifier's head, and none of its own, would be run with its embedding as head.
#[test]
fn a_classifier_without_its_class_is_no_language_model() {
    for (name, class) in
        [("llama", "LlamaForSequenceClassification"), ("gemma3", "Gemma3TextForSequenceClassification")]
    {
        let tied = || Checkpoint::of(&format!("classifiers/{name}")).set("tie_word_embeddings", json!(true));
        for nameless in [tied().without("architectures"), tied().set("architectures", json!([]))] {
            let (error, hint) = nameless.refused();
            assert_contains(&error, &["no `architectures`", "`score.weight`", class]);
            assert_contains(&hint, &["\"architectures\"", class, "ForCausalLM"]);
        }
        // whoever says that it is a language model gets one
        let stem =
            class.trim_end_matches("TextForSequenceClassification").trim_end_matches("ForSequenceClassification");
        let notes = tied().set("architectures", json!([format!("{stem}ForCausalLM")])).notes();
        assert_contains(&notes, &["left out", "`score.weight`"]);
    }
}

/// A token id of padding that is absent is the class's, one that is null or negative is none.
#[test]
fn padding_is_what_the_class_says_where_the_file_says_nothing() {
    let end = |checkpoint: Checkpoint| checkpoint.load().unwrap().labels().unwrap().end;
    let olmo = || Checkpoint::of("classifiers/olmo");
    assert_eq!(end(olmo()), None);
    assert_contains(&olmo().without("pad_token_id").notes(), &["`pad_token_id` = 1"]);
    assert_eq!(end(olmo().without("pad_token_id")), None);
    let text = Some(DoubtfulEnd { token: 2, counts_as: EndToken::Text });
    for none in [Value::Null, json!(-1)] {
        assert_eq!(end(olmo().set("pad_token_id", none.clone())), text);
        assert_contains(&olmo().set("pad_token_id", none).notes(), &["no `pad_token_id`", "last token is classified"]);
    }
    assert_eq!(end(Checkpoint::of("classifiers/llama").without("pad_token_id")), text);
    let (error, _) = olmo().set("pad_token_id", json!("<pad>")).refused();
    assert_contains(&error, &["`pad_token_id` = \"<pad>\"", "the number of a token"]);
}

/// Keys of DeBERTa that ask for something else than is built, and spellings of those that are.
#[test]
fn deberta_honours_its_keys_or_refuses_them_by_name() {
    let deberta = || Checkpoint::of("classifiers/deberta-v2");
    for (key, value) in [
        ("embedding_size", json!(8)),
        ("attention_head_size", json!(8)),
        ("pooler_hidden_size", json!(8)),
        ("pos_att_type", json!("c2p|p2p")),
        ("pos_att_type", json!([3])),
        ("norm_rel_ebd", json!("rms_norm")),
        ("pooler_hidden_act", json!("maxout")),
        ("hidden_act", json!("maxout")),
    ] {
        let (error, _) = deberta().set(key, value).refused();
        assert_contains(&error, &[&format!("`{key}`"), "is not supported"]);
    }
    for (key, value, problem) in [
        ("position_buckets", json!(1), "`position_buckets` = 1 do not fit a largest distance of 64"),
        ("max_relative_positions", json!(3), "do not fit a largest distance of 3"),
        ("position_buckets", json!("four"), "`position_buckets` = \"four\", expected a whole number"),
        ("position_buckets", json!(5), "encoder.rel_embeddings.weight"),
        ("type_vocab_size", json!(2), "embeddings.token_type_embeddings.weight"),
        ("position_biased_input", json!(true), "embeddings.position_embeddings.weight"),
        ("share_att_key", json!(false), "attention.self.pos_key_proj.weight"),
        ("conv_kernel_size", json!(3), "encoder.conv.conv.weight"),
        ("conv_kernel_size", json!(4), "`conv_kernel_size` = 4, expected an odd number"),
        ("conv_kernel_size", json!(1_000_001), "expected an odd number of at most 1024"),
        ("num_attention_heads", json!(3), "not a multiple of 3"),
        ("architectures", json!(["DebertaV2Model"]), "DebertaV2Model"),
        ("architectures", json!(["DebertaV2ForTokenClassification"]), "DebertaV2ForTokenClassification"),
    ] {
        let (error, _) = deberta().set(key, value).refused();
        assert_contains(&error, &[problem]);
    }
    let usual = deberta().logits();
    for (key, value) in [
        ("pos_att_type", json!(["p2c", "c2p"])),
        ("pos_att_type", json!(" C2P | p2c")),
        ("max_relative_positions", json!(64)),
        ("conv_kernel_size", json!(0)),
        ("conv_act", json!("maxout")),
        ("conv_groups", json!(3)),
        ("attention_head_size", json!(4)),
        ("norm_rel_ebd", json!("none| Layer_Norm")),
        ("hidden_dropout_prob", json!(0.5)),
    ] {
        assert_eq!(deberta().set(key, value.clone()).logits(), usual, "{key} {value}");
    }
    let convolved = || Checkpoint::of("classifiers/deberta-v2-convolution");
    for (key, value, problem) in [
        ("conv_act", json!("maxout"), "`conv_act`"),
        ("conv_groups", json!(0), "`conv_groups` = 0 do not divide"),
        ("conv_groups", json!(5), "`conv_groups` = 5 do not divide"),
        ("conv_groups", json!(2), "encoder.conv.conv.weight"),
        ("conv_kernel_size", json!(0), "encoder.conv"),
    ] {
        let text = match convolved().set(key, value.clone()) {
            // tensors that nothing reads are named
            whole if value == json!(0) && key == "conv_kernel_size" => whole.notes(),
            whole => whole.refused().0,
        };
        assert_contains(&text, &[problem]);
    }
    assert_ne!(convolved().logits(), convolved().set("conv_act", json!("tanh")).logits());
    // as many rows of the table mean other distances
    for (key, value) in [
        ("pos_att_type", json!("c2p")),
        ("max_relative_positions", json!(8)),
        ("layer_norm_eps", json!(0.5)),
        ("pooler_hidden_act", json!("tanh")),
    ] {
        assert_ne!(deberta().set(key, value.clone()).logits(), usual, "{key} {value}");
    }
    // published files hold tensors that no class reads
    let notes = deberta().add("mask_predictions.dense.weight", &[2, 2]).notes();
    assert_contains(&notes, &["left out: `mask_predictions.dense.weight`"]);
}

#[test]
fn what_is_not_supported_is_named_with_what_to_do() {
    for (kind, reason, instead) in [
        ("mamba2", "state-space", "softmax attention"),
        ("qwen3_next", "linear attention", "softmax attention"),
        ("qwen2_5_vl", "images and text", "save it by itself"),
        ("whisper", "sound", "rows of numbers"),
        ("bart", "an encoder with a decoder", "`t5` and `mt5`"),
        ("deepseek_v3", "a decoder with blocks", "docs/own-model.md"),
        ("deberta", "an encoder of texts", "`deberta-v2` (DeBERTa v2 and v3)"),
        ("convnext", "neither `vit` nor `resnet`", "docs/vision.md"),
    ] {
        let (error, hint) = Checkpoint::of("llama-tiny").set("model_type", json!(kind)).refused();
        assert_contains(&error, &[&format!("`model_type` is `{kind}`, which is not supported: "), reason]);
        assert_contains(&hint, &[instead, "supported are gpt2"]);
    }
    // what nobody listed is known by its parts
    let (error, _) = Checkpoint::of("llama-tiny")
        .set("model_type", json!("brand_new_vl"))
        .set("vision_config", json!({"hidden_size": 8}))
        .refused();
    assert_contains(&error, &["a model of images and text"]);
    let (error, hint) = Checkpoint::of("llama-tiny").set("model_type", json!("brand_new")).refused();
    assert!(error.ends_with("which is not supported"), "{error}");
    assert!(hint.starts_with("supported are"), "{hint}");
    for (method, instead) in [
        ("bitsandbytes", "`--base DIR`"),
        ("gptq", "`model.dequantize()`"),
        ("mxfp4", "`quantization_config=Mxfp4Config(dequantize=True)`"),
        ("fp8", "FineGrainedFP8Config"),
    ] {
        let settings = json!({"a_long_key_before_the_method": "x".repeat(300), "quant_method": method});
        let (error, hint) = Checkpoint::of("llama-tiny").set("quantization_config", settings).refused();
        assert_contains(&error, &["`quantization_config`", "is not supported"]);
        assert_contains(&hint, &["unpacked", instead]);
    }
}
