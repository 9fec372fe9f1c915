//! The store: one folder for each run, holding keyed artifacts, progress and parts.
//!
//! ```text
//! RUN/ascribe.json                                     which job the folder is of
//! RUN/.lock, RUN/.lock-shard-I-of-N                    who writes
//! RUN/artifacts/KIND-SHORTKEY.safetensors              an artifact
//! RUN/artifacts/KIND-SHORTKEY.partial.safetensors      progress of a pass (`.partial-I-of-N` of a shard's)
//! RUN/artifacts/KIND-SHORTKEY.part-START-END.safetensors   a range of examples
//! ```
//!
//! Keys are contents ([`Key`]): the same key is used again, another is never mixed in. Writes are atomic: a
//! reader sees a whole file or none. Deleting anything in `artifacts` costs time and nothing else.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! use ascribe_attribution::store::{KeyBuilder, Metadata, Store, TensorData, Writer};
//!
//! let key = KeyBuilder::new("lambda", 1).field("seed", 7u64).finish();
//! let store = Store::claim(folder, &key, Writer::Whole)?;
//! if store.find("lambda", &key)?.is_none() {
//!     store.write("lambda", &key, &[TensorData::new("h.0.attn", &[1, 2], &[0.5f64, 2.0])], &Metadata::new())?;
//! }
//! let lambda = store.find("lambda", &key)?.ok_or("written above")?;
//! assert_eq!(lambda.f64("h.0.attn")?, [0.5, 2.0]);
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod artifact;
mod checksum;
mod claim;
mod error;
mod key;
mod layout;
mod lock;
mod long_array;
mod pages;
mod partial;
mod parts;
mod pending;
mod read;
mod regular;
mod shard;
mod space;
mod write;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use artifact::Artifact;
pub use checksum::{Checks, check_json, checks, sealed_json};
pub use error::{DeclarationError, StoreError};
pub use key::{FieldValue, Key, KeyBuilder, KeyParseError};
pub use layout::{Dtype, Element, Metadata, TensorData, TensorSpec};
pub use lock::Writer;
pub use long_array::{LongArray, LongTexts};
pub use pages::forget_pages;
pub use partial::{PartialSums, Progress};
pub use parts::{Part, check_cover, gaps, list_parts};
pub use read::TensorFile;
pub use shard::{Shard, ShardError};
pub use space::{file_size, free_space};
pub use write::{TensorWriter, write_safetensors};

/// The version of the files' layout. What their numbers mean is in their keys' format versions.
pub const FORMAT: u32 = 2;

/// The versions that are read. Files of version 1 have no checksum.
pub(crate) const KNOWN_FORMATS: [u32; 2] = [1, FORMAT];

/// The folder of a run folder that holds what can be computed again.
const ARTIFACTS: &str = "artifacts";

/// A run folder, open for reading, or claimed by one job for writing.
///
/// All access to artifacts goes through here, by kind and key and never by path, so that they may one day
/// lie elsewhere than in a file system.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    job: Key,
    /// None if open for reading only.
    lock: Option<Arc<lock::RunLock>>,
    /// Names this writer's own files.
    tag: String,
    origin: Origin,
}

/// Was there a run in the folder before?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// No: the folder was empty or did not exist.
    New,
    /// Yes, of the same job: finished work is used again.
    Resumed,
}

impl Store {
    /// Makes a folder this job's, or takes up its earlier work, and locks it until the store and all its
    /// writers are dropped. What a killed writer left unfinished is cleared away.
    ///
    /// Jobs that work on shards of the same whole have the same key.
    ///
    /// # Errors
    /// [`StoreError::NotARunFolder`] if the folder holds anything else (nothing is changed then);
    /// [`StoreError::OtherJob`], [`StoreError::FormatVersion`] or [`StoreError::RunFile`] if it is another run's;
    /// [`StoreError::Locked`]; [`StoreError::NoSpace`]; [`StoreError::Io`].
    pub fn claim(folder: &Path, job: &Key, writer: Writer) -> Result<Self, StoreError> {
        let origin = match claim::job_of(folder)? {
            Some(found) => {
                claim::same_job(folder, *job, found)?;
                Origin::Resumed
            }
            None => {
                claim::refuse_foreign(folder)?;
                Origin::New
            }
        };
        fs::create_dir_all(folder).map_err(StoreError::io("create the folder", folder, 0))?;
        let lock = lock::RunLock::acquire(folder, writer)?;
        let tag = writer.tag();
        claim::write(folder, *job, &tag)?;
        let artifacts = folder.join(ARTIFACTS);
        fs::create_dir_all(&artifacts).map_err(StoreError::io("create the folder", &artifacts, 0))?;
        let store = Self { folder: folder.to_owned(), job: *job, lock: Some(Arc::new(lock)), tag, origin };
        store.clear(writer)?;
        Ok(store)
    }

    /// Opens a run folder for reading. Another process may be writing into it.
    ///
    /// # Errors
    /// [`StoreError::NoRun`], [`StoreError::FormatVersion`] or [`StoreError::RunFile`] if it is no run folder of
    /// this format; [`StoreError::Io`].
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let job = claim::job_of(folder)?.ok_or_else(|| StoreError::NoRun { folder: folder.to_owned() })?;
        let (tag, origin) = (Writer::Whole.tag(), Origin::Resumed);
        Ok(Self { folder: folder.to_owned(), job, lock: None, tag, origin })
    }

    /// The run folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The key of the job that the folder is of.
    pub fn job(&self) -> Key {
        self.job
    }

    /// Was there a run in the folder before it was claimed?
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Clears away what killed writers left in a run folder, if there is one here that nobody else writes into, and
    /// keeps others from writing until the returned store is dropped. None if there is nothing to do or somebody writes.
    ///
    /// # Errors
    /// As [`claim`](Self::claim), but [`StoreError::Locked`].
    pub fn tidy(folder: &Path) -> Result<Option<Self>, StoreError> {
        let Some(job) = claim::job_of(folder)? else { return Ok(None) };
        match Self::claim(folder, &job, Writer::Whole) {
            Err(StoreError::Locked { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    fn lock(&self) -> Result<&Arc<lock::RunLock>, StoreError> {
        self.lock.as_ref().ok_or_else(|| StoreError::ReadOnly { folder: self.folder.clone() })
    }

    /// Deletes temporary files of writers that are no more, and partial sums and parts that were finished. A shard's
    /// writer leaves alone what may belong to others.
    fn clear(&self, writer: Writer) -> Result<(), StoreError> {
        let artifacts = self.folder.join(ARTIFACTS);
        for folder in [&self.folder, &artifacts] {
            let error = || StoreError::io("read the folder", folder, 0);
            for entry in fs::read_dir(folder).map_err(error())? {
                let entry = entry.map_err(error())?;
                let name = entry.file_name();
                let Some(name) = name.to_str() else { continue };
                let left = match writer {
                    Writer::Whole => {
                        pending::is_temporary(name)
                            || partial::finished_name(name)
                                .or_else(|| parts::whole_name(name))
                                .is_some_and(|finished| folder.join(finished).exists())
                    }
                    Writer::Shard(_) => pending::is_temporary_of(name, &self.tag),
                };
                if left {
                    pending::remove(&entry.path())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ascribe_curvature::Hint;

    fn key(seed: u64) -> Key {
        KeyBuilder::new("job", 1).field("seed", seed).finish()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_is_claimed_once_and_resumed_by_the_same_job() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("new/run");
        let store = Store::claim(&folder, &key(1), Writer::Whole).unwrap();
        assert_eq!((store.origin(), store.job()), (Origin::New, key(1)));
        assert!(matches!(Store::claim(&folder, &key(1), Writer::Whole), Err(StoreError::Locked { .. })));
        assert_eq!(Store::open(&folder).unwrap().job(), key(1));
        drop(store);
        assert_eq!(Store::claim(&folder, &key(1), Writer::Whole).unwrap().origin(), Origin::Resumed);
        assert_eq!(names(&folder), [".lock", "artifacts", "ascribe.json"]);
        let text = fs::read_to_string(folder.join("ascribe.json")).unwrap();
        let expected = format!(
            "{{\n  \"format\": 1,\n  \"created_by\": \"ascribe {}\",\n  \"key\": \"{}\"\n}}\n",
            env!("CARGO_PKG_VERSION"),
            key(1)
        );
        assert_eq!(text, expected);

        let error = Store::claim(&folder, &key(2), Writer::Whole).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the run folder `{}` belongs to other inputs: its job has the key {}, this one {}",
                folder.display(),
                key(1),
                key(2)
            )
        );
        assert_eq!(
            error.hint().as_deref(),
            Some("choose another `--out`, or delete the folder if its results are no longer needed")
        );
    }

    #[test]
    fn nothing_of_the_users_is_touched() {
        for (name, contents) in [("thesis.tex", "x"), (".lock", "mine"), ("artifacts", "x"), (".hidden", "")] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), contents).unwrap();
            let error = Store::claim(folder.path(), &key(1), Writer::Whole).unwrap_err();
            assert!(matches!(&error, StoreError::NotARunFolder { entry, .. } if entry == name), "{error:?}");
            assert_eq!(error.hint().as_deref(), Some("choose an `--out` that is empty or does not exist yet"));
            assert_eq!(names(folder.path()), [name]);
            assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), contents);
            assert!(matches!(Store::open(folder.path()), Err(StoreError::NoRun { .. })));
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(Store::claim(&file, &key(1), Writer::Whole), Err(StoreError::Io { .. })));
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
    }

    #[test]
    fn a_run_file_that_is_not_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ascribe.json");
        for text in ["", "{", "[]", "{}", r#"{"format":1}"#, r#"{"format":1,"created_by":"x","key":"y"}"#] {
            fs::write(&file, text).unwrap();
            for result in [Store::claim(folder.path(), &key(1), Writer::Whole), Store::open(folder.path())] {
                assert!(matches!(result, Err(StoreError::RunFile { .. })), "{text}: {result:?}");
            }
        }
        fs::write(&file, r#"{"format":2,"job":"in other words"}"#).unwrap();
        let error = Store::open(folder.path()).unwrap_err();
        assert!(error.to_string().ends_with("has the format version 2, this program reads 1"), "{error}");
        assert!(error.hint().unwrap().contains("`--out`"));
        assert_eq!(names(folder.path()), ["ascribe.json"]);
    }

    /// A process killed in the middle of a file leaves a temporary one: no reader sees it, the next writer
    /// clears it away, and a shard's only its own.
    #[test]
    fn what_a_killed_job_left_is_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = folder.path().join(ARTIFACTS);
        let spec = [TensorSpec::new("x", Dtype::F32, [100])];
        let killed = |writer| {
            let store = Store::claim(folder.path(), &key(1), writer).unwrap();
            let file = pending::PendingFile::create(&artifacts.join("x.safetensors"), &writer.tag(), 8).unwrap();
            file.leave_behind();
            assert!(store.find("x", &key(2)).unwrap().is_none());
        };
        let shard = |index| Writer::Shard(Shard::new(index, 2).unwrap());
        killed(shard(1));
        killed(shard(2));
        assert_eq!(names(&artifacts).len(), 2);
        drop(Store::claim(folder.path(), &key(1), shard(1)).unwrap());
        assert_eq!(names(&artifacts).len(), 1);
        assert!(names(&artifacts)[0].starts_with(".ascribe-tmp-shard-2-of-2-"));
        killed(Writer::Whole);
        assert_eq!(names(&artifacts).len(), 1);
        let store = Store::claim(folder.path(), &key(1), Writer::Whole).unwrap();
        assert_eq!(names(&artifacts), [""; 0]);
        drop(store.writer("x", &key(2), &spec, &Metadata::new()).unwrap());
        assert_eq!(names(&artifacts), [""; 0]);
    }

    /// Names the run folder to the process that the next test starts and kills.
    const VICTIM: &str = "ASCRIBE_STORE_TEST_VICTIM";

    #[test]
    fn a_killed_process_loses_its_lock_and_keeps_its_progress() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};

        let folder = tempfile::tempdir().unwrap();
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "store::tests::victim"])
            .env(VICTIM, folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("in the middle of it")), "the victim ended early");
        let claim = || Store::claim(folder.path(), &key(1), Writer::Whole);
        let error = claim().unwrap_err();
        assert!(matches!(error, StoreError::Locked { pid: Some(pid), .. } if pid == victim.id()), "{error:?}");
        victim.kill().unwrap();
        victim.wait().unwrap();

        assert_eq!(names(&folder.path().join(ARTIFACTS)).len(), 2);
        let store = claim().unwrap();
        assert_eq!(names(&folder.path().join(ARTIFACTS)).len(), 1);
        assert!(store.find("x", &key(2)).unwrap().is_none());
        let sums = store.restore_partial("x", &key(2)).unwrap().unwrap();
        assert_eq!((sums.progress().next_example, sums.f64("sum").unwrap()), (7, &[0.1 + 0.2][..]));
    }

    #[test]
    fn victim() {
        use std::io::{Read, Write};

        let Some(folder) = std::env::var_os(VICTIM) else { return };
        let store = Store::claim(Path::new(&folder), &key(1), Writer::Whole).unwrap();
        let progress = Progress { next_example: 7, ..Progress::default() };
        store.save_partial("x", &key(2), &progress, &[TensorData::new("sum", &[1], &[0.1 + 0.2])]).unwrap();
        let spec = [TensorSpec::new("sum", Dtype::F64, [1000])];
        let writer = store.writer("x", &key(2), &spec, &Metadata::new()).unwrap();
        writer.write_values_at("sum", 500, &[1f64; 3]).unwrap();
        writeln!(std::io::stdout(), "in the middle of it").unwrap();
        std::io::stdin().read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn a_job_killed_while_claiming_does_not_block_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".lock"), "ascribe pid 4711\n").unwrap();
        fs::write(folder.path().join(".ascribe-tmp-whole-x"), "{").unwrap();
        let store = Store::claim(folder.path(), &key(1), Writer::Whole).unwrap();
        assert_eq!(store.origin(), Origin::New);
        assert_eq!(names(folder.path()), [".lock", "artifacts", "ascribe.json"]);
    }

    #[test]
    fn shards_write_into_one_folder_and_readers_only_read() {
        let folder = tempfile::tempdir().unwrap();
        let claim = |index| Store::claim(folder.path(), &key(1), Writer::Shard(Shard::new(index, 2).unwrap()));
        let (first, second) = (claim(1).unwrap(), claim(2).unwrap());
        assert!(matches!(claim(2), Err(StoreError::Locked { shard: Some(_), .. })));
        assert!(matches!(Store::claim(folder.path(), &key(1), Writer::Whole), Err(StoreError::Locked { .. })));
        first.write("x", &key(2), &[], &Metadata::new()).unwrap();
        assert!(second.find("x", &key(2)).unwrap().is_some());

        let reader = Store::open(folder.path()).unwrap();
        assert!(reader.find("x", &key(2)).unwrap().is_some());
        let refused = [
            reader.write("x", &key(2), &[], &Metadata::new()),
            reader.remove("x", &key(2)),
            reader.save_partial("x", &key(2), &Progress::default(), &[]),
            reader.remove_partial("x", &key(2)),
            reader.write_part("x", &key(2), 0..1, &[], &Metadata::new()),
            reader.remove_parts("x", &key(2)),
            reader.writer("x", &key(2), &[], &Metadata::new()).map(|_| ()),
        ];
        for result in refused {
            assert!(matches!(result, Err(StoreError::ReadOnly { .. })), "{result:?}");
        }
    }
}
