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
    let k = listed.len();
    let is_in = |example: usize, variant: &[(usize, f32)]| variant.iter().take(k).any(|&(other, _)| other == example);
    let share = |variant: &&[(usize, f32)]| {
        let kept = listed.iter().filter(|&&(example, _)| is_in(example, variant)).count();
        if k == 0 { 1.0 } else { kept as f64 / k as f64 }
    };
    let is_stable = |&&(example, _): &&(usize, f32)| variants.iter().all(|variant| is_in(example, variant));
    Side { kept: variants.iter().map(share).collect(), stable: listed.iter().take_while(is_stable).count() }
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
}
