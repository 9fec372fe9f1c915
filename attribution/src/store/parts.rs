//! Parts: pieces of an artifact that each hold a contiguous range of examples, written by one job after
//! the other or by many at once, in one run folder or in several.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::artifact::{check_kind, stem};
use super::{ARTIFACTS, Artifact, Key, Metadata, Store, StoreError, TensorData, TensorSpec, TensorWriter, pending};

const RANGE_START: &str = "range_start";
const RANGE_END: &str = "range_end";

/// A finished part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its file.
    pub file: PathBuf,
    /// What it is a part of.
    pub kind: String,
    /// What it was made from.
    pub key: Key,
    /// The examples it holds: never empty.
    pub range: Range<u64>,
}

impl Part {
    /// Opens the part's tensors.
    ///
    /// # Errors
    /// Those of [`Artifact::open_of`].
    pub fn open(&self) -> Result<Artifact, StoreError> {
        Artifact::open_of(&self.file, &self.kind, &self.key)
    }

    /// Opens a file and checks that its name and its contents agree.
    fn read(file: PathBuf, kind: &str, short_key: &str, named: &Range<u64>) -> Result<Self, StoreError> {
        let artifact = Artifact::open(&file)?;
        if artifact.kind() != kind {
            let (expected, found) = (kind.to_owned(), artifact.kind().to_owned());
            return Err(StoreError::OtherKind { file, expected, found });
        }
        let range = artifact.number(RANGE_START)?..artifact.number(RANGE_END)?;
        let key = artifact.key();
        if range != *named || range.is_empty() {
            let expected = format!("{}..{} as in its name", named.start, named.end);
            return Err(StoreError::PartRange { file, range, expected });
        }
        if key.short() != short_key {
            let expected = format!("the key `{short_key}…` of its name and not {key}");
            return Err(StoreError::PartRange { file, range, expected });
        }
        Ok(Self { file, kind: artifact.kind().to_owned(), key, range })
    }
}

impl Store {
    /// Writes the part of an artifact that holds the examples of `range`.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`StoreError::PartRange`] if the range is empty.
    pub fn write_part(
        &self,
        kind: &'static str,
        key: &Key,
        range: Range<u64>,
        tensors: &[TensorData<'_>],
        metadata: &Metadata,
    ) -> Result<(), StoreError> {
        let (path, own) = self.part_place(kind, key, range)?;
        self.write_as(&path, kind, key, tensors, metadata, &own)
    }

    /// Starts a part whose tensors are written in pieces.
    ///
    /// # Errors
    /// As [`write_part`](Self::write_part).
    pub fn part_writer(
        &self,
        kind: &'static str,
        key: &Key,
        range: Range<u64>,
        tensors: &[TensorSpec],
        metadata: &Metadata,
    ) -> Result<TensorWriter, StoreError> {
        let (path, own) = self.part_place(kind, key, range)?;
        self.writer_as(&path, kind, key, tensors, metadata, &own)
    }

    /// The parts of this kind and key in this folder, in the order of their examples.
    ///
    /// # Errors
    /// [`StoreError::PartsOverlap`]; those of [`list_parts`].
    pub fn parts(&self, kind: &'static str, key: &Key) -> Result<Vec<Part>, StoreError> {
        let stem = stem(kind, key)?;
        let mut parts = Vec::new();
        for found in part_names(&self.folder, kind)? {
            if found.0.starts_with(&stem) {
                parts.push(found.open(&self.folder, kind)?);
            }
        }
        if let Some(part) = parts.iter().find(|part| part.key != *key) {
            return Err(StoreError::OtherKey { file: part.file.clone(), expected: *key, found: part.key });
        }
        sort(&mut parts);
        check_disjoint(&parts)?;
        Ok(parts)
    }

    /// Deletes this folder's parts of this kind and key, once the whole is written.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`], [`StoreError::Kind`], [`StoreError::Io`].
    pub fn remove_parts(&self, kind: &'static str, key: &Key) -> Result<(), StoreError> {
        self.lock()?;
        let stem = stem(kind, key)?;
        for PartName(name, ..) in part_names(&self.folder, kind)? {
            if name.starts_with(&stem) {
                pending::remove(&self.folder.join(ARTIFACTS).join(name))?;
            }
        }
        Ok(())
    }

    /// Deletes this folder's artifacts of a kind, whatever their keys, with their progress and parts.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`], [`StoreError::Kind`], [`StoreError::Io`].
    pub fn remove_kind(&self, kind: &'static str) -> Result<(), StoreError> {
        self.lock()?;
        check_kind(kind)?;
        let folder = self.folder.join(ARTIFACTS);
        let error = || StoreError::io("read the folder", &folder, 0);
        for entry in fs::read_dir(&folder).map_err(error())? {
            let entry = entry.map_err(error())?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| is_of_kind(name, kind)) {
                pending::remove(&entry.path())?;
            }
        }
        Ok(())
    }

    fn part_place(
        &self,
        kind: &str,
        key: &Key,
        range: Range<u64>,
    ) -> Result<(PathBuf, [(String, u64); 2]), StoreError> {
        let file = self.artifact_path(kind, key, &format!("part-{}-{}", range.start, range.end))?;
        if range.is_empty() {
            return Err(StoreError::PartRange { file, range, expected: "at least one".to_owned() });
        }
        Ok((file, [(RANGE_START.to_owned(), range.start), (RANGE_END.to_owned(), range.end)]))
    }
}

/// All parts of a kind in these run folders, whatever their keys, in the order of their examples. A folder
/// that is named twice counts once.
///
/// # Errors
/// [`StoreError::NoRun`] if one of the folders is no run folder; those of [`Artifact::open`], and
/// [`StoreError::PartRange`] for a part that was renamed.
pub fn list_parts(folders: &[PathBuf], kind: &'static str) -> Result<Vec<Part>, StoreError> {
    check_kind(kind)?;
    let (mut parts, mut seen) = (Vec::new(), BTreeSet::new());
    for folder in folders {
        Store::open(folder)?;
        if seen.insert(fs::canonicalize(folder).map_err(StoreError::io("open", folder, 0))?) {
            for name in part_names(folder, kind)? {
                parts.push(name.open(folder, kind)?);
            }
        }
    }
    sort(&mut parts);
    Ok(parts)
}

/// May these parts be put together: is each of this key, and is every one of `total` examples in exactly one?
///
/// # Errors
/// [`StoreError::OtherKey`]; [`StoreError::PartRange`] for a part beyond the last example;
/// [`StoreError::PartsOverlap`]; [`StoreError::PartsMissing`].
pub fn check_cover(parts: &[Part], kind: &str, key: &Key, total: u64) -> Result<(), StoreError> {
    for part in parts {
        if part.key != *key {
            return Err(StoreError::OtherKey { file: part.file.clone(), expected: *key, found: part.key });
        }
        if part.range.end > total {
            let expected = format!("examples of 0..{total}");
            return Err(StoreError::PartRange { file: part.file.clone(), range: part.range.clone(), expected });
        }
    }
    check_disjoint(parts)?;
    let gaps = gaps(parts, 0..total);
    match gaps.first() {
        Some(missing) => Err(StoreError::PartsMissing {
            kind: kind.to_owned(),
            missing: missing.clone(),
            further: gaps.len() - 1,
            total,
        }),
        None => Ok(()),
    }
}

/// The ranges of `within` that no part holds, in order.
pub fn gaps(parts: &[Part], within: Range<u64>) -> Vec<Range<u64>> {
    let mut ranges: Vec<_> = parts.iter().map(|part| part.range.clone()).collect();
    ranges.sort_by_key(|range| range.start);
    let (mut gaps, mut next) = (Vec::new(), within.start);
    for range in ranges {
        let start = range.start.min(within.end);
        if start > next {
            gaps.push(next..start);
        }
        next = next.max(range.end);
    }
    if next < within.end {
        gaps.push(next..within.end);
    }
    gaps
}

fn sort(parts: &mut [Part]) {
    parts.sort_by(|a, b| (a.range.start, a.range.end, &a.file).cmp(&(b.range.start, b.range.end, &b.file)));
}

fn check_disjoint(parts: &[Part]) -> Result<(), StoreError> {
    let mut sorted: Vec<_> = parts.iter().collect();
    sorted.sort_by_key(|part| part.range.start);
    for pair in sorted.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        if first.range.end > second.range.start {
            return Err(StoreError::PartsOverlap {
                first: first.file.clone(),
                first_range: first.range.clone(),
                second: second.file.clone(),
                second_range: second.range.clone(),
            });
        }
    }
    Ok(())
}

/// Is this `KIND-SHORTKEY.` and anything? The kind `a` is none of `a-b`: a key holds no dash.
fn is_of_kind(name: &str, kind: &str) -> bool {
    let key = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-')).and_then(|rest| rest.split_once('.'));
    key.is_some_and(|(key, _)| !key.is_empty() && key.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// If this is the name of a part, the name of the whole that it is a part of.
pub(super) fn whole_name(name: &str) -> Option<String> {
    let (stem, rest) = name.split_once(".part-")?;
    rest.ends_with(".safetensors").then(|| format!("{stem}.safetensors"))
}

/// `KIND-SHORTKEY.part-START-END.safetensors`, and what it says.
struct PartName(String, String, Range<u64>);

impl PartName {
    fn open(self, folder: &Path, kind: &str) -> Result<Part, StoreError> {
        let Self(name, short_key, range) = self;
        Part::read(folder.join(ARTIFACTS).join(name), kind, &short_key, &range)
    }
}

fn part_names(folder: &Path, kind: &str) -> Result<Vec<PartName>, StoreError> {
    let folder = folder.join(ARTIFACTS);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(StoreError::io("read the folder", &folder, 0))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(StoreError::io("read the folder", &folder, 0))?.file_name();
        if let Some(name) = name.to_str().and_then(|name| parse_name(name, kind)) {
            names.push(name);
        }
    }
    // A folder has no order of its own.
    names.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

fn parse_name(name: &str, kind: &str) -> Option<PartName> {
    let rest = name.strip_prefix(kind)?.strip_prefix('-')?;
    // Another kind may start with this one: only a short key may follow.
    let (short_key, rest) = rest.split_once(".part-")?;
    if short_key.len() != 16 || !short_key.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let (start, end) = rest.strip_suffix(".safetensors")?.split_once('-')?;
    Some(PartName(name.to_owned(), short_key.to_owned(), start.parse().ok()?..end.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{KeyBuilder, Shard, Writer};
    use ascribe_curvature::Hint;
    use proptest::prelude::*;
    use tempfile::TempDir;

    const KIND: &str = "scores";

    fn key(seed: u64) -> Key {
        KeyBuilder::new(KIND, 1).field("seed", seed).finish()
    }

    fn run() -> (TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::claim(folder.path(), &key(0), Writer::Whole).unwrap();
        (folder, store)
    }

    fn put(store: &Store, key: &Key, range: Range<u64>) {
        let values: Vec<f32> = range.clone().map(|i| i as f32).collect();
        let shape = [1, values.len()];
        let tensors = [TensorData::new("scores", &shape, &values)];
        store.write_part(KIND, key, range, &tensors, &Metadata::new()).unwrap();
    }

    fn ranges(parts: &[Part]) -> Vec<Range<u64>> {
        parts.iter().map(|part| part.range.clone()).collect()
    }

    #[test]
    fn parts_come_in_the_order_of_their_examples() {
        let (_folder, store) = run();
        for range in [100..200, 0..9, 9..100] {
            put(&store, &key(1), range);
        }
        put(&store, &key(2), 0..300);
        store.write_part("scores-of-tokens", &key(1), 5..6, &[], &Metadata::new()).unwrap();
        store.write(KIND, &key(1), &[], &Metadata::new()).unwrap();
        let parts = store.parts(KIND, &key(1)).unwrap();
        assert_eq!(ranges(&parts), [0..9, 9..100, 100..200]);
        assert_eq!(parts[0].open().unwrap().f32("scores").unwrap(), [0., 1., 2., 3., 4., 5., 6., 7., 8.]);
        check_cover(&parts, KIND, &key(1), 200).unwrap();

        store.remove_parts(KIND, &key(1)).unwrap();
        assert_eq!(store.parts(KIND, &key(1)).unwrap(), []);
        assert_eq!(store.parts(KIND, &key(2)).unwrap()[0].range, 0..300);
        assert!(store.find(KIND, &key(1)).unwrap().is_some());
    }

    #[test]
    fn overlaps_are_refused_by_name() {
        let (_folder, store) = run();
        put(&store, &key(1), 0..10);
        put(&store, &key(1), 9..12);
        let error = store.parts(KIND, &key(1)).unwrap_err().to_string();
        let short = key(1).short();
        assert!(error.contains(&format!("scores-{short}.part-0-10.safetensors` (examples 0..10) and `")), "{error}");
        assert!(error.ends_with(&format!("scores-{short}.part-9-12.safetensors` (examples 9..12) overlap")), "{error}");
    }

    #[test]
    fn a_merge_over_folders_refuses_gaps_overlaps_and_strangers() {
        let runs: Vec<_> = (0..3).map(|_| run()).collect();
        let folders: Vec<_> = runs.iter().map(|(folder, _)| folder.path().to_owned()).collect();
        for (i, (_, store)) in runs.iter().enumerate() {
            put(store, &key(1), Shard::new(i as u32 + 1, 3).unwrap().range(10));
        }
        let parts = list_parts(&folders, KIND).unwrap();
        assert_eq!(ranges(&parts), [0..3, 3..6, 6..10]);
        check_cover(&parts, KIND, &key(1), 10).unwrap();
        let twice = [&folders[..], &folders[1..2]].concat();
        assert_eq!(list_parts(&twice, KIND).unwrap(), parts);

        let error = check_cover(&list_parts(&folders[..2], KIND).unwrap(), KIND, &key(1), 10).unwrap_err();
        assert_eq!(error.to_string(), "no part of `scores` holds examples 6..10 of 10");
        let error = check_cover(&parts[1..2], KIND, &key(1), 10).unwrap_err();
        assert!(matches!(&error, StoreError::PartsMissing { missing, further: 1, .. } if *missing == (0..3)));
        assert!(error.hint().unwrap().starts_with("and 1 more"));
        assert!(matches!(check_cover(&[], KIND, &key(1), 1), Err(StoreError::PartsMissing { .. })));
        check_cover(&[], KIND, &key(1), 0).unwrap();
        assert!(matches!(check_cover(&parts, KIND, &key(1), 9), Err(StoreError::PartRange { .. })));

        put(&runs[0].1, &key(1), 5..6);
        let error = check_cover(&list_parts(&folders, KIND).unwrap(), KIND, &key(1), 10).unwrap_err();
        assert!(matches!(
            error,
            StoreError::PartsOverlap {
                first_range: Range { start: 3, end: 6 },
                second_range: Range { start: 5, end: 6 },
                ..
            }
        ));
        runs[0].1.remove_parts(KIND, &key(1)).unwrap();
        put(&runs[0].1, &key(2), 0..3);
        let error = check_cover(&list_parts(&folders, KIND).unwrap(), KIND, &key(1), 10).unwrap_err();
        assert!(matches!(error, StoreError::OtherKey { found, .. } if found == key(2)));

        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(list_parts(&[empty.path().to_owned()], KIND), Err(StoreError::NoRun { .. })));
    }

    #[test]
    fn a_part_cannot_be_renamed_into_another() {
        let (_folder, store) = run();
        put(&store, &key(1), 0..4);
        let path = |key: &Key, suffix| store.artifact_path(KIND, key, suffix).unwrap();
        fs::copy(path(&key(1), "part-0-4"), path(&key(1), "part-4-8")).unwrap();
        let error = store.parts(KIND, &key(1)).unwrap_err();
        assert!(error.to_string().ends_with("the part holds examples 0..4, expected 4..8 as in its name"), "{error}");
        fs::rename(path(&key(1), "part-4-8"), path(&key(2), "part-0-4")).unwrap();
        assert!(matches!(store.parts(KIND, &key(2)), Err(StoreError::PartRange { .. })));
        let nothing = store.write_part(KIND, &key(1), 4..4, &[], &Metadata::new());
        assert!(matches!(nothing, Err(StoreError::PartRange { .. })));
    }

    fn part(range: Range<u64>) -> Part {
        Part { file: format!("{range:?}").into(), kind: KIND.into(), key: key(1), range }
    }

    proptest! {
        /// Against a count for each example.
        #[test]
        fn a_cover_holds_each_example_once(cuts in proptest::collection::vec((0u64..20, 1u64..8), 0..6), total in 0u64..20) {
            let parts: Vec<_> = cuts.iter().map(|&(start, n)| part(start..start + n)).collect();
            let count = |i: u64| parts.iter().filter(|part| part.range.contains(&i)).count();
            let once = (0..total).all(|i| count(i) == 1) && parts.iter().all(|part| part.range.end <= total);
            prop_assert_eq!(check_cover(&parts, KIND, &key(1), total).is_ok(), once);
            let missing: Vec<u64> = gaps(&parts, 2..total).into_iter().flatten().collect();
            prop_assert_eq!(missing, (2..total).filter(|&i| count(i) == 0).collect::<Vec<_>>());
        }
    }
}
