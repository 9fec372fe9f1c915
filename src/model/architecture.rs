//! What the program asks of an architecture beside its figure: which checkpoints are its own, how they are built, and
//! how training code names and numbers their parameters. Each architecture's file holds one such description, and
//! `supported.rs` lists them; everything else that depends on the architecture follows from it.

use std::sync::Arc;

use super::attention_heads::HeadRole;
use super::body::Loaded;
use super::config::Config;
use super::error::{LoadError, abridged};
use super::layout::Layout;
use super::load_options::LoadOptions;
use super::weights::Weights;

/// One architecture.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// `model_type` of its configurations.
    pub(crate) model_type: &'static str,
    /// What its class of transformers takes for whole numbers whose keys a configuration leaves out, which is common
    /// inside `text_config`: files of several modalities hold what differs from the class alone.
    pub(crate) class_numbers: &'static [(&'static str, u64)],
    /// What `architectures` may say of it, the usual one first. Empty: no class of transformers, and nothing is checked.
    pub(crate) classes: &'static [&'static str],
    /// Builds a model of a configuration and weights.
    pub(crate) load: fn(&Config, &Arc<Weights>, &LoadOptions) -> Result<Loaded, LoadError>,
    /// In which order its code registers parameters, which is how an optimizer numbers them.
    pub(crate) parameters: Parameters,
    /// What `tie_word_embeddings` is where a configuration does not say it.
    pub(crate) tied_by_default: bool,
    /// Keys that may stand in its configurations and change no number. Those of all classes are known already, and
    /// those that `load` reads are.
    pub(crate) without_effect: &'static [&'static str],
    /// What transformers 5 calls a module of a file in memory, if that is another name: PEFT saves adapters under it.
    pub(crate) renamed: Option<fn(&str) -> Option<String>>,
    /// The key with the number of blocks.
    pub(crate) blocks: Option<&'static str>,
    /// The key with the number of attention heads.
    pub(crate) heads: Option<&'static str>,
    /// The layers around attention by the ends of their names, with what of them belongs to a head; none: a network
    /// without attention.
    pub(crate) attention: Option<&'static [(&'static str, HeadRole)]>,
}

/// In which order an architecture registers its parameters.
#[derive(Debug)]
pub(crate) enum Parameters {
    /// A transformer: embeddings, numbered blocks, last norm, head.
    Blocks(BlockNames),
    /// The head, then all the rest in this order.
    HeadFirst(BlockNames),
    /// By the numbers in their names.
    Numbers,
    /// By keys that the architecture makes of names.
    Keys {
        /// A parameter's key, none if the name has no place.
        of: fn(&str) -> Option<Vec<u64>>,
        /// Whether a tensor is no parameter, though files hold it.
        is_buffer: fn(&str) -> bool,
        /// What its embedding and its head are called, if it has them.
        ends: Option<&'static BlockNames>,
    },
    /// Module by module as the configuration lists them.
    Listed {
        /// The names of the modules with parameters.
        of: fn(&Config) -> Result<Vec<String>, LoadError>,
        /// Whether a tensor is no parameter, though files hold it.
        is_buffer: fn(&str) -> bool,
    },
    /// In the first of these orders a class that fills in masked tokens, and in the second the others.
    OfMasked {
        /// The order of parameters in the class that fills in masked tokens.
        masked: &'static Self,
        /// The order of parameters in every class that does not fill in masked tokens.
        others: &'static Self,
    },
    /// In the first of these orders up to transformers 4, and in the second since transformers 5.
    Since5 {
        /// Up to transformers 4.
        before: &'static Self,
        /// Since transformers 5.
        since: &'static Self,
    },
}

impl Parameters {
    /// The names of modules, if there are blocks.
    pub(crate) fn names(&self) -> Option<&BlockNames> {
        match self {
            Self::Blocks(names) | Self::HeadFirst(names) => Some(names),
            Self::Since5 { before, .. } => before.names(),
            Self::OfMasked { others, .. } => others.names(),
            Self::Keys { ends, .. } => *ends,
            Self::Numbers | Self::Listed { .. } => None,
        }
    }

    /// Whether a tensor is no parameter, though files hold it.
    pub(crate) fn is_buffer(&self, name: &str) -> bool {
        match self {
            Self::Keys { is_buffer, .. } | Self::Listed { is_buffer, .. } => is_buffer(name),
            _ => self.names().is_some_and(|names| names.is_buffer(name)),
        }
    }

    /// The order of a configuration's class, and of a version of transformers; the newest one's where none is known.
    pub(crate) fn of(&self, config: &Config, major: Option<u32>) -> Result<&Self, LoadError> {
        let of_class = match self {
            Self::OfMasked { masked, .. } if is_masked(config)? => masked,
            Self::OfMasked { others, .. } => others,
            _ => self,
        };
        Ok(of_class.of_version(major))
    }

    fn of_version(&self, major: Option<u32>) -> &Self {
        match self {
            Self::Since5 { before, .. } if major.is_some_and(|major| major < 5) => before,
            Self::Since5 { since, .. } => since,
            _ => self,
        }
    }
}

/// The modules of a transformer in the order of registration.
#[derive(Debug)]
pub(crate) struct BlockNames {
    /// What may stand in front of all names but the head's; nothing does in a checkpoint of the base class.
    pub(crate) prefixes: &'static [&'static str],
    /// The modules before the blocks. The first is the embedding that a head may be tied to.
    pub(crate) before: &'static [&'static str],
    /// The list of blocks.
    pub(crate) blocks: &'static str,
    /// The modules of a block.
    pub(crate) modules: &'static [&'static str],
    /// The modules behind the blocks.
    pub(crate) after: &'static [&'static str],
    /// The modules of a head before the layer whose outputs are the logits; no prefix precedes them.
    pub(crate) before_head: &'static [&'static str],
    /// Names that the layer behind them may have, of which a checkpoint has one; no prefix precedes them.
    pub(crate) heads: &'static [&'static str],
    /// Endings of tensors of old files that are no parameters.
    pub(crate) buffers: &'static [&'static str],
    /// How weights of linear layers lie, but for the head's.
    pub(crate) layout: Layout,
    /// What files call the experts of a block, if it may have some.
    pub(crate) experts: Option<ExpertNames>,
}

/// What files call the experts of a block: three matrices for each, as transformers 4 has them, or two tensors for all,
/// as transformers 5 has them in memory. The latter saves the former, and its optimizers know the latter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertNames {
    /// The module of router and experts where each expert has its matrices.
    pub(crate) module: &'static str,
    /// Gate, up and down of one expert.
    pub(crate) matrices: [&'static str; 3],
    /// Names of an expert's three matrices in the order in which transformers 4 registers them.
    pub(crate) registered: [&'static str; 3],
}

impl ExpertNames {
    /// The module of router and experts where two tensors hold all experts.
    pub(crate) const FUSED_MODULE: &'static str = "mlp";

    /// The two tensors in that module: gates and ups one behind the other `[E, 2 I, D]`, downs `[E, D, I]`.
    pub(crate) const FUSED: [&'static str; 2] = ["experts.gate_up_proj", "experts.down_proj"];

    /// The block, the expert, and which of its matrices a layer is, if it is one of an expert.
    pub(crate) fn expert_of<'a>(&self, layer: &'a str) -> Option<(&'a str, usize, usize)> {
        let (experts, matrix) = layer.rsplit_once('.')?;
        let (module, expert) = experts.rsplit_once('.')?;
        let block = module.strip_suffix(".experts")?.strip_suffix(self.module)?.strip_suffix('.')?;
        let matrix = self.matrices.iter().position(|&one| one == matrix)?;
        Some((block, expert.parse().ok()?, matrix))
    }
}

impl BlockNames {
    /// What stands in front of names in this checkpoint.
    pub(crate) fn prefix_in(&self, weights: &Weights) -> &'static str {
        let embedding = |prefix: &str| weights.contains(&format!("{prefix}{}.weight", self.before[0]));
        let block = |prefix: &str| {
            let start = format!("{prefix}{}.", self.blocks);
            weights.names().any(|name| name.starts_with(&start))
        };
        let all = || [""].into_iter().chain(self.prefixes.iter().copied());
        all().find(|prefix| embedding(prefix)).or_else(|| all().find(|prefix| block(prefix))).unwrap_or_else(|| {
            // nothing fits: the errors that follow name tensors as the class stores them
            self.prefixes.first().copied().unwrap_or("")
        })
    }

    /// The head's name in this checkpoint; of one that is tied the bias may be there alone.
    pub(crate) fn head_in(&self, weights: &Weights) -> &'static str {
        let holds = |leaf: &str| self.heads.iter().find(|head| weights.contains(&format!("{head}.{leaf}")));
        let there = holds("weight").or_else(|| holds("bias"));
        there.or(self.heads.first()).copied().unwrap_or("lm_head")
    }

    /// Whether a tensor is no parameter, though old files hold it.
    pub(crate) fn is_buffer(&self, name: &str) -> bool {
        self.buffers.iter().any(|buffer| name.ends_with(buffer))
    }
}

/// Keys that change no number, whatever the class: about generation, tokens, training and where a checkpoint comes from.
const WITHOUT_EFFECT: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cls_token_id",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "model_type",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

/// What the names of transformers' classes end in that give something for a whole text.
const OF_TEXTS: &str = "ForSequenceClassification";

/// What the names of transformers' classes end in that give something for an image.
const OF_IMAGES: &str = "ForImageClassification";

/// What the names of transformers' classes end in that fill in masked tokens.
const MASKED: &str = "ForMaskedLM";

/// What the names of transformers' classes end in that predict the next token.
const LANGUAGE_MODELS: [&str; 3] = ["ForCausalLM", "LMHeadModel", "ForConditionalGeneration"];

/// The layer from a decoder's last hidden states to what it gives for a whole text.
pub(crate) const SCORE: &str = "score";

/// The class of a configuration that gives something for a whole text, if it names one.
pub(crate) fn class_of_texts(config: &Config) -> Result<Option<&str>, LoadError> {
    let classes = config.list("architectures")?.unwrap_or_default();
    Ok(classes.iter().filter_map(serde_json::Value::as_str).find(|class| class.ends_with(OF_TEXTS)))
}

/// Whether a configuration is of a class that fills in masked tokens.
pub(crate) fn is_masked(config: &Config) -> Result<bool, LoadError> {
    let classes = config.list("architectures")?.unwrap_or_default();
    Ok(classes.iter().filter_map(serde_json::Value::as_str).any(|class| class.ends_with(MASKED)))
}

/// Parts of names that PEFT gives to an adapter's tensors, and to the weights that it changes.
const ADAPTER: [&str; 5] = ["lora_A.", "lora_B.", "lora_embedding_", "lora_magnitude_vector", ".base_layer."];

impl Architecture {
    /// Refuses what would be run as something else than it is: another class, and settings that make a language model
    /// another function than the one that it is built as.
    pub(super) fn check(&self, config: &Config, weights: &Weights) -> Result<(), LoadError> {
        if let Some(name) = weights.names().find(|name| ADAPTER.iter().any(|part| name.contains(part))) {
            let file = weights.origin().to_owned();
            return Err(LoadError::UnmergedAdapter { file, name: name.to_owned() });
        }
        let Some(&expected) = self.classes.first() else { return Ok(()) };
        if let Some(classes) = config.list("architectures")? {
            let own = |class: &serde_json::Value| class.as_str().is_some_and(|class| self.is_own(class));
            if !classes.is_empty() && !classes.iter().any(own) {
                return Err(LoadError::UnsupportedClass {
                    file: config.file().to_owned(),
                    found: config.quoted("architectures"),
                    model_type: self.model_type.to_owned(),
                    expected,
                    of_texts: self.class_of_texts(),
                });
            }
        }
        self.check_head(config, weights)?;
        for (key, usual) in [
            ("is_causal", true),
            ("use_bidirectional_attention", false),
            ("is_encoder_decoder", self.has_encoder()),
            ("add_cross_attention", false),
        ] {
            if config.get(key).is_some() && config.flag(key, usual)? != usual {
                return Err(config.unsupported(key));
            }
        }
        for key in ["pruned_heads", "quantization_config", "compression_config", "per_layer_config"] {
            let empty = |value: &serde_json::Value| {
                value.as_object().is_some_and(serde_json::Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
            };
            if config.get(key).is_some_and(|value| !empty(value)) {
                return Err(config.unsupported(key));
            }
        }
        Ok(())
    }

    /// Refuses weights with a classifier's head and without a language model's, if no class is named: a decoder would be
    /// run with its embedding as head.
    fn check_head(&self, config: &Config, weights: &Weights) -> Result<(), LoadError> {
        let is_named = config.list("architectures")?.is_some_and(|classes| !classes.is_empty());
        let (Some(names), Some(expected), Some(of_texts)) =
            (self.parameters.names(), self.language_model(), self.class_of_texts())
        else {
            return Ok(());
        };
        let name = format!("{SCORE}.weight");
        let has_head = names.heads.iter().any(|head| weights.contains(&format!("{head}.weight")));
        if is_named || has_head || !weights.contains(&name) {
            return Ok(());
        }
        Err(LoadError::NoClass { file: config.file().to_owned(), name, of_texts, expected })
    }

    /// Whether an encoder reads a text and a decoder beside it writes another.
    pub(crate) fn has_encoder(&self) -> bool {
        matches!(self.model_type, "t5" | "mt5")
    }

    /// Whether a class is one of this architecture: a language model, or what gives something for a whole text.
    fn is_own(&self, class: &str) -> bool {
        let stem =
            |class: &str| LANGUAGE_MODELS.iter().find_map(|&ending| class.strip_suffix(ending).map(str::to_owned));
        let of_texts = class.strip_suffix(OF_TEXTS);
        self.classes.contains(&class)
            || !self.has_encoder()
                && of_texts.is_some()
                && self.classes.iter().any(|own| stem(own).as_deref() == of_texts)
    }

    /// Its class that gives something for an image, if it has one.
    pub(super) fn class_of_images(&self) -> Option<&'static str> {
        self.classes.iter().copied().find(|class| class.ends_with(OF_IMAGES))
    }

    /// Whether its class that gives something for a whole text makes it of the last token that is no padding.
    pub(super) fn classifies_last_token(&self) -> bool {
        self.language_model().is_some() && self.class_of_texts().is_some()
    }

    /// The class that predicts the next token, if there is one.
    fn language_model(&self) -> Option<&'static str> {
        self.classes.iter().copied().find(|class| LANGUAGE_MODELS.iter().any(|end| class.ends_with(end)))
    }

    /// The class of this architecture that gives something for a whole text; none if there is none.
    pub(super) fn class_of_texts(&self) -> Option<String> {
        if self.has_encoder() {
            return None;
        }
        let stem =
            |class: &str| LANGUAGE_MODELS.iter().find_map(|&ending| class.strip_suffix(ending).map(str::to_owned));
        let own = self.classes.iter().find(|class| class.ends_with(OF_TEXTS)).map(|&class| class.to_owned());
        own.or_else(|| Some(format!("{}{OF_TEXTS}", self.classes.iter().find_map(|class| stem(class))?)))
    }

    /// What a person should know of a checkpoint that was built: the keys and tensors that nobody asked for, and what
    /// lies beside the weights.
    pub(super) fn notes(&self, config: &Config, weights: &Weights) -> Vec<String> {
        let mut notes = config.take_notes();
        let known = |key: &str| WITHOUT_EFFECT.contains(&key) || self.without_effect.contains(&key);
        let keys: Vec<String> = config.unread().into_iter().filter(|key| !known(key)).collect();
        if !keys.is_empty() {
            notes.push(format!(
                "`config.json` has keys that are not known for `{}` and were not used: {}",
                self.model_type,
                abridged(&keys)
            ));
        }
        let buffer = |name: &str| self.parameters.is_buffer(name);
        let asked = weights.asked();
        let tensors: Vec<String> =
            weights.names().filter(|name| !asked.contains_key(*name) && !buffer(name)).map(str::to_owned).collect();
        if !tensors.is_empty() {
            notes.push(format!("tensors that have no place in the model were left out: {}", abridged(&tensors)));
        }
        let beside = |name: &str| crate::presence::is_file(&config.file().with_file_name(name));
        if beside("adapter_config.json") || beside("adapter_model.safetensors") {
            notes.push(
                "the folder holds weights and an adapter: the weights were used and the adapter was not, because whole \
                 weights are a model by themselves; `--adapter only` takes the adapter, over the base that it names or \
                 `--base DIR`"
                    .into(),
            );
        }
        notes
    }
}
