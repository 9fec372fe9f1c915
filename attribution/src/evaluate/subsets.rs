//! Subsets of the training set on which a model is retrained.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

use ascribe_curvature::LabelDraw;
use ascribe_curvature::random::{stream, uniforms, words};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::EvaluateError;
use super::tensors::TensorFile;

/// Bytes of the largest mask that is drawn: a file that people still move around.
const LARGEST_MASK: usize = 1 << 33;

/// The tensor of removed examples.
const REMOVED: &str = "removed";

/// The tensor of the scores' row that each removal is of.
pub(super) const QUERY: &str = "query";

/// What a 1 in a mask file says. Elsewhere in this crate it always says *kept*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaskMeaning {
    /// The example was in the training set of the retrained model.
    #[default]
    Kept,
    /// The example was left out.
    Removed,
}

/// Which training examples each retrained model saw.
///
/// # Shapes
/// `mask`: `[J, N]`, row-major; 1 = the example was kept, 0 = left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subsets {
    mask: Vec<u8>,
    count: usize,
    examples: usize,
}

impl Subsets {
    /// From a mask `[count, examples]` of kept examples.
    ///
    /// # Errors
    /// [`EvaluateError::Length`] if the mask has another size, [`EvaluateError::MaskValue`] if it holds
    /// anything but 0 and 1.
    pub fn new(mask: Vec<u8>, count: usize, examples: usize) -> Result<Self, EvaluateError> {
        Self::checked("the mask".to_owned(), mask, count, examples)
    }

    fn checked(origin: String, mask: Vec<u8>, count: usize, examples: usize) -> Result<Self, EvaluateError> {
        let expected = count.saturating_mul(examples);
        if mask.len() != expected {
            let shape = vec![count, examples];
            return Err(EvaluateError::Length { what: "the subset mask", found: mask.len(), expected, shape });
        }
        if let Some(at) = mask.iter().position(|&value| value > 1) {
            let (subset, example) = (at / examples, at % examples);
            return Err(EvaluateError::MaskValue { origin, subset, example, value: mask[at] });
        }
        Ok(Self { mask, count, examples })
    }

    /// Draws `count` subsets of exactly `⌊share · examples⌋` examples, each by a partial Fisher-Yates
    /// shuffle. Subset `j` depends on the seed and `j` alone, so that more subsets can be drawn later.
    ///
    /// Step `i` of subset `j` swaps place `i` with place `i + ⌊u · (N − i)⌋`, where `u` is the first
    /// uniform of counter (position `i`, example `j`) in the stream `SUBSETS`.
    ///
    /// # Errors
    /// [`EvaluateError::Share`] if a subset would be empty or the whole set, [`EvaluateError::MaskSize`] for more
    /// than 8 GiB of mask.
    pub fn draw(examples: usize, count: usize, share: f64, seed: u64) -> Result<Self, EvaluateError> {
        // 0.29 · 100 is 28.999999999999996; a rounding error must not cost an example.
        let kept = (share * examples as f64 + 1e-9).floor() as usize;
        if !(share > 0.0 && share < 1.0) || kept == 0 || kept >= examples || u32::try_from(examples).is_err() {
            return Err(EvaluateError::Share { share, examples, kept });
        }
        let size = count.checked_mul(examples).filter(|&size| size <= LARGEST_MASK);
        let size = size.ok_or(EvaluateError::MaskSize { count, examples, largest: LARGEST_MASK })?;
        let draw = LabelDraw { seed, stream: stream::SUBSETS, draw: 0 };
        let mut mask = vec![0; size];
        for (j, row) in mask.chunks_exact_mut(examples).enumerate() {
            let mut places: Vec<u32> = (0..examples as u32).collect();
            for i in 0..kept {
                let (u, _) = uniforms(words(draw, j as u64, i as u32, 0));
                places.swap(i, i + (u * (examples - i) as f64) as usize);
                row[places[i] as usize] = 1;
            }
        }
        Ok(Self { mask, count, examples })
    }

    /// Reads the tensor `mask` (`U8` or `BOOL`, `[J, N]`) of a safetensors file.
    ///
    /// # Errors
    /// A file that cannot be read, by its name; [`EvaluateError::EmptyMask`] for a row that keeps nothing.
    pub fn read(path: &Path, meaning: MaskMeaning) -> Result<Self, EvaluateError> {
        let file = TensorFile::read(path)?;
        let mask = file.bytes("mask")?;
        let &[count, examples] = mask.shape.as_slice() else {
            return Err(file.shape_error("mask", &mask.shape, "[subsets, training examples]"));
        };
        let mut subsets = Self::checked(path.display().to_string(), mask.values, count, examples)?;
        if meaning == MaskMeaning::Removed {
            subsets = subsets.turned_over();
        }
        if let Some(subset) = (0..count).find(|&j| subsets.kept(j).is_empty()) {
            let origin = path.display().to_string();
            return Err(EvaluateError::EmptyMask { origin, subset, what: "keeps no example" });
        }
        Ok(subsets)
    }

    /// Subsets that each lack `⌊share · examples⌋` examples, which are drawn as those of [`draw`](Self::draw).
    ///
    /// # Errors
    /// As [`draw`](Self::draw).
    pub fn draw_removals(examples: usize, count: usize, share: f64, seed: u64) -> Result<Self, EvaluateError> {
        Ok(Self::draw(examples, count, share, seed)?.turned_over())
    }

    /// Subsets that lack the examples of these lists.
    ///
    /// # Errors
    /// [`EvaluateError::Example`] for an index outside or named twice in a list.
    pub fn without(removed: &[Vec<usize>], examples: usize) -> Result<Self, EvaluateError> {
        let mut mask = vec![1; removed.len() * examples];
        for (list, row) in removed.iter().zip(mask.chunks_exact_mut(examples.max(1))) {
            for &example in list {
                match row.get_mut(example) {
                    Some(kept) if *kept == 1 => *kept = 0,
                    Some(_) => return Err(EvaluateError::Example { example, problem: "is named twice", examples }),
                    None => return Err(EvaluateError::Example { example, problem: "is outside the scores", examples }),
                }
            }
        }
        Ok(Self { mask, count: removed.len(), examples })
    }

    fn turned_over(mut self) -> Self {
        self.mask.iter_mut().for_each(|value| *value = 1 - *value);
        self
    }

    /// Reads the tensor `removed` (`U8` or `BOOL`, `[J, N]`, 1 = left out) of a safetensors file.
    ///
    /// # Errors
    /// A file that cannot be read, by its name; [`EvaluateError::EmptyMask`] for a row that removes nothing or everything.
    pub fn read_removals(path: &Path) -> Result<Self, EvaluateError> {
        let file = TensorFile::read(path)?;
        let mask = file.bytes(REMOVED)?;
        let &[count, examples] = mask.shape.as_slice() else {
            return Err(file.shape_error(REMOVED, &mask.shape, "[removals, training examples]"));
        };
        let origin = path.display().to_string();
        let removals = Self::checked(origin.clone(), mask.values, count, examples)?;
        for subset in 0..count {
            let removed = removals.kept(subset).len();
            if removed == 0 || removed == examples {
                let what = if removed == 0 { "removes no example" } else { "removes every example" };
                return Err(EvaluateError::EmptyMask { origin, subset, what });
            }
        }
        Ok(removals.turned_over())
    }

    /// Writes the file that [`read`](Self::read) reads, by a temporary file beside it and a rename.
    ///
    /// # Errors
    /// [`EvaluateError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), EvaluateError> {
        let mask = (&self.mask[..], "mask", "1 = the training example is kept");
        self.write_tensors(path, mask, None)
    }

    /// Writes the file that [`read_removals`](Self::read_removals) reads; `query` is the row of the scores that each
    /// removal is of, where every query has its own.
    ///
    /// # Errors
    /// [`EvaluateError::Io`].
    pub fn write_removals(&self, path: &Path, query: Option<&[i64]>) -> Result<(), EvaluateError> {
        let removed = self.clone().turned_over().mask;
        self.write_tensors(path, (&removed, REMOVED, "1 = the training example is left out"), query)
    }

    fn write_tensors(
        &self,
        path: &Path,
        (mask, name, meaning): (&[u8], &str, &str),
        query: Option<&[i64]>,
    ) -> Result<(), EvaluateError> {
        let write = || -> std::io::Result<()> {
            let query: Option<Vec<u8>> = query.map(|query| query.iter().flat_map(|q| q.to_le_bytes()).collect());
            let view = |dtype, shape, bytes| TensorView::new(dtype, shape, bytes).map_err(std::io::Error::other);
            let mut tensors = vec![(name, view(Dtype::U8, vec![self.count, self.examples], mask)?)];
            if let Some(query) = &query {
                tensors.push((QUERY, view(Dtype::I64, vec![self.count], query)?));
            }
            // One entry only: several would be written in the arbitrary order of a hash map.
            let meaning = HashMap::from([(name.to_owned(), meaning.to_owned())]);
            let bytes = safetensors::serialize(tensors, Some(meaning)).map_err(std::io::Error::other)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|source| EvaluateError::Io { file: path.to_owned(), doing: "write", source })
    }

    /// J, the number of subsets.
    pub fn count(&self) -> usize {
        self.count
    }

    /// N, the number of training examples they are subsets of.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// `[J, N]`, row-major, 1 = kept.
    pub fn mask(&self) -> &[u8] {
        &self.mask
    }

    /// The kept examples of subset `j`, ascending.
    ///
    /// # Panics
    /// If there is no subset `j`.
    pub fn kept(&self, j: usize) -> Vec<usize> {
        let row = &self.mask[j * self.examples..(j + 1) * self.examples];
        (0..self.examples).filter(|&m| row[m] == 1).collect()
    }

    /// The examples that subset `j` lacks, ascending.
    ///
    /// # Panics
    /// If there is no subset `j`.
    pub fn removed(&self, j: usize) -> Vec<usize> {
        let row = &self.mask[j * self.examples..(j + 1) * self.examples];
        (0..self.examples).filter(|&m| row[m] == 0).collect()
    }

    /// Sizes of the smallest and the largest subset; `(0, 0)` without subsets. Sizes that vary add a
    /// correlation that no method earned.
    pub fn sizes(&self) -> (usize, usize) {
        let sizes = (0..self.count).map(|j| {
            let row = &self.mask[j * self.examples..(j + 1) * self.examples];
            row.iter().map(|&kept| usize::from(kept)).sum::<usize>()
        });
        sizes
            .fold(None, |range, n| match range {
                None => Some((n, n)),
                Some((low, high)) => Some((n.min(low), n.max(high))),
            })
            .unwrap_or((0, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_size_and_depend_on_seed_and_number_alone() {
        let drawn = Subsets::draw(101, 40, 0.5, 7).expect("half of 101");
        assert_eq!(drawn.sizes(), (50, 50));
        let more = Subsets::draw(101, 41, 0.5, 7).expect("half of 101");
        assert_eq!(drawn.mask(), &more.mask()[..40 * 101]);
        assert_ne!(drawn, Subsets::draw(101, 40, 0.5, 8).expect("another seed"));
        assert_eq!(Subsets::draw(100, 1, 0.29, 0).expect("29 of 100").sizes(), (29, 29));
    }

    #[test]
    fn every_example_is_kept_about_as_often() {
        let (n, count) = (20, 4000);
        let drawn = Subsets::draw(n, count, 0.3, 1).expect("6 of 20");
        for m in 0..n {
            let kept = (0..count).filter(|j| drawn.mask()[j * n + m] == 1).count() as f64;
            // Binomial with p = 0.3: five standard deviations.
            let (mean, sd) = (0.3 * count as f64, (0.21 * count as f64).sqrt());
            assert!((kept - mean).abs() < 5.0 * sd, "example {m} is kept {kept} times");
        }
    }

    #[test]
    fn the_rule_of_drawing_is_the_documented_one() {
        let drawn = Subsets::draw(9, 3, 0.5, 5).expect("4 of 9");
        let draw = LabelDraw { seed: 5, stream: 5, draw: 0 };
        let mut places: Vec<usize> = (0..9).collect();
        for i in 0..4 {
            let (u, _) = uniforms(words(draw, 2, i as u32, 0));
            places.swap(i, i + (u * (9 - i) as f64).floor() as usize);
        }
        let mut kept = places[..4].to_vec();
        kept.sort_unstable();
        assert_eq!(drawn.kept(2), kept);
    }

    #[test]
    fn shares_that_leave_nothing_or_everything_are_refused() {
        for (examples, share) in [(10, 0.0), (10, 1.0), (10, 0.05), (10, f64::NAN), (10, -0.5), (0, 0.5)] {
            let error = Subsets::draw(examples, 3, share, 0).expect_err("no subset");
            assert!(matches!(error, EvaluateError::Share { .. }), "{share}: {error}");
        }
    }

    #[test]
    fn files_round_trip_and_a_mask_of_removed_examples_is_turned_over() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("subsets.safetensors");
        let drawn = Subsets::draw(11, 3, 0.4, 3).expect("4 of 11");
        drawn.write(&path).expect("writable");
        let first = std::fs::read(&path).expect("written");
        assert_eq!(Subsets::read(&path, MaskMeaning::Kept).expect("readable"), drawn);
        let removed = Subsets::read(&path, MaskMeaning::Removed).expect("readable");
        assert_eq!((removed.sizes(), drawn.sizes()), ((7, 7), (4, 4)));
        assert!(removed.mask().iter().zip(drawn.mask()).all(|(r, k)| r + k == 1));
        drawn.write(&path).expect("writable");
        assert_eq!(std::fs::read(&path).expect("written"), first, "the same bytes each time");
    }

    #[test]
    fn removals_are_drawn_written_and_read_as_what_is_left() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("removals.safetensors");
        let removals = Subsets::draw_removals(101, 3, 0.02, 9).expect("2 of 101");
        let drawn = Subsets::draw(101, 3, 0.02, 9).expect("2 of 101");
        assert!(removals.mask().iter().zip(drawn.mask()).all(|(kept, removed)| kept + removed == 1));
        removals.write_removals(&path, Some(&[4, 0, 2])).expect("writable");
        assert_eq!(Subsets::read_removals(&path).expect("readable"), removals);
        let file = TensorFile::read(&path).expect("readable");
        assert_eq!(file.integers(QUERY).expect("whole numbers").expect("is there").values, [4, 0, 2]);
        assert_eq!(file.bytes("removed").expect("a mask").values, drawn.mask());
        let named = Subsets::without(&[vec![3, 0], vec![1]], 4).expect("lists");
        assert_eq!(named.mask(), [0, 1, 1, 0, 1, 0, 1, 1]);
        assert!(Subsets::without(&[vec![4]], 4).is_err() && Subsets::without(&[vec![1, 1]], 4).is_err());
        let many = Subsets::draw(1 << 20, 1 << 20, 0.5, 0).expect_err("a terabyte");
        assert!(matches!(many, EvaluateError::MaskSize { .. }), "{many}");
    }

    #[test]
    fn broken_masks_are_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("s.safetensors");
        let write = |name: &str, shape: Vec<usize>, data: &[u8]| {
            let view = TensorView::new(Dtype::U8, shape, data).expect("shape and data agree");
            std::fs::write(&path, safetensors::serialize([(name, view)], None).expect("serializable"))
                .expect("writable");
            let error = Subsets::read(&path, MaskMeaning::Kept).expect_err("broken");
            error.to_string().replace(&path.display().to_string(), "FILE")
        };
        assert_eq!(write("kept", vec![1, 2], &[0, 1]), "FILE: no tensor `mask`; the file has `kept`");
        assert_eq!(
            write("mask", vec![2], &[0, 1]),
            "FILE: `mask` has the shape [2], expected [subsets, training examples]"
        );
        assert_eq!(
            write("mask", vec![2, 2], &[0, 1, 1, 7]),
            "FILE: the mask of subset 1 holds 7 at example 1, expected 0 or 1"
        );
        assert_eq!(write("mask", vec![2, 2], &[1, 0, 0, 0]), "FILE: row 1 of the mask keeps no example");
        let removals = |data: &[u8]| {
            let view = TensorView::new(Dtype::U8, vec![2, 2], data).expect("shape and data agree");
            std::fs::write(&path, safetensors::serialize([("removed", view)], None).expect("serializable"))
                .expect("writable");
            let error = Subsets::read_removals(&path).expect_err("broken");
            error.to_string().replace(&path.display().to_string(), "FILE")
        };
        assert_eq!(removals(&[0, 0, 1, 0]), "FILE: row 0 of the mask removes no example");
        assert_eq!(removals(&[0, 1, 1, 1]), "FILE: row 1 of the mask removes every example");
        std::fs::write(&path, b"not a tensor file").expect("writable");
        let error = Subsets::read(&path, MaskMeaning::Kept).expect_err("no header");
        assert!(matches!(error, EvaluateError::Safetensors { .. }), "{error}");
    }
}
