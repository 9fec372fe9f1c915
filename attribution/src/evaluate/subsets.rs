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
    /// [`EvaluateError::Share`] if a subset would be empty or the whole set.
    pub fn draw(examples: usize, count: usize, share: f64, seed: u64) -> Result<Self, EvaluateError> {
        // 0.29 · 100 is 28.999999999999996; a rounding error must not cost an example.
        let kept = (share * examples as f64 + 1e-9).floor() as usize;
        if !(share > 0.0 && share < 1.0) || kept == 0 || kept >= examples || u32::try_from(examples).is_err() {
            return Err(EvaluateError::Share { share, examples, kept });
        }
        let draw = LabelDraw { seed, stream: stream::SUBSETS, draw: 0 };
        let mut mask = vec![0; count * examples];
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
    /// Those of the file, each naming it.
    pub fn read(path: &Path, meaning: MaskMeaning) -> Result<Self, EvaluateError> {
        let file = TensorFile::read(path)?;
        let mask = file.bytes("mask")?;
        let &[count, examples] = mask.shape.as_slice() else {
            return Err(file.shape_error("mask", &mask.shape, "[subsets, training examples]"));
        };
        let mut subsets = Self::checked(path.display().to_string(), mask.values, count, examples)?;
        if meaning == MaskMeaning::Removed {
            subsets.mask.iter_mut().for_each(|value| *value = 1 - *value);
        }
        Ok(subsets)
    }

    /// Writes the file that [`read`](Self::read) reads, by a temporary file beside it and a rename.
    ///
    /// # Errors
    /// [`EvaluateError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), EvaluateError> {
        let write = || -> std::io::Result<()> {
            let mask = TensorView::new(Dtype::U8, vec![self.count, self.examples], &self.mask)
                .map_err(std::io::Error::other)?;
            // One entry only: several would be written in the arbitrary order of a hash map.
            let meaning = HashMap::from([("mask".to_owned(), "1 = the training example is kept".to_owned())]);
            let bytes = safetensors::serialize([("mask", mask)], Some(meaning)).map_err(std::io::Error::other)?;
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
        std::fs::write(&path, b"not a tensor file").expect("writable");
        let error = Subsets::read(&path, MaskMeaning::Kept).expect_err("no header");
        assert!(matches!(error, EvaluateError::Safetensors { .. }), "{error}");
    }
}
