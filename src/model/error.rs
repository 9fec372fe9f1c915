//! Why a checkpoint cannot be used, with the file and the key or tensor.

use std::path::PathBuf;

use crate::Hint;
use crate::hub;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The path does not exist or cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// Which path.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The folder holds no checkpoint.
    #[error("{}: not a checkpoint: no `{missing}`", folder.display())]
    NotACheckpoint {
        /// Which folder.
        folder: PathBuf,
        /// What should be there.
        missing: &'static str,
        /// What is there instead and can be used, if anything.
        instead: Option<String>,
    },
    /// A configuration is not valid JSON, lacks a key, or holds a value of the wrong kind.
    #[error("{}: {problem}", file.display())]
    Config {
        /// Which file.
        file: PathBuf,
        /// What is wrong, with the key's name.
        problem: String,
    },
    /// The architecture is not one of ours.
    #[error("{}: `model_type` is `{found}`, which is not supported{}", file.display(), after_colon(reason))]
    UnsupportedModel {
        /// The configuration.
        file: PathBuf,
        /// What it says.
        found: String,
        /// What kind of model that is; empty if it is unknown.
        reason: &'static str,
        /// What can be done instead, if anything is known.
        instead: Option<&'static str>,
        /// What is supported.
        supported: Vec<&'static str>,
    },
    /// The configuration asks for something that would change the numbers and is not implemented.
    #[error("{}: `{key}` = {value} is not supported", file.display())]
    UnsupportedOption {
        /// The configuration.
        file: PathBuf,
        /// Which key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What can be done instead, if anything is known.
        instead: Option<&'static str>,
    },
    /// A weight file's header is broken, truncated, or does not fit the file.
    #[error("{}: not a valid safetensors file: {problem}", file.display())]
    BrokenWeights {
        /// Which file.
        file: PathBuf,
        /// What the parser found.
        problem: String,
    },
    /// A file of text is larger than any that makes sense.
    #[error("{}: {size} bytes; at most {} MiB of this file are read", file.display(), limit >> 20)]
    TooLarge {
        /// Which file.
        file: PathBuf,
        /// Its bytes.
        size: u64,
        /// The most that are read.
        limit: u64,
    },
    /// The checkpoint is of a class that has other numbers than the one that would be run.
    #[error("{}: `architectures` is {found}, which is not supported for `model_type` `{model_type}`", file.display())]
    UnsupportedClass {
        /// The configuration.
        file: PathBuf,
        /// What it says.
        found: String,
        /// Its `model_type`.
        model_type: String,
        /// The class that is.
        expected: &'static str,
        /// The class that is and gives something for a whole text, if there is one.
        of_texts: Option<String>,
    },
    /// Nothing says whether the checkpoint is a language model, and the weights hold a head of another class.
    #[error(
        "{}: no `architectures`, and the weights hold `{name}`, the head of `{of_texts}`, and none of a language model",
        file.display()
    )]
    NoClass {
        /// The configuration.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// The class with such a head.
        of_texts: String,
        /// The language model that it may be instead.
        expected: &'static str,
    },
    /// Nothing says what the logits are computed with.
    #[error("{}: no tensor `{name}`, and `tie_word_embeddings` is false: the model has no head", file.display())]
    NoHead {
        /// The weight file or index.
        file: PathBuf,
        /// The tensor.
        name: String,
    },
    /// The file holds an adapter beside the weights that it changes.
    #[error("{}: tensor `{name}` is part of an adapter that is not merged into the weights", file.display())]
    UnmergedAdapter {
        /// The weight file or index.
        file: PathBuf,
        /// The first such tensor.
        name: String,
    },
    /// Two shards hold a tensor of one name.
    #[error("{}: tensor `{name}` is also in {}", file.display(), other.display())]
    Twice {
        /// One shard.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// The other.
        other: PathBuf,
    },
    /// The index names a file that is not there.
    #[error("{}: the index names the shard `{shard}`, which is not in the folder", index.display())]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The shard's file name.
        shard: String,
    },
    /// A tensor is missing.
    #[error("{}: no tensor `{name}`", file.display())]
    MissingTensor {
        /// The weight file or index.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// The most similar name in the file.
        nearest: Option<String>,
    },
    /// A tensor has another shape than the configuration says.
    #[error(
        "{}: tensor `{name}` has the shape {}, `config.json` asks for {}",
        file.display(),
        abridged_shape(found),
        abridged_shape(expected)
    )]
    Shape {
        /// The weight file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it must have.
        expected: Vec<usize>,
    },
    /// The weights do not fit the numbers that the class has for keys that the configuration leaves out.
    #[error("{}: these keys are absent, so that the class's numbers count: {taken}; with them: {source}", file.display())]
    ClassNumbers {
        /// The configuration.
        file: PathBuf,
        /// The keys with the class's numbers.
        taken: String,
        /// What does not fit.
        source: Box<LoadError>,
    },
    /// An adapter whose base is not in a folder of this machine.
    #[error("{}: the base `{found}` (`base_model_name_or_path`) is not a folder with a `config.json` here", file.display())]
    NoBase {
        /// The adapter's settings.
        file: PathBuf,
        /// What they call the base.
        found: String,
    },
    /// A base was given for a folder that holds no adapter.
    #[error("{}: a base is given, but this is no adapter: no `adapter_config.json`", folder.display())]
    NotAnAdapter {
        /// The folder.
        folder: PathBuf,
    },
    /// The base of an adapter is an adapter.
    #[error("{}: the base is itself an adapter, and an adapter lies over a whole checkpoint", folder.display())]
    BaseIsAdapter {
        /// The base's folder.
        folder: PathBuf,
    },
    /// Checkpoints to be averaged of which not all are adapters over one base.
    #[error("{}: not an adapter over the same base as {}", folder.display(), other.display())]
    MixedBases {
        /// A checkpoint.
        folder: PathBuf,
        /// Another, an adapter.
        other: PathBuf,
    },
    /// A setting of an adapter that changes numbers and is not implemented.
    #[error("{}: `{key}` = {value} is not supported", file.display())]
    AdapterOption {
        /// The adapter's settings.
        file: PathBuf,
        /// Which key.
        key: String,
        /// Its value.
        value: String,
        /// What to do instead, if anything.
        hint: Option<String>,
    },
    /// A tensor of an adapter that has no place in the base.
    #[error("{}: tensor `{name}` has no place: {problem}", file.display())]
    AdapterTensor {
        /// The adapter's weights.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// Why.
        problem: String,
    },
    /// A tensor that the settings say was trained as a whole, which the file does not hold.
    #[error(
        "{}: no tensor `{name}`, which was trained with the adapter (`{key}` of `adapter_config.json`); the base's own is \
         another",
        file.display()
    )]
    MissingTrained {
        /// The adapter's weights.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// The key of the settings.
        key: &'static str,
    },
    /// A module that the settings select has no adapter in the file, or not the whole of it.
    #[error("{}: no tensor `{name}`, though `adapter_config.json` selects `{module}`", file.display())]
    MissingAdapter {
        /// The adapter's weights.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// The module.
        module: String,
    },
    /// A tensor of an adapter has another shape than the settings and the base say.
    #[error(
        "{}: tensor `{name}` has the shape {}, and the base's `{module}` with an adapter of rank {rank} \
         (`adapter_config.json`) asks for {}",
        file.display(),
        abridged_shape(found),
        abridged_shape(expected)
    )]
    AdapterShape {
        /// The adapter's weights.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that it must have.
        expected: Vec<usize>,
        /// The module of the base.
        module: String,
        /// The rank that the settings give it.
        rank: usize,
    },
    /// Checkpoints to be averaged whose tensors have different shapes.
    #[error(
        "{}: tensor `{name}` has the shape {}, and {} in {}: the two have no mean",
        file.display(),
        abridged_shape(found),
        abridged_shape(expected),
        other.display()
    )]
    NoMean {
        /// A weight file or folder.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// Its shape in the other.
        expected: Vec<usize>,
        /// The other.
        other: PathBuf,
    },
    /// A tensor is stored in a type that weights do not come in.
    #[error("{}: tensor `{name}` is stored as {dtype}; weights are read from F32, F16, BF16 and F64", file.display())]
    Dtype {
        /// The weight file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A weight is NaN or infinite.
    #[error("{}: tensor `{name}` holds NaN or infinity at index {index}", file.display())]
    NonFinite {
        /// The weight file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// Row-major place of the first such number.
        index: usize,
    },
    /// A layer pattern is not a valid glob.
    #[error("the layer pattern `{pattern}` is not a valid glob: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The patterns leave nothing to attribute.
    #[error("no layer is tracked: {reason}")]
    NoLayers {
        /// Which pattern matched nothing, or that everything was skipped.
        reason: String,
        /// The linear layers that exist.
        available: Vec<String>,
    },
    /// A tensor operation failed while the model was built.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A layer could not be built.
    #[error(transparent)]
    Curvature(#[from] crate::curvature::Error),
}

impl Hint for LoadError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreadable { path, source } => match hub::would_be(path) {
                Some(name) if source.kind() == std::io::ErrorKind::NotFound => format!(
                    "no folder of this name is here; nothing is fetched for a path, a model of the hub is `--model {name}`"
                ),
                _ => "check the path and its permissions".into(),
            },
            Self::NotACheckpoint { instead: Some(instead), .. } => instead.clone(),
            Self::NotACheckpoint { .. } => "give the folder that holds `config.json` and `model.safetensors`".into(),
            Self::UnsupportedModel { instead, supported, .. } => {
                let supported = format!("supported are {}", supported.join(", "));
                instead.map_or(supported.clone(), |instead| format!("{instead}; {supported}"))
            }
            Self::UnsupportedOption { instead, .. } => return instead.map(str::to_owned),
            Self::UnsupportedClass { expected, of_texts, .. } => format!(
                "only {} is; if the weights are that class's nevertheless, say so in `architectures` of `config.json`",
                classes(expected, of_texts.as_deref())
            ),
            Self::NoClass { of_texts, expected, .. } => format!(
                "write `\"architectures\": [\"{of_texts}\"]` into `config.json`, or `[\"{expected}\"]` if it is a language \
                 model whose head is the embedding"
            ),
            Self::NoHead { .. } => "a base model has no head: save it with the head that it was trained with \
                 (`AutoModelForCausalLM`); if that was the embedding, set `tie_word_embeddings` to true in `config.json`"
                .into(),
            Self::UnmergedAdapter { .. } => "save the adapter with `PeftModel.save_pretrained(folder)` and give that folder, \
                 or merge it into the weights with `merge_and_unload()`"
                .into(),
            Self::NoBase { .. } => "give the base's folder: `--base DIR`, or `base` in a job file; `--base hub:ORG/NAME` fetches it".into(),
            Self::NotAnAdapter { .. } => {
                "leave `--base` out, or give the folder that holds `adapter_config.json`".into()
            }
            Self::BaseIsAdapter { .. } => "give the folder of a whole checkpoint: `--base DIR`".into(),
            Self::MixedBases { .. } => {
                "adapters that are averaged have to lie over one base, which `--base DIR` gives for all of them".into()
            }
            Self::AdapterOption { hint, .. } => return hint.clone(),
            Self::AdapterTensor { .. } => {
                "is the base the model that the adapter was trained on? `--base DIR` gives another".into()
            }
            Self::MissingAdapter { .. } | Self::MissingTrained { .. } => {
                "do `adapter_config.json` and `adapter_model.safetensors` belong together?".into()
            }
            Self::AdapterShape { .. } => "do the adapter, its settings and the base (`--base DIR`) belong together?".into(),
            Self::Twice { .. } => "the shards are of two checkpoints, or were edited: save the model again".into(),
            Self::TooLarge { .. } => "the file is damaged, or not what its name says".into(),
            Self::BrokenWeights { .. } => "the file may be incomplete: copy or download it again".into(),
            Self::MissingShard { .. } => "copy the missing file into the folder".into(),
            Self::MissingTensor { nearest: Some(nearest), .. } => {
                format!("the file has `{nearest}`; is this checkpoint of another class?")
            }
            Self::MissingTensor { .. } => "is this checkpoint of another class?".into(),
            Self::NoMean { .. } => "checkpoints that are averaged have to be of one model".into(),
            Self::Shape { .. } => "do `config.json` and the weights belong together?".into(),
            Self::ClassNumbers { .. } => {
                "write the model's own numbers into `config.json`, if it has others than its class".into()
            }
            Self::NonFinite { .. } => {
                "the training run diverged, or the file is damaged; use another checkpoint".into()
            }
            Self::NoLayers { available, .. } => format!("the linear layers are {}", abridged(available)),
            Self::Pattern { .. } => "write for example `*.mlp.*` or `transformer.h.0.*`".into(),
            Self::Config { .. } | Self::Dtype { .. } => return None,
            Self::Tensor(_) | Self::Curvature(_) => return None,
        })
    }
}

/// A class that is supported, and what gives something for a whole text or fills in masked tokens instead.
fn classes(expected: &str, of_texts: Option<&str>) -> String {
    match (of_texts, expected.strip_suffix("ForSequenceClassification")) {
        (Some(of_texts), None) => format!("`{expected}` or `{of_texts}`"),
        (_, Some(stem)) => format!("`{expected}` or `{stem}ForMaskedLM`"),
        (None, None) => format!("`{expected}`"),
    }
}

/// A part of a sentence behind a colon, if there is one.
fn after_colon(part: &str) -> String {
    if part.is_empty() { String::new() } else { format!(": {part}") }
}

/// A shape as an error quotes it, cut after a few dimensions.
pub(super) fn abridged_shape(shape: &[usize]) -> String {
    const SHOWN: usize = 8;
    if shape.len() <= SHOWN {
        return format!("{shape:?}");
    }
    let first: Vec<String> = shape.iter().take(SHOWN).map(usize::to_string).collect();
    format!("[{}, and {} more dimensions]", first.join(", "), shape.len() - SHOWN)
}

/// The first of these names, for a hint.
pub(crate) fn abridged(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(8).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(shown.len());
    if more == 0 { shown.join(", ") } else { format!("{}, and {more} more", shown.join(", ")) }
}
