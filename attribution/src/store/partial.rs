//! Partial sums: how far a long pass has come, so that a killed job goes on from there.

use std::collections::BTreeMap;
use std::ops::Deref;

use super::{Artifact, Key, Metadata, Store, StoreError, TensorData, pending};

const NEXT_EXAMPLE: &str = "next_example";
const COUNTER: &str = "counter.";

/// How far a pass has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The first example that the sums do not hold.
    pub next_example: u64,
    /// Whatever else was counted: positions, examples left out.
    pub counters: BTreeMap<String, u64>,
}

/// Saved sums of a pass and how far it had come: an [`Artifact`] (to which it dereferences) whose tensors
/// hold exactly the bytes that were saved.
#[derive(Debug)]
pub struct PartialSums {
    artifact: Artifact,
    progress: Progress,
}

impl PartialSums {
    /// How far the pass had come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }
}

impl Deref for PartialSums {
    type Target = Artifact;

    fn deref(&self) -> &Artifact {
        &self.artifact
    }
}

impl Store {
    /// Saves the sums of a pass in place of those saved before; if this is interrupted, those before remain.
    /// Each shard's writer has sums of its own.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn save_partial(
        &self,
        kind: &'static str,
        key: &Key,
        progress: &Progress,
        sums: &[TensorData<'_>],
    ) -> Result<(), StoreError> {
        let mut own = vec![(NEXT_EXAMPLE.to_owned(), progress.next_example)];
        own.extend(progress.counters.iter().map(|(name, n)| (format!("{COUNTER}{name}"), *n)));
        let path = self.artifact_path(kind, key, &self.partial_suffix())?;
        self.write_as(&path, kind, key, sums, &Metadata::new(), &own)
    }

    /// The sums that this writer saved last under this kind and key.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn restore_partial(&self, kind: &'static str, key: &Key) -> Result<Option<PartialSums>, StoreError> {
        let path = self.artifact_path(kind, key, &self.partial_suffix())?;
        let Some(artifact) = self.find_at(&path, kind, key)? else { return Ok(None) };
        let mut counters = BTreeMap::new();
        for entry in artifact.all_metadata().keys() {
            if let Some(name) = entry.strip_prefix(COUNTER) {
                counters.insert(name.to_owned(), artifact.number(entry)?);
            }
        }
        let progress = Progress { next_example: artifact.number(NEXT_EXAMPLE)?, counters };
        Ok(Some(PartialSums { artifact, progress }))
    }

    /// Deletes this writer's sums, once what they were for is finished. Sums whose artifact is there are
    /// also deleted when the folder is claimed next.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`], [`StoreError::Kind`], [`StoreError::Io`].
    pub fn remove_partial(&self, kind: &'static str, key: &Key) -> Result<(), StoreError> {
        self.lock()?;
        pending::remove(&self.artifact_path(kind, key, &self.partial_suffix())?)
    }

    fn partial_suffix(&self) -> String {
        match self.tag.strip_prefix("shard-") {
            Some(shard) => format!("partial-{shard}"),
            None => "partial".to_owned(),
        }
    }
}

/// If this is the name of partial sums, the name of the artifact that they are for.
pub(super) fn finished_name(name: &str) -> Option<String> {
    let (stem, rest) = name.split_once(".partial")?;
    (rest.ends_with(".safetensors")).then(|| format!("{stem}.safetensors"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Dtype, KeyBuilder, Shard, Writer};
    use std::fs;

    const KIND: &str = "covariance";

    fn key(seed: u64) -> Key {
        KeyBuilder::new(KIND, 1).field("seed", seed).finish()
    }

    #[test]
    fn sums_come_back_bit_by_bit() {
        let folder = tempfile::tempdir().unwrap();
        let sums: Vec<f64> = (0..35u64).map(|i| f64::from_bits(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        let pending: Vec<f32> = (0..7u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).collect();
        let progress = Progress {
            next_example: u64::MAX - 1,
            counters: [("positions".to_owned(), 3), ("left.out".to_owned(), u64::MAX)].into(),
        };
        let save = |store: &Store, progress: &Progress| {
            let tensors = [TensorData::new("sum", &[5, 7], &sums), TensorData::new("pending", &[7], &pending)];
            store.save_partial(KIND, &key(1), progress, &tensors).unwrap();
        };
        {
            let store = Store::claim(folder.path(), &key(0), Writer::Whole).unwrap();
            assert!(store.restore_partial(KIND, &key(1)).unwrap().is_none());
            save(&store, &Progress { next_example: 4, ..progress.clone() });
            save(&store, &progress);
        }
        let store = Store::claim(folder.path(), &key(0), Writer::Whole).unwrap();
        let restored = store.restore_partial(KIND, &key(1)).unwrap().unwrap();
        assert_eq!(*restored.progress(), progress);
        assert_eq!(restored.bytes("sum").unwrap(), bytemuck::cast_slice::<f64, u8>(&sums));
        assert_eq!(restored.bytes("pending").unwrap(), bytemuck::cast_slice::<f32, u8>(&pending));
        assert_eq!(restored.spec("sum").unwrap().dtype, Dtype::F64);
        assert_eq!(restored.f64("sum").unwrap().len(), 35);
        assert!(store.restore_partial(KIND, &key(2)).unwrap().is_none());

        // The same state gives the same file.
        let before = fs::read(restored.path()).unwrap();
        save(&store, &progress);
        assert_eq!(fs::read(restored.path()).unwrap(), before);
        store.remove_partial(KIND, &key(1)).unwrap();
        assert!(store.restore_partial(KIND, &key(1)).unwrap().is_none());
    }

    #[test]
    fn shards_do_not_share_sums() {
        let folder = tempfile::tempdir().unwrap();
        let claim = |i| Store::claim(folder.path(), &key(0), Writer::Shard(Shard::new(i, 2).unwrap())).unwrap();
        let (first, second) = (claim(1), claim(2));
        for (store, next_example) in [(&first, 10), (&second, 20)] {
            store.save_partial(KIND, &key(1), &Progress { next_example, ..Progress::default() }, &[]).unwrap();
        }
        for (store, next_example) in [(&first, 10), (&second, 20)] {
            assert_eq!(store.restore_partial(KIND, &key(1)).unwrap().unwrap().progress().next_example, next_example);
        }
    }

    #[test]
    fn sums_of_other_inputs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::claim(folder.path(), &key(0), Writer::Whole).unwrap();
        store.save_partial(KIND, &key(1), &Progress::default(), &[]).unwrap();
        let path = |key| store.artifact_path(KIND, &key, "partial").unwrap();
        fs::rename(path(key(1)), path(key(2))).unwrap();
        assert!(matches!(store.restore_partial(KIND, &key(2)), Err(StoreError::OtherKey { .. })));
        store.write(KIND, &key(3), &[], &Metadata::new()).unwrap();
        fs::rename(store.artifact_path(KIND, &key(3), "").unwrap(), path(key(3))).unwrap();
        let error = store.restore_partial(KIND, &key(3)).unwrap_err();
        assert!(matches!(error, StoreError::NotAnArtifact { entry, .. } if entry == "next_example"));
    }

    #[test]
    fn sums_that_became_an_artifact_are_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        let claim = || Store::claim(folder.path(), &key(0), Writer::Whole).unwrap();
        let store = claim();
        for seed in [1, 2] {
            store.save_partial(KIND, &key(seed), &Progress::default(), &[]).unwrap();
        }
        store.write(KIND, &key(1), &[], &Metadata::new()).unwrap();
        drop(store);
        let store = claim();
        assert!(store.restore_partial(KIND, &key(1)).unwrap().is_none());
        assert!(store.restore_partial(KIND, &key(2)).unwrap().is_some());
    }
}
