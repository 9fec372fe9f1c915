//! Which checkpoint a model is.

use std::sync::{Arc, OnceLock};

use super::config::Config;
use super::weights::Weights;

/// What tells a checkpoint from others: its weights and its configuration, whatever its name.
#[derive(Debug)]
pub struct Identity {
    weights: Arc<Weights>,
    configuration: String,
    hash: OnceLock<[u8; 32]>,
}

impl Identity {
    pub(super) fn new(weights: Arc<Weights>, config: &Config) -> Self {
        let configuration = serde_json::Value::Object(config.keys().clone()).to_string();
        Self { weights, configuration, hash: OnceLock::new() }
    }

    /// BLAKE3 over both. The first call reads the weights, a few megabytes at a time.
    pub fn content_hash(&self) -> [u8; 32] {
        *self.hash.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&self.weights.content_hash());
            hasher.update(self.configuration.as_bytes());
            *hasher.finalize().as_bytes()
        })
    }
}
