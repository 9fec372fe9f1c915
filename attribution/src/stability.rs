//! How sure a ranking is: how far its scores and its order stay in variants of the same scores.

/// How much of one side of a ranking stays in its variants.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// For each variant, the share of the listed examples that are among as many of its strongest; 1 if nothing is
    /// listed.
    pub kept: Vec<f64>,
    /// The first so many examples are among as many strongest as are listed in every variant; the next one, if there
    /// is a next one, is not.
    pub stable: usize,
}

/// The lowest and the highest of a score and its variants.
pub fn interval(score: f32, variants: impl IntoIterator<Item = f32>) -> [f32; 2] {
    variants.into_iter().fold([score; 2], |[low, high], other| [low.min(other), high.max(other)])
}

/// Compares `listed`, the strongest examples of one sign with their scores, strongest first, with those of each variant.
/// Of each variant its strongest `listed.len()` examples count, or all if it has fewer of that sign.
pub fn of_side(listed: &[(usize, f32)], variants: &[&[(usize, f32)]]) -> Side {
    of_kept(&variants.iter().map(|variant| is_kept(listed, variant)).collect::<Vec<_>>())
}

/// Whether each of the listed examples is among as many of a variant's strongest.
pub fn is_kept(listed: &[(usize, f32)], variant: &[(usize, f32)]) -> Vec<bool> {
    let strongest = &variant[..variant.len().min(listed.len())];
    listed.iter().map(|(example, _)| strongest.iter().any(|(other, _)| other == example)).collect()
}

/// From whether each variant has each of the listed examples among as many strongest: `[variants][listed]`.
pub fn of_kept(kept: &[Vec<bool>]) -> Side {
    let listed = kept.first().map_or(0, Vec::len);
    let share = |of: &Vec<bool>| {
        let kept = of.iter().filter(|kept| **kept).count();
        if listed == 0 { 1.0 } else { kept as f64 / listed as f64 }
    };
    let is_stable = |example: &usize| kept.iter().all(|of| of[*example]);
    Side { kept: kept.iter().map(share).collect(), stable: (0..listed).take_while(is_stable).count() }
}

/// One variant's scores for a query, of some of all examples, with the sign that makes the strongest the largest.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Scores of the examples that are strong without the variant.
    pub strong: &'a [f32],
    /// Scores of a random sample of all other examples.
    pub control: &'a [f32],
    /// How many other examples there are, the sample among them.
    pub others: usize,
}

impl Known<'_> {
    /// Whether an example with this score is among the `k` strongest of all, none of which has a score of 0 or less: by
    /// how many of the strong ones are stronger, and how many of the others are if these are like their sample.
    pub fn lists(&self, score: f32, k: usize) -> bool {
        let stronger = |of: &[f32]| of.iter().filter(|other| **other > score).count() as f64;
        let each = self.others as f64 / self.control.len().max(1) as f64;
        score > 0.0 && stronger(self.strong) + each * stronger(self.control) < k as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_holds_the_score_and_its_variants() {
        assert_eq!(interval(2.0, [1.5, 2.5, -0.25]), [-0.25, 2.5]);
        assert_eq!(interval(2.0, [2.5]), [2.0, 2.5]);
        assert_eq!(interval(-1.0, []), [-1.0, -1.0]);
    }

    #[test]
    fn an_example_is_stable_if_every_variant_lists_it_among_as_many() {
        let listed = [(7, 4.0), (3, 3.0), (5, 2.0), (1, 1.0)];
        // the second lists 1 too late, and has fewer examples of this sign in the last
        let same = [(3, 9.0), (7, 8.0), (1, 7.0), (5, 6.0)];
        let other = [(7, 9.0), (3, 8.0), (9, 7.0), (8, 6.0), (1, 5.0)];
        let few = [(3, 1.0), (7, 0.5), (1, 0.25)];
        let side = of_side(&listed, &[&same, &other, &few]);
        assert_eq!(side, Side { kept: vec![1.0, 0.5, 0.75], stable: 2 });
        assert_eq!(of_side(&listed, &[&same]).stable, 4);
        assert_eq!(of_side(&[], &[&same]), Side { kept: vec![1.0], stable: 0 });
    }

    /// With all examples known, an example is listed as it is in the order of all; a stronger example of the sample
    /// stands for as many as there are for each of it.
    #[test]
    fn what_a_sample_shows_counts_for_all_that_it_is_drawn_from() {
        let all = Known { strong: &[5.0, 1.0, 3.0, -2.0], control: &[4.0, 0.5], others: 2 };
        let lists = |known: &Known<'_>, k| [5.0, 4.0, 3.0, 1.0].map(|score| known.lists(score, k));
        assert_eq!(lists(&all, 3), [true, true, true, false]);
        let sampled = Known { others: 20, ..all };
        // the stronger one of the two stands for ten
        assert_eq!(lists(&sampled, 3), [true, true, false, false]);
        assert_eq!(lists(&sampled, 12), [true, true, true, false]);
        let unknown = Known { control: &[], ..sampled };
        assert_eq!(lists(&unknown, 2), [true, true, true, false]);
        assert!(!unknown.lists(-2.0, 10), "of the other sign");
    }
}
