//! Shares of tokens in words: the tokens of a training example that add most to its score.

use crate::words;

/// Tokens that are named.
const NAMED: usize = 5;

/// The tokens with the largest shares, of either sign, with their numbers: "`ring` +0.012, `the` -0.003".
pub(crate) fn strongest<'a>(shares: impl Iterator<Item = (&'a str, f32)>) -> String {
    let mut shares: Vec<(&str, f32)> = shares.filter(|(_, share)| *share != 0.0).collect();
    shares.sort_by(|(_, a), (_, b)| b.abs().total_cmp(&a.abs()));
    let named = shares.iter().take(NAMED).map(|(text, share)| {
        let text = match text.trim() {
            "" => "␣",
            text => text,
        };
        format!("`{text}` {}", words::score(*share))
    });
    named.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::strongest;

    #[test]
    fn the_largest_of_either_sign_come_first() {
        let shares = [(" the", 0.5), (" ring", -2.0), ("\n", 1.0), ("s", 0.0)];
        assert_eq!(strongest(shares.into_iter()), "`ring` -2.000, `␣` +1.000, `the` +0.5000");
        assert_eq!(strongest([("a", 0.0)].into_iter()), "");
    }
}
