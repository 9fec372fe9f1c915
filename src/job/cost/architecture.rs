//! Shapes of a network, from its configuration and the headers of its weights: no number of a weight is read.

use std::path::Path;

use crate::model::{self, Config, LoadError, LoadOptions};

/// What a checkpoint's files say about its shapes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Architecture {
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
        let (mut parameters, mut blocks, mut width) = (0, 0, 0);
        for (name, shape) in shapes {
            parameters += shape.iter().product::<usize>() as u64;
            blocks = blocks.max(block_of(name).filter(|_| repeats).map_or(0, |n| n + 1));
            if let [rows, columns] = *shape.as_slice()
                && vocabulary == Some(rows)
            {
                width = columns;
            }
        }
        if vocabulary.is_none() && repeats {
            width = config.optional_size("hidden_size")?.unwrap_or(0);
        }
        Ok(Self { blocks: blocks.max(1), parameters, width, vocabulary })
    }

    /// Numbers in the matrix of a language model's head, V · D; 0 without a vocabulary.
    pub(super) fn head(&self) -> u128 {
        self.vocabulary.unwrap_or(0) as u128 * self.width as u128
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
            let keys = if name == "gpt2-tiny" { ["n_layer", "n_embd"] } else { ["num_hidden_layers", "hidden_size"] };
            let ([blocks, d], v, found) = (keys.map(size), size("vocab_size"), fixture(name));
            assert_eq!((found.blocks, found.width, found.vocabulary), (blocks, d, Some(v)), "{name}");
            assert_eq!(found.head(), (v * d) as u128, "{name}");
        }
        let mlp = fixture("mlp-tiny");
        assert_eq!((mlp.blocks, mlp.vocabulary, mlp.head()), (1, None, 0));
    }
}
