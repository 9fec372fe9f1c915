//! BERT's encoder (Devlin et al. 2019, §3; Vaswani et al. 2017, figure 1, left), which RoBERTa and DistilBERT have under
//! other names: embeddings of words, positions and texts of a pair, added and normalised; blocks in which every token
//! sees every other, with a norm behind each sum of a branch and the residual stream.

use std::sync::Arc;

use super::architecture::{BlockNames, is_masked};
use super::body::Loaded;
use super::checkpoint_reader::CheckpointReader;
use super::config::Config;
use super::decoder::{self, Blocks, Ends, Parts, Transformer};
use super::error::LoadError;
use super::heads::labels;
use super::heads::masked::{MaskedNames, StoredMasked};
use super::heads::sequence::{Pooling, StoredSequence};
use super::heads::steps::Step;
use super::layout::Layout;
use super::load_options::LoadOptions;
use super::norms::{LayerNorm, NoNorm, Norm, StoredLayerNorm};
use super::projection::{Projection, StoredLinear};
use super::residence::{Held, Stored};
use super::table::{StoredTable, Table};
use super::tracking::{SharedInput, Tracking};
use super::weights::Weights;
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::data::{MaskedTokens, TokenInputs};
use crate::nn::{Activation, Attention, Mask};

/// Embeddings and blocks `layer`; `x: [R, D]` throughout.
#[derive(Debug)]
struct Encoder {
    position_embeddings: Table,
    /// Rows by the number of the text of a pair; none in encoders without token types.
    token_type_embeddings: Option<Table>,
    norm: Held<StoredLayerNorm>,
    places: Places,
}

/// Which row of the table of positions a token has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Places {
    /// The token's number, from 0.
    FromZero,
    /// The number of the tokens up to and with this one that are not padding, plus the padding token's id; the padding
    /// token's id for that token itself. So does RoBERTa.
    BehindPadding(u32),
}

#[derive(Debug)]
pub(super) struct Block {
    self_attention: SelfAttention,
    attention_norm: LayerNorm,
    intermediate: Projection,
    activation: Activation,
    output: Projection,
    output_norm: LayerNorm,
}

#[derive(Debug)]
struct SelfAttention {
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    attention: Attention,
}

impl Places {
    /// The rows of one example's tokens.
    fn of(self, ids: &[u32]) -> Vec<u32> {
        match self {
            Self::FromZero => (0..ids.len() as u32).collect(),
            Self::BehindPadding(padding) => {
                let mut count = 0;
                let place = |&id: &u32| {
                    count += u32::from(id != padding);
                    if id == padding { padding } else { padding + count }
                };
                ids.iter().map(place).collect()
            }
        }
    }
}

impl Transformer for Encoder {
    type Block = StoredBlock;
    type Norm = NoNorm;
    type Context = Positions;

    fn context(&self, _inputs: &TokenInputs, positions: &Positions) -> candle_core::Result<Positions> {
        Ok(positions.clone())
    }

    fn embed(
        &self,
        words: &Traced,
        inputs: &TokenInputs,
        positions: &Positions,
        taps: &TapRecorder,
    ) -> candle_core::Result<Traced> {
        let places: Vec<u32> = positions.iter().flat_map(|rows| self.places.of(&inputs.ids[rows])).collect();
        let mut x = self.position_embeddings.add(words, &places, taps)?;
        if let Some(of_types) = &self.token_type_embeddings {
            x = of_types.add_types(&x, inputs, taps)?;
        }
        self.norm.get()?.trace(&x, taps)
    }

    fn check(&self) -> Result<(), LoadError> {
        self.position_embeddings.check()?;
        self.token_type_embeddings.as_ref().map_or(Ok(()), Table::check)?;
        self.norm.check()
    }
}

impl decoder::Block<Positions> for Block {
    fn trace(&self, x: &Traced, positions: &Positions, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let x = self.attention_norm.trace(&x.add(&self.self_attention.trace(x, positions, taps)?)?, taps)?;
        let inner = self.activation.trace(&self.intermediate.trace(&x, taps)?)?; // [R, I]
        self.output_norm.trace(&x.add(&self.output.trace(&inner, taps)?)?, taps)
    }
}

impl SelfAttention {
    fn trace(&self, x: &Traced, positions: &Positions, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let q = self.query.trace(x, taps)?; // [R, D]
        let k = self.key.trace(x, taps)?;
        let v = self.value.trace(x, taps)?;
        self.output.trace(&self.attention.trace(&q, &k, &v, positions, None)?, taps)
    }
}

#[derive(Debug)]
struct StoredBlock {
    qkvo: [StoredLinear; 4],
    attention: Attention,
    attention_norm: StoredLayerNorm,
    intermediate: StoredLinear,
    activation: Activation,
    output: StoredLinear,
    output_norm: StoredLayerNorm,
}

impl Stored for StoredBlock {
    type Value = Block;

    fn read(&self) -> Result<Block, LoadError> {
        let [q, k, v, o] = &self.qkvo;
        Ok(Block {
            self_attention: SelfAttention {
                query: q.read()?,
                key: k.read()?,
                value: v.read()?,
                output: o.read()?,
                attention: self.attention.clone(),
            },
            attention_norm: self.attention_norm.read()?,
            intermediate: self.intermediate.read()?,
            activation: self.activation,
            output: self.output.read()?,
            output_norm: self.output_norm.read()?,
        })
    }
}

/// One checkpoint of the family.
pub(super) struct Family {
    pub(super) names: &'static BlockNames,
    /// What a block's modules are called: query, key, value, attention's output, the norm behind it, the two layers of
    /// the MLP, the norm behind them.
    pub(super) modules: [&'static str; 8],
    /// D.
    pub(super) width: usize,
    /// Width inside the MLP.
    pub(super) inner: usize,
    /// H.
    pub(super) heads: usize,
    pub(super) blocks: usize,
    pub(super) vocabulary: usize,
    /// Rows of the table of positions.
    pub(super) rows_of_positions: usize,
    pub(super) places: Places,
    /// Rows of the table of texts of a pair; none: there is no table.
    pub(super) token_types: Option<usize>,
    pub(super) activation: Activation,
    /// Added to the variance by every norm.
    pub(super) epsilon: f64,
    /// The layer between the first token's hidden state and the classifier, with the function behind it.
    pub(super) dense: (&'static str, Activation),
    /// The layer whose outputs are the logits.
    pub(super) classifier: &'static str,
    /// The head of the class that fills in masked tokens, and the function behind its linear layer.
    pub(super) filling: Option<(&'static Filling, Activation)>,
}

/// What is other where masked tokens are filled in.
pub(super) struct Filling {
    pub(super) names: BlockNames,
    pub(super) head: MaskedNames,
}

impl Family {
    /// What BERT and RoBERTa's configurations have in common, with the checks of what is not built.
    pub(super) fn read(
        config: &Config,
        names: &'static BlockNames,
        modules: [&'static str; 8],
        dense: (&'static str, Activation),
        classifier: &'static str,
    ) -> Result<Self, LoadError> {
        if config.flag("is_decoder", false)? {
            return Err(config.unsupported("is_decoder"));
        }
        if config.text("position_embedding_type", "absolute")? != "absolute" {
            return Err(config.unsupported("position_embedding_type"));
        }
        let activation = Activation::from_name(config.text("hidden_act", "gelu")?);
        Ok(Self {
            names,
            modules,
            width: config.size("hidden_size")?,
            inner: config.size("intermediate_size")?,
            heads: config.size("num_attention_heads")?,
            blocks: config.size("num_hidden_layers")?,
            vocabulary: config.size("vocab_size")?,
            rows_of_positions: config.size("max_position_embeddings")?,
            places: Places::FromZero,
            token_types: config.size_or("type_vocab_size", Some(2))?,
            activation: activation.ok_or_else(|| config.unsupported("hidden_act"))?,
            epsilon: config.epsilon("layer_norm_eps", 1e-12)?,
            dense,
            classifier,
            filling: None,
        })
    }

    /// Builds the model.
    pub(super) fn build(
        self,
        config: &Config,
        weights: &Arc<Weights>,
        options: &LoadOptions,
    ) -> Result<Loaded, LoadError> {
        let Self { names, modules, width, inner, heads, epsilon, activation, .. } = self;
        if width % heads != 0 {
            return Err(config.problem(format!("a width of {width} is not a multiple of {heads} attention heads")));
        }
        let source = CheckpointReader::new(weights, names.prefix_in(weights), config, options);
        let tracking = Tracking::new(&options.selection);
        let filling = match self.filling {
            Some(filling) if is_masked(config)? => Some(filling),
            _ => None,
        };
        let ends = match filling {
            Some((filling, activation)) => {
                let norm = StoredLayerNorm::at(&source, &tracking, filling.head.norm, width, epsilon, true)?;
                let head = StoredMasked { names: filling.head, width, dense_bias: true, activation, norm };
                let reads = MaskedTokens { token_types: self.token_types };
                Ends::of_masked(&source, &filling.names, [self.vocabulary, width], (reads, head, true))?
            }
            None => {
                let mut labels = labels::labels(config)?;
                labels.token_types = self.token_types;
                let outputs = labels.outputs;
                let (dense, behind) = self.dense;
                // BERT's pooler is a part of the body, whose names have no prefix where it was saved without a class
                let dense = match source.full("").is_empty() {
                    true => names.prefixes.iter().find_map(|prefix| dense.strip_prefix(prefix)).unwrap_or(dense),
                    false => dense,
                };
                let head = StoredSequence {
                    pooling: Pooling::First,
                    steps: vec![
                        Step::Linear { name: dense, sizes: [width, width], bias: true },
                        Step::Activation(behind),
                        Step::Linear { name: self.classifier, sizes: [outputs, width], bias: true },
                    ],
                    outputs,
                };
                Ends::of_texts(&source, names, [self.vocabulary, width], head, labels)?
            }
        };
        let table = |name: &str, rows: usize, padding: Option<u32>| {
            let tensor = source.tensor(&format!("embeddings.{name}.weight"), &[rows, width])?;
            Ok::<_, LoadError>(StoredTable::new(&source, &tracking, tensor, [rows, width], padding))
        };
        let padding = match self.places {
            Places::FromZero => None,
            Places::BehindPadding(padding) => Some(padding),
        };
        let position_embeddings = table("position_embeddings", self.rows_of_positions, padding)?;
        let types = self.token_types.map(|rows| table("token_type_embeddings", rows, None)).transpose()?;
        let name = source.full("embeddings.LayerNorm");
        let embedding_norm = StoredLayerNorm::untracked(&source, &name, width, epsilon, true)?;
        let norm = |name: &str| StoredLayerNorm::new(&source, &tracking, name, width, epsilon);
        let linear = |name: &str, outputs: usize, inputs: usize, input: &mut SharedInput| {
            source.linear(&tracking, name, [outputs, inputs], true, Layout::OutputsFirst, input)
        };
        let blocks = Blocks::new(&source, self.blocks, |n| {
            let mut qkv = SharedInput::default();
            let [q, k, v, o, behind_attention, first, second, behind_output] =
                modules.map(|module| format!("{}.{n}.{module}", names.blocks));
            Ok(StoredBlock {
                qkvo: [
                    linear(&q, width, width, &mut qkv)?,
                    linear(&k, width, width, &mut qkv)?,
                    linear(&v, width, width, &mut qkv)?,
                    linear(&o, width, width, &mut SharedInput::default())?,
                ],
                attention: tracking.attending(Attention {
                    mask: Mask::Bidirectional,
                    products: source.products,
                    ..Attention::causal(heads, width / heads)
                }),
                attention_norm: norm(&behind_attention)?,
                intermediate: linear(&first, inner, width, &mut SharedInput::default())?,
                activation,
                output: linear(&second, width, inner, &mut SharedInput::default())?,
                output_norm: norm(&behind_output)?,
            })
        })?;
        let max_positions = match self.places {
            Places::FromZero => self.rows_of_positions,
            Places::BehindPadding(padding) => self.rows_of_positions.saturating_sub(padding as usize + 1),
        };
        let parts = Parts { ends, blocks, norm: NoNorm, max_positions: Some(max_positions) };
        let (residence, places) = (options.residence, self.places);
        parts.load(&source, tracking, residence, || {
            Ok(Encoder {
                position_embeddings: position_embeddings.held(residence)?,
                token_type_embeddings: types.map(|types| types.held(residence)).transpose()?,
                norm: Held::new(embedding_norm, residence)?,
                places,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_inside_a_text_has_the_row_of_padding() {
        assert_eq!(Places::FromZero.of(&[5, 1, 7]), [0, 1, 2]);
        assert_eq!(Places::BehindPadding(1).of(&[0, 5, 1, 7]), [2, 3, 1, 4]);
    }
}
