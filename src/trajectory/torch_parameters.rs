//! A checkpoint's parameters as torch knows them: order of `named_parameters()`, tied ones once, layout on disk.
//!
//! A safetensors file is sorted by name; `optimizer.pt` numbers parameters in the order in which the model's code
//! registered them. That order is part of each architecture's description. A tensor that has no place in it is an
//! error: guessing would shift every entry that follows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::DType;

use super::parameter_groups::Parameter;
use crate::curvature::LayerSpec;
use crate::model::adapter::config::AdapterConfig;
use crate::model::adapter::folder::AdapterFolder;
use crate::model::adapter::parts::{self, PREFIX};
use crate::model::{
    BlockNames, Config, ExpertNames, LoadError, Parameters, SCORE, Weights, architecture_of, class_of_texts,
};
use crate::trajectory::error::ReadError;
use crate::trajectory::version::TransformersVersion;

pub use crate::model::Layout;

/// The trainable parameters of a checkpoint in torch's order.
#[derive(Debug, Clone)]
pub struct TorchParameters {
    /// Where names and shapes come from.
    pub file: PathBuf,
    /// In the order of `named_parameters()`, as [`OptimizerState::open`](super::optimizer_state::OptimizerState::open)
    /// needs them.
    pub list: Vec<Parameter>,
    order: &'static Parameters,
    tied_head: Option<TiedHead>,
    /// The bias of a tied head as its own, and the one parameter of another module that it is.
    shared_bias: Option<(String, String)>,
    /// What stands in front of blocks' names.
    prefix: &'static str,
    is_adapter: bool,
}

#[derive(Debug, Clone)]
struct TiedHead {
    /// The head's name.
    head: String,
    /// The name under which the file holds the embedding, the head's if it holds no other.
    embedding: String,
    /// The embedding's name where parameters are registered.
    registered: String,
}

impl TorchParameters {
    /// Reads names and shapes of a checkpoint folder.
    ///
    /// # Errors
    /// The folder is no checkpoint of a supported model, or holds a tensor that has no place in the order.
    pub fn read(folder: &Path) -> Result<Self, ReadError> {
        Self::read_over(folder, None)
    }

    /// As [`TorchParameters::read`]; of an adapter only its own parameters are trained, and its base says in which order
    /// they are registered. `base` is the folder of the base, none the one that the adapter's settings name.
    ///
    /// # Errors
    /// Also an adapter whose base is not there.
    pub fn read_over(folder: &Path, base: Option<&Path>) -> Result<Self, ReadError> {
        if AdapterFolder::file_of(folder).is_some()
            && let Some(adapter) = AdapterFolder::find(folder, base, false)?
        {
            return Self::of_adapter(&adapter);
        }
        let config = Config::read(folder)?;
        let weights = Weights::open(folder)?;
        let architecture = architecture_of(&config).map_err(|error| match error {
            LoadError::UnsupportedModel { file, found, .. } => ReadError::UnknownOrder { file, kind: found },
            other => other.into(),
        })?;
        let version = TransformersVersion::parse(config.text("transformers_version", "")?);
        let order = architecture.parameters.of(&config, version.map(|version| version.major))?;
        let file = weights.files().next().unwrap_or(folder).to_path_buf();
        let tied_head = match order.names() {
            // what gives something for a whole text has a head of its own
            Some(names) if class_of_texts(&config)?.is_none() => {
                let tied = config.flag("tie_word_embeddings", architecture.tied_by_default)?;
                let head_first = matches!(order, Parameters::HeadFirst(_));
                tied_head(names, &weights, tied, head_first)?
            }
            _ => None,
        };
        let (prefix, experts) = match order {
            Parameters::Blocks(names) => (names.prefix_in(&weights), fused_experts(&config, names, &weights)?),
            _ => ("", BTreeMap::new()),
        };
        let shared_bias = tied_head.as_ref().and_then(|tied| shared_bias(order.names()?, &tied.head, &weights));
        let places_of = Places::of(order, &config)?;
        let mut places = Vec::new();
        for (name, shape) in &experts {
            let place = places_of.place(name);
            let place = place.ok_or_else(|| ReadError::UnknownTensor { file: file.clone(), name: name.clone() })?;
            places.push((place, Parameter { name: name.clone(), shape: shape.clone() }));
        }
        for name in weights.names().filter(|name| experts.is_empty() || !is_of_one_expert(order, name)) {
            let other_name = tied_head.as_ref().is_some_and(|tied| tied.head == name && tied.embedding != name);
            if order.is_buffer(name) || other_name || shared_bias.as_ref().is_some_and(|(head, _)| name == head) {
                continue;
            }
            // of tied weights that are stored under the head's name the place is the embedding's
            let registered = tied_head.as_ref().filter(|tied| tied.embedding == name).map(|tied| &*tied.registered);
            let place = places_of.place(registered.unwrap_or(name));
            let place = place.ok_or_else(|| ReadError::UnknownTensor { file: file.clone(), name: name.to_owned() })?;
            places.push((place, Parameter { name: name.to_owned(), shape: weights.shape(name)? }));
        }
        places.sort_by(|(a, x), (b, y)| (a, &x.name).cmp(&(b, &y.name)));
        let list = places.into_iter().map(|(_, parameter)| parameter).collect();
        Ok(Self { file, list, order, tied_head, shared_bias, prefix, is_adapter: false })
    }

    /// The parameters of an adapter. PEFT registers those of a module behind the module's own, A before B.
    fn of_adapter(adapter: &AdapterFolder) -> Result<Self, ReadError> {
        let config = Config::read(&adapter.base)?;
        let architecture = architecture_of(&config).map_err(|error| match error {
            LoadError::UnsupportedModel { file, found, .. } => ReadError::UnknownOrder { file, kind: found },
            other => other.into(),
        })?;
        let order = architecture.parameters.of(&config, None)?;
        let weights = Weights::open_trained(&adapter.folder)?;
        let file = weights.files().next().unwrap_or(&adapter.folder).to_path_buf();
        let settings = AdapterConfig::read(&adapter.folder)?;
        let places_of = Places::of(order, &config)?;
        let mut places = Vec::new();
        for name in weights.names() {
            let unknown = || ReadError::UnknownTensor { file: file.clone(), name: name.to_owned() };
            let own = name.strip_prefix(PREFIX).ok_or_else(unknown)?;
            // embeddings are saved with an adapter that trains nothing but A and B of theirs
            let Some(plain) = parts::in_base(own).filter(|_| settings.trains(own)) else { continue };
            // one parameter with two names, registered under the first
            let is_tied = || config.flag("tie_word_embeddings", architecture.tied_by_default);
            if let Some(other) = parts::other_name_of_a_tied_bias(&plain)
                && weights.contains(&format!("{PREFIX}{other}"))
                && is_tied()?
            {
                continue;
            }
            // statistics of a copied batch norm
            if order.is_buffer(&plain) {
                continue;
            }
            if parts::is_named_as_in_memory(own) && weights.contains(&format!("{PREFIX}{plain}")) {
                continue;
            }
            let place = match parts::parts(own) {
                Some((module, part)) => {
                    let place = places_of.place(&format!("{module}.weight"));
                    place.map(|mut place| {
                        place.pop();
                        place.push(2 + part as u64);
                        place
                    })
                }
                None => places_of.place(&plain),
            };
            places.push((place.ok_or_else(unknown)?, Parameter { name: name.to_owned(), shape: weights.shape(name)? }));
        }
        places.sort_by(|(a, x), (b, y)| (a, &x.name).cmp(&(b, &y.name)));
        let list = places.into_iter().map(|(_, parameter)| parameter).collect();
        Ok(Self { file, list, order, tied_head: None, shared_bias: None, prefix: "", is_adapter: true })
    }

    /// The parameter that holds the weight of a layer, and how it lies there; the embedding for a tied head.
    pub fn weight(&self, layer: &str) -> Option<(&Parameter, Layout)> {
        let name = format!("{layer}.weight");
        let name = match &self.tied_head {
            Some(tied) if tied.head == name => &tied.embedding,
            _ => &name,
        };
        let layout = if layer.starts_with(PREFIX) { Layout::OutputsFirst } else { layout(self.order, layer) };
        Some((self.find(name).or_else(|| self.of_all_groups(layer, "weight"))?, layout))
    }

    /// The parameter's name and the first row of a layer that is one group of a convolution's channels: rows of the
    /// parameter of all groups.
    pub fn channel_group(&self, layer: &LayerSpec) -> Option<(&str, usize)> {
        let (module, group) =
            layer.name.rsplit_once(GROUP).filter(|_| matches!(self.order, Parameters::Listed { .. }))?;
        let (group, all) = (group.parse::<usize>().ok()?, self.find(&format!("{module}.weight"))?);
        let module = all.name.strip_suffix(".weight")?;
        let first = group.checked_mul(layer.outputs)?;
        (first.checked_add(layer.outputs)? <= *all.shape.first()?).then_some((module, first))
    }

    /// The parameter that holds the weights of all experts of a block, and the layer's own numbers there, if the layer
    /// is an expert's and the optimizer knows no smaller parameter.
    pub fn in_all_experts(&self, layer: &LayerSpec) -> Option<(&Parameter, Range<usize>)> {
        let Parameters::Blocks(BlockNames { experts: Some(names), .. }) = self.order else { return None };
        let (block, expert, matrix) = names.expert_of(&layer.name)?;
        let of = ExpertNames::FUSED[usize::from(matrix == 2)];
        let block = block.strip_prefix(self.prefix).unwrap_or(block);
        let parameter = self.find(&format!("{}{block}.{}.{of}", self.prefix, ExpertNames::FUSED_MODULE))?;
        // gates and ups lie one behind the other
        let (numbers, matrices) = (layer.outputs * layer.inputs, if matrix == 2 { 1 } else { 2 });
        let start = (expert * matrices + matrix % 2) * numbers;
        Some((parameter, start..start + numbers))
    }

    /// The parameter that holds the bias of a layer.
    pub fn bias(&self, layer: &str) -> Option<&Parameter> {
        let name = format!("{layer}.bias");
        match &self.shared_bias {
            Some((own, shared)) if *own == name => self.find(shared),
            _ => self.find(&name).or_else(|| self.of_all_groups(layer, "bias")),
        }
    }

    /// A parameter of the convolution whose layer is a group of its channels.
    fn of_all_groups(&self, layer: &str, part: &str) -> Option<&Parameter> {
        let (module, group) = layer.rsplit_once(GROUP).filter(|_| matches!(self.order, Parameters::Listed { .. }))?;
        group.parse::<usize>().ok()?;
        self.find(&format!("{module}.{part}"))
    }

    fn find(&self, name: &str) -> Option<&Parameter> {
        let is_it = |parameter: &&Parameter| {
            // a whole layer that was saved with an adapter has the base's name
            let own = parameter.name.strip_prefix(PREFIX).filter(|_| self.is_adapter);
            parameter.name == name || own == Some(name)
        };
        self.list.iter().find(is_it)
    }
}

/// The head and the embedding if they are one parameter: as [`crate::model`] decides it, so as transformers 5.
/// Where the head is registered first, the one parameter stands at its place.
fn tied_head(
    names: &BlockNames,
    weights: &Weights,
    tied: bool,
    head_first: bool,
) -> Result<Option<TiedHead>, ReadError> {
    let prefix = names.prefix_in(weights);
    let head = format!("{}.weight", names.head_in(weights));
    let registered = format!("{prefix}{}.weight", names.before[0]);
    let mut embedding = registered.clone();
    if tied && weights.contains(&head) && !weights.contains(&registered) {
        embedding.clone_from(&head);
    } else if weights.contains(&head) {
        let shape = weights.shape(&head)?;
        if !tied || weights.shape(&embedding)? != shape {
            return Ok(None);
        }
        let values = |name: &str| -> Result<Vec<f32>, ReadError> {
            let tensor = weights.tensor(name, &shape, DType::F32)?;
            Ok(tensor.flatten_all().and_then(|flat| flat.to_vec1()).map_err(LoadError::from)?)
        };
        if values(&head)? != values(&embedding)? {
            return Ok(None);
        }
    }
    let registered = if head_first { head.clone() } else { registered };
    Ok(Some(TiedHead { head, embedding, registered }))
}

/// The bias of a tied head under its own name and under that of the module around it, if the latter is in the file.
fn shared_bias(names: &BlockNames, head: &str, weights: &Weights) -> Option<(String, String)> {
    let head = head.strip_suffix(".weight")?;
    let is_around = |module: &&&str| head.strip_prefix(**module).is_some_and(|rest| rest.starts_with('.'));
    let shared = format!("{}.bias", names.before_head.iter().find(is_around)?);
    weights.contains(&shared).then(|| (format!("{head}.bias"), shared))
}

/// The tensors of all experts of a block as transformers 5 registers them, with their shapes, of a checkpoint that it
/// saved as the matrices of each expert; none of one that transformers 4 saved, or that holds these very tensors.
fn fused_experts(
    config: &Config,
    names: &BlockNames,
    weights: &Weights,
) -> Result<BTreeMap<String, Vec<usize>>, ReadError> {
    let mut fused = BTreeMap::new();
    let version = TransformersVersion::parse(config.text("transformers_version", "")?);
    let (Some(experts), true) = (names.experts, version.is_some_and(|version| version.major >= 5)) else {
        return Ok(fused);
    };
    for name in weights.names() {
        let layer = name.strip_suffix(".weight").unwrap_or(name);
        let Some((block, expert, matrix)) = experts.expert_of(layer) else { continue };
        let shape = weights.shape(name)?;
        let &[outputs, inputs] = shape.as_slice() else { continue };
        let (of, outputs) = if matrix == 2 { (1, outputs) } else { (0, 2 * outputs) };
        let name = format!("{block}.{}.{}", ExpertNames::FUSED_MODULE, ExpertNames::FUSED[of]);
        let shape = fused.entry(name).or_insert_with(|| vec![0, outputs, inputs]);
        shape[0] = shape[0].max(expert + 1);
    }
    Ok(fused)
}

/// Whether a parameter stands for itself among an architecture's modules: a class token.
fn is_single(order: &Parameters, name: &str) -> bool {
    order.names().is_some_and(|names| {
        let own = names.prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        names.before.contains(&own)
    })
}

fn is_of_one_expert(order: &Parameters, name: &str) -> bool {
    let Parameters::Blocks(BlockNames { experts: Some(experts), .. }) = order else { return false };
    name.strip_suffix(".weight").is_some_and(|layer| experts.expert_of(layer).is_some())
}

/// Between the name of a convolution and the number of a group of its channels in the name of that group's layer.
const GROUP: &str = ".group.";

/// What tells a tensor's place in the order in which parameters are registered.
struct Places {
    order: &'static Parameters,
    /// Modules in the order in which they are registered, where the configuration lists them.
    modules: Option<Vec<String>>,
}

impl Places {
    fn of(order: &'static Parameters, config: &Config) -> Result<Self, ReadError> {
        let modules = match order {
            Parameters::Listed { of, .. } => Some(of(config)?),
            _ => None,
        };
        Ok(Self { order, modules })
    }

    /// A tensor's key in the order; none if it has no place.
    fn place(&self, name: &str) -> Option<Vec<u64>> {
        match &self.modules {
            Some(modules) => listed_place(modules, name),
            None => place(self.order, name),
        }
    }
}

/// A tensor's key in an order that lists modules.
fn listed_place(modules: &[String], name: &str) -> Option<Vec<u64>> {
    let (module, leaf) = match name.rsplit_once('.')? {
        (module, "weight") => (module, 0),
        (module, "bias") => (module, 1),
        _ => return None,
    };
    Some(vec![modules.iter().position(|one| one == module)? as u64, leaf])
}

/// A tensor's key in the order, `None` if it has no place: section, block, module, weight before bias.
fn place(order: &Parameters, name: &str) -> Option<Vec<u64>> {
    if let Parameters::Keys { of, .. } = order {
        return of(name);
    }
    let (module, leaf) = match name.rsplit_once('.')? {
        _ if is_single(order, name) => (name, 0),
        (module, "weight" | "gamma") => (module, 0),
        (module, "bias" | "beta") => (module, 1),
        _ if ExpertNames::FUSED.iter().any(|tensor| name.ends_with(tensor)) => (name, 0),
        _ => return None,
    };
    let Some(names) = order.names() else {
        let digits = module.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
        return Some(digits.chain([leaf]).collect());
    };
    if let Some(i) = names.before_head.iter().chain(names.heads).chain([&SCORE]).position(|&one| one == module) {
        let section = if matches!(order, Parameters::HeadFirst(_)) { 0 } else { 4 };
        return Some(vec![section, 0, i as u64, leaf]);
    }
    let module = names.prefixes.iter().find_map(|prefix| module.strip_prefix(prefix)).unwrap_or(module);
    let position = |list: &[&str], wanted: &str| list.iter().position(|&one| one == wanted).map(|i| i as u64);
    if let Some(i) = position(names.before, module) {
        return Some(vec![1, 0, i, leaf]);
    }
    if let Some(i) = position(names.after, module) {
        return Some(vec![3, 0, i, leaf]);
    }
    if let Some(experts) = names.experts
        && let Some((block, expert, matrix)) = experts.expert_of(module)
    {
        let number = block.strip_prefix(names.blocks)?.strip_prefix('.')?.parse().ok()?;
        let modules = position(names.modules, &format!("{}.experts", experts.module))?;
        let matrix = position(&experts.registered, experts.matrices[matrix])?;
        return Some(vec![2, number, modules, expert as u64, matrix, leaf]);
    }
    let (number, rest) = module.strip_prefix(names.blocks)?.strip_prefix('.')?.split_once('.')?;
    Some(vec![2, number.parse().ok()?, position(names.modules, rest)?, leaf])
}

fn layout(order: &Parameters, layer: &str) -> Layout {
    match order.names() {
        Some(names) if !names.heads.contains(&layer) && layer != SCORE => names.layout,
        _ => Layout::OutputsFirst,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
    }

    fn recorded(run: &str) -> Vec<String> {
        let text = std::fs::read_to_string(fixture("trajectory/applied.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let list = json[run]["parameters"].as_array().unwrap();
        list.iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The orders against `named_parameters()` of torch, names sorted first.
    #[test]
    fn the_order_is_that_of_named_parameters() {
        for (run, kind, more) in [("adamw-gpt2", "gpt2-tiny", 12), ("adamw-llama", "llama-tiny", 12)] {
            let order = &architecture_of(&Config::read(&fixture(kind)).unwrap()).unwrap().parameters;
            let Parameters::Blocks(names) = order else { panic!("a decoder") };
            let torch = recorded(run);
            let mut sorted = torch.clone();
            sorted.sort();
            assert_ne!(sorted, torch);
            sorted.sort_by_key(|name| place(order, name).unwrap());
            assert_eq!(sorted, torch);
            // Block 10 comes after block 9.
            let block = |n: u64| {
                place(order, &format!("{}{}.{n}.{}.weight", names.prefixes[0], names.blocks, names.modules[0]))
            };
            assert!((0..more).all(|n| block(n) < block(n + 1)));
        }
    }

    #[test]
    fn fixtures_are_read_in_order() {
        let gpt2 = TorchParameters::read(&fixture("gpt2-tiny")).unwrap();
        assert!(gpt2.list[0].name.ends_with("wte.weight") && gpt2.list[1].name.ends_with("wpe.weight"));
        assert!(gpt2.list.last().unwrap().name.ends_with("ln_f.bias"));
        let layer = "transformer.h.0.attn.c_attn";
        let (weight, layout) = gpt2.weight(layer).unwrap();
        assert_eq!((weight.shape[1], layout), (3 * weight.shape[0], Layout::InputsFirst));
        assert_eq!(gpt2.bias(layer).unwrap().shape, [weight.shape[1]]);
        // The tied head is the embedding, which is an ordinary matrix [outputs, inputs].
        let (head, layout) = gpt2.weight("lm_head").unwrap();
        assert_eq!((head.name.as_str(), layout), ("transformer.wte.weight", Layout::OutputsFirst));
        assert_eq!(gpt2.bias("lm_head"), None);

        let mlp = TorchParameters::read(&fixture("mlp-tiny")).unwrap();
        assert!(mlp.list.chunks(2).all(|pair| pair[0].name.ends_with("weight") && pair[1].name.ends_with("bias")));
        let llama = TorchParameters::read(&fixture("llama-tiny")).unwrap();
        assert!(llama.list[0].name.ends_with("embed_tokens.weight"));
        assert_eq!(llama.weight("model.layers.1.mlp.up_proj").unwrap().1, Layout::OutputsFirst);
    }

    #[test]
    fn a_tensor_without_a_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = |text: &str| std::fs::write(folder.path().join("config.json"), text).unwrap();
        let weights = |names: &[&str]| {
            let data = [0u8; 16];
            let tensors = names.iter().map(|name| {
                (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 2], &data).unwrap())
            });
            let bytes = safetensors::serialize(tensors, None).unwrap();
            std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        };
        config(r#"{"model_type": "gpt2"}"#);
        weights(&["transformer.wte.weight", "v_head.weight"]);
        let error = TorchParameters::read(folder.path()).unwrap_err();
        assert!(
            error.to_string().ends_with("the place of `v_head.weight` among the optimizer's parameters is not known"),
            "{error}"
        );
        weights(&["transformer.wte.weight", "transformer.h.0.attn.bias", "lm_head.weight"]);
        // Tied and equal: one parameter; the mask buffer is none.
        assert_eq!(TorchParameters::read(folder.path()).unwrap().list.len(), 1);
        config(r#"{"model_type": "gpt2", "tie_word_embeddings": false}"#);
        let untied = TorchParameters::read(folder.path()).unwrap();
        assert_eq!(
            untied.list.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(),
            ["transformer.wte.weight", "lm_head.weight"]
        );
        config(r#"{"model_type": "mamba"}"#);
        let error = TorchParameters::read(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("the order of the parameters of `mamba` is not known"), "{error}");
    }
}
