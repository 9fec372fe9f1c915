//! From folders to a configuration and weights: those of checkpoints, or of adapters over one base.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::adapter::config::AdapterConfig;
use super::adapter::folder::{AdapterFolder, TENSORS};
use super::adapter::mode::AdapterMode;
use super::adapter::overlay::Adapter;
use super::adapter::padding::{self, PaddingToken};
use super::adapter::parts::PREFIX;
use super::architecture::{Architecture, SCORE, class_of_texts};
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::error::LoadError;
use super::load_options::LoadOptions;
use super::supported;
use super::weights::Weights;
use crate::data::EndToken;
use crate::presence::is_file;

/// The configuration of a checkpoint; of an adapter its base's, as the class that the adapter was trained as.
///
/// # Errors
/// [`LoadError`], naming the file.
pub(crate) fn configuration(folder: &Path, base: Option<&Path>) -> Result<Config, LoadError> {
    match AdapterFolder::find(folder, base, base.is_some())? {
        None => Config::read(folder),
        Some(AdapterFolder { folder, base }) => {
            let tensors = Checkpoint::open_mean_of_files(&[(folder.join(TENSORS), 1.0)])?;
            of_task(&base, &folder, &AdapterConfig::read(&folder)?, &tensors)
        }
    }
}

/// Names and shapes of tensors.
pub(crate) type Shapes = Vec<(String, Vec<usize>)>;

/// Names and shapes of a checkpoint's tensors, with its configuration; of an adapter those of its base, and the
/// classifier that only the adapter holds.
///
/// # Errors
/// [`LoadError`], naming the file.
pub(crate) fn shapes(folder: &Path, options: &LoadOptions) -> Result<(Config, Shapes), LoadError> {
    let (config, _, weights) = opened(&[(folder, 1.0)], options)?;
    let mut names: Vec<&str> = weights.names().collect();
    if let Some(adapter) = weights.adapter() {
        let beyond: Vec<&str> = adapter.replaced().filter(|name| names.binary_search(name).is_err()).collect();
        names.extend(beyond);
    }
    let shapes = names.into_iter().map(|name| Ok((name.to_owned(), weights.shape(name)?)));
    let shapes = shapes.collect::<Result<_, LoadError>>()?;
    Ok((config, shapes))
}

/// The configuration of a base as the class that an adapter was trained as. One for a whole text has as many outputs as
/// the classifier in the adapter's file, which PEFT's settings do not say.
fn of_task(base: &Path, folder: &Path, settings: &AdapterConfig, tensors: &Checkpoint) -> Result<Config, LoadError> {
    /// The last layer of every class that gives something for a whole text, by its name in the adapter's file.
    const LAST: [&str; 5] = ["score", "classifier", "classifier.out_proj", "classifier.1", "fc"];
    let config = Config::read(base)?;
    let class_of_images = supported::architecture_of(&config)?.class_of_images();
    if !settings.of_texts && class_of_images.is_none() {
        return Ok(config);
    }
    let config = if settings.of_texts { with_padding(config, folder, base)? } else { config };
    let weights = LAST.map(|layer| format!("{PREFIX}{layer}.weight"));
    let Some(outputs) = weights.iter().find(|name| tensors.contains(name)).map(|name| tensors.shape(name)) else {
        if settings.of_texts && class_of_texts(&config)?.is_none() {
            let layer = if supported::architecture_of(&config)?.classifies_last_token() { SCORE } else { "classifier" };
            let name = format!("{PREFIX}{layer}.weight");
            return Err(LoadError::MissingTrained { file: folder.join(TENSORS), name, key: "task_type" });
        }
        return Ok(config);
    };
    let outputs = outputs?.first().copied().unwrap_or(0);
    let named = match class_of_images {
        Some(class) => config.list("architectures")?.unwrap_or_default().iter().any(|one| one == class),
        None => class_of_texts(&config)?.is_some(),
    };
    let stated = config.get("id2label").and_then(Value::as_object).map(serde_json::Map::len);
    let config = match stated == Some(outputs) {
        true => config,
        false => config.with([("id2label", Value::Null), ("label2id", Value::Null), ("num_labels", outputs.into())]),
    };
    if named {
        if let Some(stated) = stated.filter(|&stated| stated != outputs) {
            config.note(format!(
                "the base's `id2label` has {stated} labels and is not used: the adapter's classifier has {outputs} outputs"
            ));
        }
        return Ok(config);
    }
    let class = supported::architecture_of(&config)?.class_of_texts();
    let class = class.or_else(|| class_of_images.map(str::to_owned));
    let class =
        class.ok_or_else(|| config.problem("`task_type` is `SEQ_CLS`, and this model gives nothing for a text"))?;
    config.note(format!(
        "the adapter was trained as `{class}`, its base saved as {}; the classifier and its {outputs} outputs are the \
         adapter's",
        config.quoted("architectures")
    ));
    Ok(config.with([("architectures", Value::from(vec![class]))]))
}

/// The configuration of a base with the padding token that an adapter's training had, where the base names none: PEFT
/// saves no configuration, and the tokenizer beside the adapter is the only witness.
fn with_padding(config: Config, folder: &Path, base: &Path) -> Result<Config, LoadError> {
    if !supported::architecture_of(&config)?.classifies_last_token() {
        return Ok(config);
    }
    if let Some(own) = config.token("pad_token_id")? {
        // the tokenizer that was saved with the adapter is the training's
        let other = padding::of_folder(folder)?.filter(|PaddingToken { id, .. }| *id != own);
        let Some(PaddingToken { id, file }) = other else { return Ok(config) };
        config.note(format!(
            "padding is token {own}, the base's `pad_token_id`; the `pad_token` of `{}` is another, {id}, and PEFT does not \
             save whether training set that",
            file.display()
        ));
        return Ok(config.with_end(EndToken::Text, Some(id)));
    }
    Ok(match padding::of_tokenizers(folder, base)? {
        Some(PaddingToken { id, file }) => {
            config.note(format!(
                "the base names no `pad_token_id`, and PEFT saves none: padding is token {id}, the `pad_token` of `{}`; a \
                 text that ends with it is classified by the token before",
                file.display()
            ));
            config.with([("pad_token_id", id.into())]).with_end(EndToken::Padding, None)
        }
        None => {
            config.note(
                "the base names no `pad_token_id`, PEFT saves none, and no tokenizer beside the adapter or the base names a \
                 `pad_token`: each text's last token is classified",
            );
            config.with_end(EndToken::Unknown, None)
        }
    })
}

/// Refuses what an adapter changes of the embeddings of an encoder with a decoder. transformers reads them as
/// `encoder.embed_tokens` and `decoder.embed_tokens`, two modules of one table: what PEFT puts on `shared` is in no forward
/// pass, and what it puts on one of the two is not in the other.
fn check_embeddings(tensors: &Checkpoint, file: &Path) -> Result<(), LoadError> {
    let is_embedding = |name: &&str| name.split('.').any(|part| matches!(part, "shared" | "embed_tokens"));
    match tensors.names().find(is_embedding) {
        None => Ok(()),
        Some(name) => Err(LoadError::AdapterTensor {
            file: file.to_owned(),
            name: name.to_owned(),
            problem: "adapters of an encoder-decoder's embeddings are not read (what PEFT puts on `shared` is in no \
                      forward pass of transformers)"
                .into(),
        }),
    }
}

/// The configuration and the weights of checkpoints that are averaged; those of adapters over one base, if they are.
///
/// # Errors
/// [`LoadError`], naming the file.
pub(crate) fn opened(
    checkpoints: &[(&Path, f64)],
    options: &LoadOptions,
) -> Result<(Config, &'static Architecture, Weights), LoadError> {
    let asked = options.adapter.is_some();
    let last = checkpoints.last().map_or(Path::new(""), |(folder, _)| folder);
    let Some(own) = AdapterFolder::find(last, options.base.as_deref(), asked)? else {
        let config = Config::read(last)?;
        let architecture = supported::architecture_of(&config)?;
        return Ok((config, architecture, Weights::open_mean(checkpoints)?));
    };
    let base = Arc::new(Checkpoint::open(&own.base)?);
    let mut files = vec![];
    for (folder, weight) in checkpoints {
        let other = AdapterFolder::find(folder, options.base.as_deref(), asked)?;
        if other.is_none_or(|other| other.base != own.base) {
            return Err(LoadError::MixedBases { folder: (*folder).to_owned(), other: own.folder });
        }
        files.push((folder.join(TENSORS), *weight));
    }
    let tensors = Checkpoint::open_mean_of_files(&files)?;
    let mut settings = AdapterConfig::read(&own.folder)?;
    let config = of_task(&own.base, &own.folder, &settings, &tensors)?;
    let architecture = supported::architecture_of(&config)?;
    architecture.check(&config, &Weights::plain(&base))?;
    if settings.of_pairs && !architecture.has_encoder() {
        return Err(config.problem("the adapter's `task_type` is `SEQ_2_SEQ_LM`, and this model has no encoder"));
    }
    if architecture.has_encoder() {
        check_embeddings(&tensors, &own.folder.join(TENSORS))?;
    }
    let mode = options.adapter.unwrap_or_default();
    config.note(format!(
        "an adapter over the base in `{}`; tracked: {}",
        own.base.display(),
        match mode {
            AdapterMode::Only => "the adapter's matrices A and B, the base is frozen (`--adapter only`)",
            AdapterMode::Merged => "the base's layers with the adapter merged into them (`--adapter merged`)",
            AdapterMode::Both => "the adapter's matrices A and B and the base's layers (`--adapter both`)",
        }
    ));
    if is_file(&own.folder.join("model.safetensors")) || is_file(&own.folder.join("model.safetensors.index.json")) {
        config.note(format!(
            "`{}` holds whole weights too, which were not used: `--base` or `--adapter` asks for the adapter",
            own.folder.display()
        ));
    }
    let none: [&[&str]; 2] = [&[], &[]];
    let names = architecture.parameters.names().map_or(none, |names| [names.prefixes, names.heads]);
    settings.of_images = architecture.class_of_images().is_some();
    let adapter = Adapter::new(settings, mode, tensors, &base, names, architecture.renamed)?;
    Ok((config, architecture, Weights::adapted(base, adapter)))
}
