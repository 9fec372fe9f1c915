//! Biases of T5's attention by distance, in place of embeddings of positions.

use candle_core::{Result, Tensor};

use super::attention::Mask;

/// Which distances have one bias.
///
/// # Source
/// Raffel et al. 2020, section 2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelativeBuckets {
    /// Rows of the table of biases.
    pub count: usize,
    /// The distance from which on all have one bucket.
    pub max_distance: usize,
    /// Whether keys behind the query are seen; then half of the buckets are theirs, else they share the query's own.
    pub mask: Mask,
}

impl RelativeBuckets {
    /// Whether there are buckets for distances of their own and for ranges of them, and the ranges do not end before they
    /// begin.
    pub fn are_sound(self) -> bool {
        let exact = self.of_side() / 2;
        exact > 0 && self.max_distance > exact
    }

    /// Buckets of keys to one side of the query.
    fn of_side(self) -> usize {
        match self.mask {
            Mask::Causal => self.count,
            Mask::Bidirectional => self.count / 2,
        }
    }

    /// The bucket of a key at this place as seen from the query.
    ///
    /// Near keys have a bucket for each distance, farther ones share buckets of logarithmic width. The logarithm is
    /// taken in `f32`, as transformers does: at the edge of a bucket it decides.
    pub fn of(self, query: usize, key: usize) -> usize {
        let side = self.of_side();
        let (first, distance) = match self.mask {
            Mask::Causal => (0, query.saturating_sub(key)),
            Mask::Bidirectional => (if key > query { side } else { 0 }, query.abs_diff(key)),
        };
        let exact = side / 2;
        if distance < exact {
            return first + distance;
        }
        let range = (self.max_distance as f64 / exact as f64).ln() as f32;
        let along = (distance as f32 / exact as f32).ln() / range * (side - exact) as f32;
        first + (exact + along as usize).min(side - 1)
    }

    /// What is added to the scores of an example of `length` positions, `[H, T, T]`, from a table `[buckets, H]`.
    ///
    /// # Errors
    /// If the table has fewer rows than there are buckets.
    pub fn bias(self, table: &Tensor, length: usize) -> Result<Tensor> {
        let (_, heads) = table.dims2()?;
        let buckets: Vec<u32> = (0..length).flat_map(|i| (0..length).map(move |j| self.of(i, j) as u32)).collect();
        let buckets = Tensor::from_vec(buckets, length * length, table.device())?;
        table.index_select(&buckets, 0)?.t()?.contiguous()?.reshape((heads, length, length))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use candle_core::DType;

    use super::super::gradient_check::wave;
    use super::*;

    /// The first distance of each bucket, as `T5Attention._relative_position_bucket` of transformers 5.23 has them.
    #[test]
    fn buckets_begin_where_those_of_transformers_do() {
        for (count, max_distance, mask, first) in BUCKETS {
            let buckets = RelativeBuckets { count, max_distance, mask };
            assert!(buckets.are_sound());
            for distance in 0..300 {
                let want = first.iter().rposition(|&first| first <= distance).unwrap();
                // to the left, and to the right
                assert_eq!(buckets.of(distance, 0), want, "{count}, {max_distance}, {mask:?}, {distance}");
                let right = match mask {
                    Mask::Causal => 0,
                    Mask::Bidirectional if distance > 0 => want + count / 2,
                    Mask::Bidirectional => 0,
                };
                assert_eq!(buckets.of(0, distance), right, "{count}, {max_distance}, {mask:?}, {distance}");
            }
        }
        for (count, max_distance) in [(2, 128), (32, 8), (32, 16)] {
            let mask = if max_distance == 16 { Mask::Causal } else { Mask::Bidirectional };
            assert!(!RelativeBuckets { count, max_distance, mask }.are_sound());
        }
    }

    /// Each key's row of the table stands at its place.
    #[test]
    fn biases_are_the_rows_of_the_table() -> Result<()> {
        let table = wave(&[8, 3], 1)?;
        let rows = table.to_vec2::<f64>()?;
        for mask in [Mask::Causal, Mask::Bidirectional] {
            let buckets = RelativeBuckets { count: 8, max_distance: 20, mask };
            let bias = buckets.bias(&table, 5)?;
            assert_eq!((bias.dims(), bias.dtype()), (&[3, 5, 5][..], DType::F64));
            for (h, of_head) in bias.to_vec3::<f64>()?.iter().enumerate() {
                for (i, row) in of_head.iter().enumerate() {
                    for (j, &found) in row.iter().enumerate() {
                        assert_eq!(found, rows[buckets.of(i, j)][h], "{mask:?} [{h}, {i}, {j}]");
                    }
                }
            }
        }
        Ok(())
    }

    /// Buckets, largest distance, mask, and the first distance to the left of each bucket that has one.
    const BUCKETS: [(usize, usize, Mask, &[usize]); 5] = [
        (32, 128, Mask::Bidirectional, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]),
        (
            32,
            128,
            Mask::Causal,
            &[
                0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67,
                77, 87, 99, 113,
            ],
        ),
        (8, 20, Mask::Causal, &[0, 1, 2, 3, 4, 6, 9, 14]),
        (12, 50, Mask::Bidirectional, &[0, 1, 2, 3, 8, 20]),
        (32, 100, Mask::Bidirectional, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 21, 29, 39, 54, 73]),
    ];
}
