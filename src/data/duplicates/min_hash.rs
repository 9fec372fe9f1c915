//! MinHash in bands: which pairs of sets are worth comparing.

/// Permutations of all bands together: more find pairs no better than one can tell, and cost time.
const MOST_PERMUTATIONS: usize = 192;

/// A pair whose similarity is the threshold itself is missed once in so many.
const MISSED_ONCE_IN: f64 = 1e4;

/// How signatures are cut: two sets are candidates if all rows of one band are equal.
///
/// # Source
/// Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*, 3.4: a pair of similarity `s` is a candidate with
/// probability `1 - (1 - s^rows)^bands`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bands {
    /// Bands.
    pub(super) bands: usize,
    /// Permutations of each.
    pub(super) rows: usize,
}

impl Bands {
    /// The longest bands, and so the fewest pairs that are compared for nothing, with which a pair at the threshold is
    /// missed at most once in 10,000 times, within 192 permutations.
    pub(super) fn at(threshold: f64) -> Self {
        let of_rows = |rows: usize| {
            let bands = (MISSED_ONCE_IN.ln() / -(-threshold.powi(rows as i32)).ln_1p()).ceil();
            Self { bands: bands as usize, rows }
        };
        let fits = |of: &Self| of.bands * of.rows <= MOST_PERMUTATIONS;
        (1..=MOST_PERMUTATIONS)
            .map(of_rows)
            .take_while(fits)
            .last()
            .unwrap_or(Self { bands: MOST_PERMUTATIONS, rows: 1 })
    }

    /// How likely a pair of this similarity is compared.
    #[cfg(test)]
    pub(super) fn found(self, similarity: f64) -> f64 {
        1.0 - (1.0 - similarity.powi(self.rows as i32)).powi(self.bands as i32)
    }
}

/// Random permutations of 32-bit numbers, one for each row of each band: `x → a x + b` with odd `a`, of numbers that are
/// hashes already. The same ones in every run.
#[derive(Debug)]
pub(super) struct Permutations {
    of: Bands,
    factors: Vec<u32>,
    terms: Vec<u32>,
}

impl Permutations {
    pub(super) fn new(of: Bands) -> Self {
        let drawn = |stream: u64| move |k: usize| (mixed(stream + k as u64) >> 32) as u32;
        let count = of.bands * of.rows;
        Self {
            of,
            factors: (0..count).map(drawn(1 << 40)).map(|factor| factor | 1).collect(),
            terms: (0..count).map(drawn(2 << 40)).collect(),
        }
    }

    /// A number for each of the bands `first..first + out.len()`, of a set of hashes: equal if all rows of the band are.
    ///
    /// `least` is room for the signature.
    pub(super) fn band_keys(
        &self,
        hashes: impl Iterator<Item = u32>,
        first: usize,
        least: &mut Vec<u32>,
        out: &mut [u64],
    ) {
        let rows = first * self.of.rows..(first + out.len()) * self.of.rows;
        let (factors, terms) = (&self.factors[rows.clone()], &self.terms[rows.clone()]);
        least.clear();
        least.resize(rows.len(), u32::MAX);
        for hash in hashes {
            for ((least, factor), term) in least.iter_mut().zip(factors).zip(terms) {
                *least = (*least).min(hash.wrapping_mul(*factor).wrapping_add(*term));
            }
        }
        for (key, band) in out.iter_mut().zip(least.chunks_exact(self.of.rows)) {
            *key = band.iter().fold(0, |key, &row| mixed(key ^ u64::from(row)));
        }
    }
}

/// A hash of a number, all of whose bits depend on all of its bits.
///
/// # Source
/// Steele, Lea, Flood 2014, SplitMix64.
pub(super) fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
