//! Shares of tokens in words: those that add most to a score.

use crate::words;

/// Tokens that are named.
const NAMED: usize = 5;

/// The tokens with the largest shares, of either sign, with their numbers: "`ring` +0.012, `the` -0.003".
pub(crate) fn strongest<'a>(shares: impl Iterator<Item = (&'a str, f32)>) -> String {
    let mut shares: Vec<(&str, f32)> = shares.filter(|(_, share)| *share != 0.0).collect();
    shares.sort_by(|(_, a), (_, b)| b.abs().total_cmp(&a.abs()));
    let named = shares.iter().take(NAMED).map(|(text, share)| format!("`{}` {}", seen(text), words::score(*share)));
    named.collect::<Vec<_>>().join(", ")
}

/// Pairs of a query's target and a token of a training example with their numbers: "`ring` from `gold` +0.012".
pub(crate) fn pairs<'a>(shares: impl Iterator<Item = (&'a str, &'a str, f32)>) -> String {
    let named = shares
        .take(NAMED)
        .map(|(target, token, share)| format!("`{}` from `{}` {}", seen(target), seen(token), words::score(share)));
    named.collect::<Vec<_>>().join(", ")
}

/// A token without the spaces around it, if it is more than these.
pub(crate) fn seen(text: &str) -> &str {
    match text.trim() {
        "" => "␣",
        text => text,
    }
}

#[cfg(test)]
mod tests {
    use super::{pairs, strongest};

    #[test]
    fn the_largest_of_either_sign_come_first() {
        let shares = [(" the", 0.5), (" ring", -2.0), ("\n", 1.0), ("s", 0.0)];
        assert_eq!(strongest(shares.into_iter()), "`ring` -2.000, `␣` +1.000, `the` +0.5000");
        assert_eq!(strongest([("a", 0.0)].into_iter()), "");
        let both = [(" ring", " gold", 0.5), ("\n", " a", -0.25)];
        assert_eq!(pairs(both.into_iter()), "`ring` from `gold` +0.5000, `␣` from `a` -0.2500");
    }
}
