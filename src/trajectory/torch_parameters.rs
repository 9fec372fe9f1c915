//! A checkpoint's parameters as torch knows them: order of `named_parameters()`, tied ones once, layout on disk.
//!
//! A safetensors file is sorted by name; `optimizer.pt` numbers parameters in the order in which the model's code
//! registered them. That order is written down here for each architecture. A tensor that has no place in it is an
//! error: guessing would shift every entry that follows.
//!
//! # Source
//! FORMATS §1.2, §1.3, §5.

use std::path::{Path, PathBuf};

use candle_core::DType;

use super::ReadError;
use super::parameter_groups::Parameter;
use crate::model::{Config, Weights};

/// How a weight matrix lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `nn.Linear`: `[outputs, inputs]`.
    OutputsFirst,
    /// GPT-2's `Conv1D`: `[inputs, outputs]`.
    InputsFirst,
}

/// The trainable parameters of a checkpoint in torch's order.
#[derive(Debug, Clone)]
pub struct TorchParameters {
    /// Where names and shapes come from.
    pub file: PathBuf,
    /// In the order of `named_parameters()`, as [`OptimizerState::open`](super::optimizer_state::OptimizerState::open)
    /// needs them.
    pub list: Vec<Parameter>,
    order: Order,
    tied_head: Option<TiedHead>,
}

#[derive(Debug, Clone)]
struct TiedHead {
    head: String,
    embedding: String,
}

impl TorchParameters {
    /// Reads names and shapes of a checkpoint folder.
    ///
    /// # Errors
    /// The folder is no checkpoint of a supported model, or holds a tensor that has no place in the order.
    pub fn read(folder: &Path) -> Result<Self, ReadError> {
        let config = Config::read(folder)?;
        let weights = Weights::open(folder)?;
        let (order, tied_by_default) = match config.text("model_type", "")? {
            "gpt2" => (Order::Blocks(&GPT2), true),
            "llama" => (Order::Blocks(&LLAMA), false),
            "mlp" => (Order::Numbers, false),
            kind => {
                let kind = kind.to_owned();
                return Err(ReadError::UnknownOrder { file: config.file().to_path_buf(), kind });
            }
        };
        let file = weights.files().next().unwrap_or(folder).to_path_buf();
        let tied_head = match order {
            Order::Blocks(names) => {
                let tied = config.flag("tie_word_embeddings", tied_by_default)?;
                tied_head(names, &weights, tied)?
            }
            Order::Numbers => None,
        };
        let mut places = Vec::new();
        for name in weights.names() {
            if order.is_buffer(name) || tied_head.as_ref().is_some_and(|tied| tied.head == name) {
                continue;
            }
            let place = order.place(name);
            let place = place.ok_or_else(|| ReadError::UnknownTensor { file: file.clone(), name: name.to_owned() })?;
            places.push((place, Parameter { name: name.to_owned(), shape: weights.shape(name)? }));
        }
        places.sort_by(|(a, x), (b, y)| (a, &x.name).cmp(&(b, &y.name)));
        let list = places.into_iter().map(|(_, parameter)| parameter).collect();
        Ok(Self { file, list, order, tied_head })
    }

    /// The parameter that holds the weight of a layer, and how it lies there; the embedding for a tied head.
    pub fn weight(&self, layer: &str) -> Option<(&Parameter, Layout)> {
        let name = format!("{layer}.weight");
        let name = match &self.tied_head {
            Some(tied) if tied.head == name => &tied.embedding,
            _ => &name,
        };
        Some((self.find(name)?, self.order.layout(layer)))
    }

    /// The parameter that holds the bias of a layer.
    pub fn bias(&self, layer: &str) -> Option<&Parameter> {
        self.find(&format!("{layer}.bias"))
    }

    fn find(&self, name: &str) -> Option<&Parameter> {
        self.list.iter().find(|parameter| parameter.name == name)
    }
}

/// The head and the embedding if they are one parameter: as [`crate::model`] decides it, so as transformers 5.23.
fn tied_head(names: &BlockNames, weights: &Weights, tied: bool) -> Result<Option<TiedHead>, ReadError> {
    let prefix = names.prefix_in(weights);
    let (head, embedding) = (format!("{}.weight", names.head), format!("{prefix}{}.weight", names.before[0]));
    if weights.contains(&head) {
        let shape = weights.shape(&head)?;
        if !tied || weights.shape(&embedding)? != shape {
            return Ok(None);
        }
        let values = |name: &str| -> Result<Vec<f32>, ReadError> {
            let tensor = weights.tensor(name, &shape, DType::F32)?;
            Ok(tensor.flatten_all().and_then(|flat| flat.to_vec1()).map_err(crate::model::LoadError::from)?)
        };
        if values(&head)? != values(&embedding)? {
            return Ok(None);
        }
    }
    Ok(Some(TiedHead { head, embedding }))
}

/// In which order an architecture registers its parameters.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// A decoder: embeddings, numbered blocks, final norm, head.
    Blocks(&'static BlockNames),
    /// By the numbers in names, as [`crate::model`] orders the layers of an MLP.
    Numbers,
}

/// The modules of a decoder in the order of registration.
#[derive(Debug)]
struct BlockNames {
    /// In front of all names but the head's; absent in a checkpoint of the base class.
    prefix: &'static str,
    /// The first is the embedding that a head may be tied to.
    before: &'static [&'static str],
    blocks: &'static str,
    modules: &'static [&'static str],
    after: &'static [&'static str],
    head: &'static str,
    /// Endings of tensors of old files that are no parameters.
    buffers: &'static [&'static str],
    layout: Layout,
}

const GPT2: BlockNames = BlockNames {
    prefix: "transformer.",
    before: &["wte", "wpe"],
    blocks: "h",
    modules: &["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"],
    after: &["ln_f"],
    head: "lm_head",
    buffers: &[".attn.bias", ".attn.masked_bias"],
    layout: Layout::InputsFirst,
};

const LLAMA: BlockNames = BlockNames {
    prefix: "model.",
    before: &["embed_tokens"],
    blocks: "layers",
    modules: &[
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
        "input_layernorm",
        "post_attention_layernorm",
    ],
    after: &["norm"],
    head: "lm_head",
    buffers: &["rotary_emb.inv_freq"],
    layout: Layout::OutputsFirst,
};

impl BlockNames {
    fn prefix_in(&self, weights: &Weights) -> &'static str {
        let bare = format!("{}.weight", self.before[0]);
        if weights.contains(&bare) { "" } else { self.prefix }
    }

    /// Section, block, module, weight before bias.
    fn place(&self, name: &str) -> Option<Vec<u64>> {
        let (module, leaf) = name.rsplit_once('.')?;
        let leaf = match leaf {
            "weight" => 0,
            "bias" => 1,
            _ => return None,
        };
        if module == self.head {
            return Some(vec![3, 0, 0, leaf]);
        }
        let module = module.strip_prefix(self.prefix).unwrap_or(module);
        let position = |list: &[&str], wanted: &str| list.iter().position(|&one| one == wanted).map(|i| i as u64);
        if let Some(i) = position(self.before, module) {
            return Some(vec![0, 0, i, leaf]);
        }
        if let Some(i) = position(self.after, module) {
            return Some(vec![2, 0, i, leaf]);
        }
        let (number, rest) = module.strip_prefix(self.blocks)?.strip_prefix('.')?.split_once('.')?;
        Some(vec![1, number.parse().ok()?, position(self.modules, rest)?, leaf])
    }
}

impl Order {
    fn is_buffer(self, name: &str) -> bool {
        match self {
            Self::Blocks(names) => names.buffers.iter().any(|buffer| name.ends_with(buffer)),
            Self::Numbers => false,
        }
    }

    /// Its key in the order, `None` if it has no place.
    fn place(self, name: &str) -> Option<Vec<u64>> {
        match self {
            Self::Blocks(names) => names.place(name),
            Self::Numbers => {
                let (module, leaf) = name.rsplit_once('.')?;
                let leaf = match leaf {
                    "weight" => 0,
                    "bias" => 1,
                    _ => return None,
                };
                let digits = module.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
                Some(digits.chain([leaf]).collect())
            }
        }
    }

    fn layout(self, layer: &str) -> Layout {
        match self {
            Self::Blocks(names) if layer != names.head => names.layout,
            _ => Layout::OutputsFirst,
        }
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
        for (run, names, more) in [("adamw-gpt2", &GPT2, 12), ("adamw-llama", &LLAMA, 12)] {
            let torch = recorded(run);
            let mut sorted = torch.clone();
            sorted.sort();
            assert_ne!(sorted, torch);
            sorted.sort_by_key(|name| names.place(name).unwrap());
            assert_eq!(sorted, torch);
            // Block 10 comes after block 9.
            let block =
                |n: u64| names.place(&format!("{}{}.{n}.{}.weight", names.prefix, names.blocks, names.modules[0]));
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
        weights(&["transformer.wte.weight", "score.weight"]);
        let error = TorchParameters::read(folder.path()).unwrap_err();
        assert!(
            error.to_string().ends_with("the place of `score.weight` among the optimizer's parameters is not known"),
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
        config(r#"{"model_type": "bert"}"#);
        let error = TorchParameters::read(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("the order of the parameters of `bert` is not known"), "{error}");
    }
}
