//! What every example has whatever it consists of: id, key, metadata.

use ascribe_attribution::store::{LongArray, LongTexts};
use serde_json::{Map, Value};

/// What every dataset keeps of its examples beside their tokens or rows: id, key and metadata, and the
/// hash of all contents.
#[derive(Debug)]
pub(super) struct Examples {
    ids: LongTexts,
    keys: LongArray<u64>,
    /// JSON text of the other fields, empty where there are none: a parsed map costs many times as much.
    metadata: LongTexts,
    content: Box<blake3::Hasher>,
}

impl Examples {
    /// None yet. `kind` keeps contents of different kinds apart that have the same bytes.
    pub(super) fn new(kind: &str) -> Self {
        let mut content = Box::new(blake3::Hasher::new());
        content.update(kind.as_bytes());
        Self { ids: LongTexts::new(), keys: LongArray::new(), metadata: LongTexts::new(), content }
    }

    /// Adds an example whose tokens and targets (or row and target) have the given digest.
    pub(super) fn push(&mut self, id: &str, metadata: &Map<String, Value>, digest: blake3::Hash) {
        // The id's length goes first, so that no two lists of ids and digests have the same bytes.
        self.content.update(&(id.len() as u64).to_le_bytes());
        self.content.update(id.as_bytes());
        self.content.update(digest.as_bytes());
        let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = *digest.as_bytes();
        self.keys.push(u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]));
        self.ids.push(id);
        let text = if metadata.is_empty() { None } else { serde_json::to_string(metadata).ok() };
        self.metadata.push(text.as_deref().unwrap_or_default());
    }

    /// The examples at these places, without their metadata.
    pub(super) fn sample(&self, places: &[usize]) -> Self {
        let mut content = Box::new(blake3::Hasher::new());
        content.update(b"sample");
        content.update(&self.content_hash());
        places.iter().for_each(|&i| _ = content.update(&(i as u64).to_le_bytes()));
        let mut sampled = Self { content, ..Self::new("") };
        for &i in places {
            sampled.ids.push(self.id(i));
            sampled.keys.push(self.keys[i]);
            sampled.metadata.push("");
        }
        sampled
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn id(&self, i: usize) -> &str {
        self.ids.get(i)
    }

    pub(super) fn key(&self, i: usize) -> u64 {
        self.keys.passed(i..i + 1);
        self.keys[i]
    }

    pub(super) fn metadata(&self, i: usize) -> Map<String, Value> {
        serde_json::from_str(self.metadata.get(i)).unwrap_or_default()
    }

    /// Lets what lies in files leave the memory.
    pub(super) fn forget(&self) {
        self.ids.forget();
        self.keys.forget();
        self.metadata.forget();
    }

    pub(super) fn content_hash(&self) -> [u8; 32] {
        *self.content.finalize().as_bytes()
    }
}
