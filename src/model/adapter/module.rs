//! One module's adapter: which of its tensors are there, of which shapes, and what they make of the base's weight.

use std::sync::Arc;

use candle_core::{D, Tensor};

use super::overlay::Adapter;
use super::parts::PREFIX;
use super::targets::ModuleKind;
use crate::model::checkpoint_reader::{Change, CheckpointReader, StoredTensor};
use crate::model::error::LoadError;
use crate::model::layout::Layout;
use crate::model::residence::Stored;
use crate::model::weights::Weights;

/// What a module of the base is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Kind {
    /// A linear layer inside the network.
    Linear,
    /// The language-model head.
    Head,
    /// A table of rows by number.
    Embedding,
    /// A convolution over images.
    Convolution(Kernels),
}

/// The kernels of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct Kernels {
    /// Height and width.
    pub(in crate::model) size: [usize; 2],
    /// Groups of channels.
    pub(in crate::model) groups: usize,
}

impl From<Kind> for ModuleKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Linear => Self::Linear,
            Kind::Head => Self::Head,
            Kind::Embedding => Self::Embedding,
            Kind::Convolution(_) => Self::Convolution,
        }
    }
}

/// The adapter of one module, checked but not read: `A: [r, inputs]`, `B: [outputs, r]`; of a convolution
/// `A: [r, channels, height, width]`, `B: [outputs, r / groups, 1, 1]`.
#[derive(Debug, Clone)]
pub(in crate::model) struct LowRank {
    a: StoredTensor,
    b: StoredTensor,
    /// The bias of B (`lora_bias`).
    pub(in crate::model) b_bias: Option<StoredTensor>,
    /// The factor `s`.
    pub(in crate::model) scale: f64,
    /// DoRA's magnitudes of the rows, `[outputs]`; of a convolution `[1, outputs, 1, 1]`.
    pub(in crate::model) magnitude: Option<StoredTensor>,
    pub(in crate::model) rank: usize,
    /// The module's name in the adapter's file, without `lora_A`.
    pub(in crate::model) name: String,
}

impl LowRank {
    /// Names of the tracked layers A and B.
    pub(in crate::model) fn layer_names(&self) -> [String; 2] {
        ["lora_A", "lora_B"].map(|part| format!("{}.{part}", self.name))
    }

    /// A as a matrix `[r, inputs]`: the kernels of a convolution lie as rows.
    pub(in crate::model) fn read_a(&self) -> Result<Tensor, LoadError> {
        Ok(self.a.read()?.flatten_from(1)?)
    }

    /// B as a matrix `[outputs, r]`, of a convolution in groups `[outputs, r / groups]`.
    pub(in crate::model) fn read_b(&self) -> Result<Tensor, LoadError> {
        Ok(self.b.read()?.flatten_from(1)?)
    }

    /// `s · B A`, `[outputs, inputs]`.
    fn delta(&self) -> Result<Tensor, LoadError> {
        Ok((self.read_b()?.matmul(&self.read_a()?)? * self.scale)?)
    }

    /// What a weight `[outputs, inputs]` is beside the adapter, and the factors of what the adapter adds at each output.
    pub(in crate::model) fn beside(&self, weight: Tensor) -> Result<(Tensor, Tensor), LoadError> {
        let scale = Tensor::ones(weight.dim(0)?, weight.dtype(), weight.device())?.affine(self.scale, 0.0)?;
        Ok(match self.row_factors(&weight)? {
            Some(rows) => (weight.broadcast_mul(&rows.unsqueeze(1)?)?, (scale * rows)?),
            None => (weight, scale),
        })
    }

    /// DoRA's factors of the rows, `m / ‖W + s B A‖`, for a weight `[outputs, inputs]`; none without DoRA.
    pub(in crate::model) fn row_factors(&self, weight: &Tensor) -> Result<Option<Tensor>, LoadError> {
        let Some(magnitude) = &self.magnitude else { return Ok(None) };
        let norms = (weight + self.delta()?)?.sqr()?.sum(D::Minus1)?.sqrt()?;
        Ok(Some((magnitude.read()?.flatten_all()? / norms)?))
    }
}

/// An adapter that is merged into a weight.
#[derive(Debug)]
pub(in crate::model) struct Merged {
    pub(in crate::model) adapter: LowRank,
    /// How the weight is stored.
    pub(in crate::model) layout: Layout,
}

impl Change for Merged {
    fn merged(&self, weight: &Tensor) -> Result<Tensor, LoadError> {
        let outputs_first = match self.layout {
            Layout::OutputsFirst => weight.flatten_from(1)?,
            Layout::InputsFirst => weight.t()?.contiguous()?,
        };
        let sum = (&outputs_first + self.adapter.delta()?)?;
        let merged = match self.adapter.row_factors(&outputs_first)? {
            Some(factors) => sum.broadcast_mul(&factors.unsqueeze(1)?)?,
            None => sum,
        };
        Ok(match self.layout {
            Layout::OutputsFirst => merged.reshape(weight.shape())?,
            Layout::InputsFirst => merged.t()?.contiguous()?,
        })
    }
}

impl Adapter {
    /// The adapter of a module of the base, if it has one; `module` is its name in the base.
    ///
    /// # Errors
    /// Tensors that are missing, of another shape than the settings say, or of a module that is not selected.
    pub(in crate::model) fn low_rank(
        &self,
        source: &CheckpointReader,
        module: &str,
        kind: Kind,
        [outputs, inputs]: [usize; 2],
    ) -> Result<Option<LowRank>, LoadError> {
        let names = self.names_of(module);
        let there = names.iter().find(|name| self.modules.contains_key(*name));
        let name = there.or(names.first()).cloned().unwrap_or_else(|| module.to_owned());
        let selected = self.config.targets.select(&name, kind.into());
        let parts = there.and_then(|name| self.modules.get(name));
        let adapted = parts.filter(|parts| parts.keys().any(|part| part.starts_with("lora_")));
        let (part_a, part_b) = match kind {
            Kind::Embedding => ("lora_embedding_A", "lora_embedding_B"),
            Kind::Linear | Kind::Head | Kind::Convolution(_) => ("lora_A.weight", "lora_B.weight"),
        };
        let file = || self.weights.origin().to_owned();
        let Some(parts) = adapted else {
            return match selected {
                Some(true) => Err(LoadError::MissingAdapter {
                    file: file(),
                    name: format!("{PREFIX}{name}.{part_a}"),
                    module: name,
                }),
                _ => Ok(None),
            };
        };
        self.used().insert(name.clone());
        if selected == Some(false) {
            let first = parts.values().next().cloned().unwrap_or_default();
            let problem = format!("`target_modules` of `adapter_config.json` does not select `{name}`");
            return Err(LoadError::AdapterTensor { file: file(), name: first, problem });
        }
        let expected: Vec<&str> = [part_a, part_b]
            .into_iter()
            .chain((self.config.lora_bias && kind != Kind::Embedding).then_some("lora_B.bias"))
            .collect();
        for part in &expected {
            if !parts.contains_key(*part) {
                let name = format!("{PREFIX}{name}.{part}");
                return Err(LoadError::MissingAdapter { file: file(), name, module: module.to_owned() });
            }
        }
        let magnitude = parts.iter().find(|(part, _)| part.starts_with("lora_magnitude_vector"));
        if magnitude.is_none() && self.config.use_dora {
            let name = format!("{PREFIX}{name}.lora_magnitude_vector");
            return Err(LoadError::MissingAdapter { file: file(), name, module: module.to_owned() });
        }
        let is_known = |part: &str| {
            expected.contains(&part)
                || part.starts_with("token_")
                || (self.config.use_dora && part.starts_with("lora_magnitude_vector"))
        };
        if let Some((_, tensor)) = parts.iter().find(|(part, _)| !is_known(part)) {
            let problem = "`adapter_config.json` says nothing of such a tensor for this module".to_owned();
            return Err(LoadError::AdapterTensor { file: file(), name: tensor.clone(), problem });
        }
        let rank = self.config.rank(&name) as usize;
        let own = source.of(&Arc::new(Weights::plain(&self.weights)));
        let tensor = |part: &str, shape: &[usize]| {
            let tensor = parts[part].clone();
            let found = self.weights.shape(&tensor)?;
            if found != shape {
                let (expected, module) = (shape.to_vec(), name.clone());
                return Err(LoadError::AdapterShape { file: file(), name: tensor, found, expected, module, rank });
            }
            own.tensor_at(tensor, shape)
        };
        let (shape_a, shape_b, shape_of_magnitude) = match kind {
            Kind::Linear | Kind::Head | Kind::Embedding => (vec![rank, inputs], vec![outputs, rank], vec![outputs]),
            Kind::Convolution(Kernels { size: [height, width], groups }) => {
                let problem = match (rank % groups, groups > 1 && magnitude.is_some()) {
                    (0, false) => None,
                    (0, true) => Some(
                        "DoRA of a convolution in groups is not read: PEFT takes the norms of its rows from a product of \
                         A and B that is not the one of its forward pass"
                            .to_owned(),
                    ),
                    _ => Some(format!("its rank is {rank}, which {groups} groups of channels do not divide")),
                };
                if let Some(problem) = problem {
                    let name = parts.values().next().cloned().unwrap_or_default();
                    return Err(LoadError::AdapterTensor { file: file(), name, problem });
                }
                let channels = inputs / (height * width).max(1);
                (vec![rank, channels, height, width], vec![outputs, rank / groups, 1, 1], vec![1, outputs, 1, 1])
            }
        };
        Ok(Some(LowRank {
            a: tensor(part_a, &shape_a)?,
            b: tensor(part_b, &shape_b)?,
            b_bias: expected.contains(&"lora_B.bias").then(|| tensor("lora_B.bias", &[outputs])).transpose()?,
            scale: self.config.scale(&name)?,
            magnitude: magnitude.map(|(part, _)| tensor(part, &shape_of_magnitude)).transpose()?,
            rank,
            name: format!("{PREFIX}{name}"),
        }))
    }

    /// The refusal of an adapted embedding that is tied to the head.
    pub(in crate::model) fn ties_an_embedding(&self) -> LoadError {
        LoadError::AdapterOption {
            file: self.config.file.clone(),
            key: "ensure_weight_tying".into(),
            value: "true with an adapted embedding".into(),
            hint: Some("`merge_and_unload()` writes a whole checkpoint that can be read".into()),
        }
    }

    /// The refusal to merge B's bias, for which not every layer of a base has a place.
    pub(in crate::model) fn bias_cannot_be_merged(&self) -> LoadError {
        LoadError::AdapterOption {
            file: self.config.file.clone(),
            key: "lora_bias".into(),
            value: "true where the adapter is merged (`--adapter merged`, or an adapted head)".into(),
            hint: None,
        }
    }

    /// The refusal of an adapter over a convolution that PEFT runs or merges in no way that could be followed.
    pub(in crate::model) fn convolution_is_not_read(&self, low_rank: &LowRank, problem: &str) -> LoadError {
        let name = format!("{}.lora_A.weight", low_rank.name);
        LoadError::AdapterTensor { file: self.weights.origin().to_owned(), name, problem: problem.to_owned() }
    }

    /// Rows of an embedding that were trained alone (`trainable_token_indices`): their ids and their tensor.
    ///
    /// # Errors
    /// A tensor of another shape than the settings say; ids that the embedding does not have.
    pub(in crate::model) fn token_rows(
        &self,
        source: &CheckpointReader,
        module: &str,
        [rows, width]: [usize; 2],
    ) -> Result<Option<(Vec<u32>, StoredTensor)>, LoadError> {
        const PART: &str = "token_adapter.trainable_tokens_delta";
        let names = self.names_of(module);
        let Some(name) = names.iter().find(|name| self.modules.get(*name).is_some_and(|all| all.contains_key(PART)))
        else {
            return Ok(None);
        };
        self.used().insert(name.clone());
        let tensor = self.modules[name][PART].clone();
        let is_own = |wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| name == wanted || name.ends_with(&format!(".{wanted}")))
        };
        let file = self.weights.origin().to_owned();
        let Some((_, ids)) = self.config.token_indices.iter().find(|(wanted, _)| is_own(wanted)) else {
            let problem = "`trainable_token_indices` of `adapter_config.json` does not name its module".to_owned();
            return Err(LoadError::AdapterTensor { file, name: tensor, problem });
        };
        if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
            let problem = format!("`trainable_token_indices` has the id {id}, and the embedding {rows} rows");
            return Err(LoadError::AdapterTensor { file, name: tensor, problem });
        }
        let expected = [ids.len(), width];
        let found = self.weights.shape(&tensor)?;
        if found != expected {
            let problem = format!("it has the shape {found:?}, and the ids and the embedding ask for {expected:?}");
            return Err(LoadError::AdapterTensor { file, name: tensor, problem });
        }
        Ok(Some((ids.clone(), source.of(&Arc::new(Weights::plain(&self.weights))).tensor_at(tensor, &expected)?)))
    }
}
