//! Which row of the table of relative positions the distance between two tokens has.

/// The distances that rows of a table stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelativeDistances {
    /// Distances to one side, where those beyond half of them share buckets of logarithmic width; none: each distance has
    /// a row of its own.
    pub buckets: Option<usize>,
    /// The distance from which on all have the last row.
    pub max_distance: usize,
}

impl RelativeDistances {
    /// Whether the buckets do not end before they begin.
    pub fn are_sound(self) -> bool {
        self.max_distance > 0 && self.buckets.is_none_or(|buckets| buckets >= 2 && self.max_distance - 1 > buckets / 2)
    }

    /// Rows of the table, for both sides.
    pub fn rows(self) -> usize {
        2 * self.of_side()
    }

    /// Rows of the table for distances to one side.
    fn of_side(self) -> usize {
        self.buckets.unwrap_or(self.max_distance)
    }

    /// The row of a distance, query's place minus key's.
    ///
    /// Logarithms are taken in `f32`, as transformers does: at the edge of a bucket it decides.
    pub fn row(self, distance: isize) -> usize {
        let bucket = match self.buckets {
            None => distance,
            Some(buckets) => {
                let (middle, far) = (buckets / 2, distance.unsigned_abs());
                if far <= middle {
                    distance
                } else {
                    let range = (self.max_distance - 1) as f64 / middle as f64;
                    let along = (far as f32 / middle as f32).ln() / (range as f32).ln() * (middle - 1) as f32;
                    distance.signum() * (along.ceil() + middle as f32) as isize
                }
            }
        };
        let side = self.of_side() as isize;
        (bucket + side).clamp(0, 2 * side - 1) as usize
    }

    /// The rows that an example of `length` tokens reaches, and which of them each distance has.
    pub(super) fn reach(self, length: usize) -> Reach {
        let farthest = length.saturating_sub(1) as isize;
        let of_distances: Vec<u32> = if length == 0 {
            vec![]
        } else {
            (-farthest..=farthest).map(|distance| self.row(distance) as u32).collect()
        };
        let mut rows = of_distances.clone();
        rows.sort_unstable();
        rows.dedup();
        let places = of_distances.iter().map(|row| rows.partition_point(|other| other < row) as u32).collect();
        Reach { rows, places }
    }
}

/// The rows of the table that examples of one length reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reach {
    /// Rows of the table, ascending.
    pub(super) rows: Vec<u32>,
    /// Which of them each distance has, from `-(T - 1)` to `T - 1`.
    pub(super) places: Vec<u32>,
}

impl Reach {
    /// Which of the rows query `i` of `length` tokens has with each key, in the order of the keys.
    pub(super) fn of_query(&self, i: usize, length: usize) -> impl Iterator<Item = usize> + Clone + '_ {
        self.places[i..i + length].iter().rev().map(|&place| place as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The distance at which each bucket beyond the middle begins, as `make_log_bucket_position` of transformers 5.24 has
    /// them; the last row of the table holds all that is farther.
    #[test]
    fn buckets_begin_where_those_of_transformers_do() {
        for (buckets, max_distance, first) in BUCKETS {
            let distances = RelativeDistances { buckets: Some(buckets), max_distance };
            assert!(distances.are_sound());
            let middle = buckets / 2;
            for distance in 0..1200usize {
                let want = match distance <= middle {
                    true => distance,
                    false => middle + first.iter().filter(|&&first| first <= distance).count(),
                };
                let (near, far) = (buckets as isize + want as isize, buckets as isize - want as isize);
                let last = 2 * buckets as isize - 1;
                let found = distances.row(distance as isize) as isize;
                assert_eq!(found, near.min(last), "{buckets}, {max_distance}, {distance}");
                let found = distances.row(-(distance as isize)) as isize;
                assert_eq!(found, far.max(0), "{buckets}, {max_distance}, -{distance}");
            }
        }
    }

    #[test]
    fn distances_without_buckets_have_a_row_each() {
        let distances = RelativeDistances { buckets: None, max_distance: 4 };
        let rows: Vec<usize> = (-6..=6).map(|distance| distances.row(distance)).collect();
        assert_eq!(rows, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7]);
        let reach = distances.reach(3);
        assert_eq!((reach.rows.as_slice(), reach.places.as_slice()), (&[2, 3, 4, 5, 6][..], &[0, 1, 2, 3, 4][..]));
        // query 2 sees the keys at the distances 2, 1 and 0
        assert_eq!(reach.of_query(2, 3).collect::<Vec<_>>(), [4, 3, 2]);
        assert_eq!(distances.reach(0), Reach { rows: vec![], places: vec![] });
        assert_eq!(distances.reach(9).rows, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn buckets_that_end_before_they_begin_are_not_sound() {
        for (buckets, max_distance) in [(Some(1), 8), (Some(8), 5), (Some(2), 2), (None, 0), (Some(4), 0)] {
            assert!(!RelativeDistances { buckets, max_distance }.are_sound(), "{buckets:?} {max_distance}");
        }
    }

    /// Buckets to one side, largest distance, and the first distance of each bucket beyond the middle.
    const BUCKETS: [(usize, usize, &[usize]); 7] = [
        (
            256,
            512,
            &[
                129, 130, 131, 133, 134, 136, 137, 139, 140, 142, 143, 145, 146, 148, 150, 151, 153, 155, 156, 158,
                160, 161, 163, 165, 167, 169, 170, 172, 174, 176, 178, 180, 182, 184, 186, 188, 190, 192, 194, 196,
                198, 201, 203, 205, 207, 210, 212, 214, 216, 219, 221, 224, 226, 229, 231, 234, 236, 239, 241, 244,
                247, 249, 252, 255, 258, 260, 263, 266, 269, 272, 275, 278, 281, 284, 287, 290, 294, 297, 300, 303,
                307, 310, 313, 317, 320, 324, 327, 331, 335, 338, 342, 346, 349, 353, 357, 361, 365, 369, 373, 377,
                381, 385, 390, 394, 398, 403, 407, 411, 416, 420, 425, 430, 434, 439, 444, 449, 454, 459, 464, 469,
                474, 479, 484, 490, 495, 500, 506, 512, 517,
            ],
        ),
        (32, 128, &[17, 19, 22, 25, 28, 32, 37, 43, 49, 56, 64, 74, 84, 97, 111, 128, 146]),
        (8, 20, &[5, 7, 12, 20, 32]),
        (7, 30, &[4, 10, 30, 91, 281]),
        (4, 64, &[3, 64]),
        (
            64,
            512,
            &[
                33, 35, 39, 42, 46, 51, 55, 60, 66, 72, 79, 86, 94, 103, 112, 123, 134, 147, 160, 175, 192, 210, 229,
                250, 274, 299, 327, 358, 391, 428, 468, 512, 559,
            ],
        ),
        (2, 9, &[]),
    ];
}
