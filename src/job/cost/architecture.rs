//! Shapes of a network, from its configuration and the headers of its weights: no number of a weight is read.

use std::path::Path;

use super::work::NetworkShape;
use crate::model::{self, Config, LoadError, LoadOptions};

/// What a checkpoint's files say about its shapes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Architecture {
    /// What a position costs.
    pub shape: NetworkShape,
    /// Blocks that repeat; 1 for a network without.
    pub blocks: usize,
    /// Numbers in all weights.
    pub parameters: u64,
    /// D: what a position has between blocks.
    pub width: usize,
    /// V, if there is one.
    pub vocabulary: Option<usize>,
}

impl Architecture {
    /// Reads the configuration and the headers of a checkpoint's folder; of an adapter those of its base.
    ///
    /// # Errors
    /// [`LoadError`], as for loading it.
    pub(super) fn read(folder: &Path, options: &LoadOptions) -> Result<Self, LoadError> {
        let (config, shapes) = model::shapes(folder, options)?;
        Self::of(&config, &shapes)
    }

    /// What a configuration and names and shapes of tensors say.
    ///
    /// # Errors
    /// [`LoadError`], naming the key.
    pub(super) fn of(config: &Config, shapes: &[(String, Vec<usize>)]) -> Result<Self, LoadError> {
        let known = model::architecture_of(config)?;
        let vocabulary = config.optional_size("vocab_size")?;
        let repeats = known.blocks.is_some();
        let (mut linear, mut parameters, mut blocks, mut width) = (0, 0, 0, 0);
        for (name, shape) in shapes {
            parameters += shape.iter().product::<usize>() as u64;
            let block = block_of(name).filter(|_| repeats);
            blocks = blocks.max(block.map_or(0, |n| n + 1));
            match *shape.as_slice() {
                [a, b] if block.is_some() || vocabulary.is_none() => linear += a as u128 * b as u128,
                // kernels of a convolution are a matrix
                [outputs, channels, height, width] => linear += (outputs * channels * height * width) as u128,
                [a, b] if vocabulary == Some(a) => width = b,
                _ => {}
            }
        }
        if vocabulary.is_none() && repeats {
            width = config.optional_size("hidden_size")?.unwrap_or(0);
        }
        let heads = known.heads.map(|key| config.optional_size(key)).transpose()?.flatten().unwrap_or(0);
        let queries = match config.optional_size("head_dim")?.or(known.head_size) {
            Some(size) => heads * size,
            None if heads > 0 => width,
            None => 0,
        };
        let blocks = blocks.max(1);
        Ok(Self {
            shape: NetworkShape {
                linear,
                head: vocabulary.unwrap_or(0) as u128 * width as u128,
                attention: (blocks * queries) as u128,
            },
            blocks,
            parameters,
            width,
            vocabulary,
        })
    }
}

/// The number of the block that a tensor belongs to: the first number among the parts of its name.
pub(super) fn block_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Architecture {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
        Architecture::read(&folder, &LoadOptions::default()).expect("the fixture is a checkpoint")
    }

    /// The shapes of three architectures, counted by hand from their configurations.
    #[test]
    fn shapes_come_from_configuration_and_headers() {
        for name in ["gpt2-tiny", "llama-tiny"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
            let config = Config::read(&folder).expect("a configuration");
            let size = |key: &str| config.size(key).expect("a size");
            let found = fixture(name);
            let v = size("vocab_size");
            let (blocks, d, linear) = match name {
                "gpt2-tiny" => {
                    let (l, d) = (size("n_layer"), size("n_embd"));
                    let inner = config.optional_size("n_inner").expect("a size or null").unwrap_or(4 * d);
                    (l, d, l * (3 * d * d + d * d + 2 * d * inner))
                }
                _ => {
                    let (l, d, h) = (size("num_hidden_layers"), size("hidden_size"), size("num_attention_heads"));
                    let kv = d / h * size("num_key_value_heads");
                    (l, d, l * (2 * d * d + 2 * d * kv + 3 * d * size("intermediate_size")))
                }
            };
            assert_eq!((found.blocks, found.width, found.vocabulary), (blocks, d, Some(v)), "{name}");
            let expected =
                NetworkShape { linear: linear as u128, head: (v * d) as u128, attention: (blocks * d) as u128 };
            assert_eq!(found.shape, expected, "{name}");
        }
        let mlp = fixture("mlp-tiny");
        assert_eq!((mlp.blocks, mlp.vocabulary, mlp.shape.attention, mlp.shape.head), (1, None, 0, 0));
    }
}
