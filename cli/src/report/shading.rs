//! The tokens of a training example, or the targets of a query, shaded by what each adds to a score.
//!
//! Shades are relative to the card's largest share. A token whose share has a shade says its number too, and neighbours
//! without one are joined, so that a page stays small. Of a long text the tokens around the largest share are shown.

use serde::Serialize;

use super::plot::{shade, shade_class};
use super::stored::{StoredQueryToken, StoredToken};
use super::text::piece;
use crate::token_shares::{seen, strongest};
use crate::words;

/// A text by its tokens.
#[derive(Debug, Serialize)]
pub(crate) struct ShadedText {
    pub(crate) pieces: Vec<Piece>,
    /// The tokens that add most, with their numbers.
    pub(crate) strongest: String,
    /// What belongs to no token alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rest: Option<String>,
    /// Tokens before and behind those that are shown.
    pub(crate) hidden: usize,
}

/// Neighbouring tokens without a shade, or one with.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// The shade, empty if there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) class: String,
    /// What it adds.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) share: String,
}

impl ShadedText {
    /// At most `room` tokens, those around the largest share.
    pub(super) fn of(tokens: &[StoredToken], rest: Option<f32>, room: usize) -> Self {
        let largest = tokens.iter().map(|token| token.share.abs()).fold(0.0, f32::max);
        let place = tokens.iter().position(|token| token.share.abs() == largest).unwrap_or(0);
        let start = place.saturating_sub(room / 2).min(tokens.len().saturating_sub(room));
        let shown = &tokens[start..tokens.len().min(start + room)];
        let mut pieces: Vec<Piece> = vec![];
        let plain = |text: String| Piece { text, class: String::new(), share: String::new() };
        if start > 0 {
            pieces.push(plain("…".to_owned()));
        }
        for token in shown {
            let text = piece(&token.text);
            match (shade(token.share, largest), pieces.last_mut()) {
                (0, Some(last)) if last.class.is_empty() => last.text.push_str(&text),
                (0, _) => pieces.push(plain(text)),
                (step, _) => pieces.push(Piece { text, class: shade_class(step), share: words::score(token.share) }),
            }
        }
        if start + shown.len() < tokens.len() {
            match pieces.last_mut().filter(|last| last.class.is_empty()) {
                Some(last) => last.text.push('…'),
                None => pieces.push(plain("…".to_owned())),
            }
        }
        let named = strongest(tokens.iter().map(|token| (token.text.as_str(), token.share)));
        Self {
            pieces,
            strongest: super::text::name(&named, 240),
            rest: rest.map(words::score),
            hidden: tokens.len() - shown.len(),
        }
    }
}

/// A query's text by its tokens, those that are explained shaded by how badly the model predicts them.
#[derive(Debug, Serialize)]
pub(crate) struct LossText {
    /// What the model was given before the first of them.
    pub(crate) given: String,
    /// Whether that is more than the first token, which nothing predicts.
    pub(crate) is_prompted: bool,
    /// What is explained.
    pub(crate) pieces: Vec<Piece>,
    /// The tokens that are least likely, with their losses and probabilities.
    pub(crate) hardest: String,
    /// Tokens that are not shown.
    pub(crate) hidden: usize,
}

/// From which probability down a token has a shade, and each darker one.
const LIKELY: [f64; 4] = [0.75, 0.5, 0.1, 0.01];

/// Tokens that are named.
const NAMED: usize = 5;

impl LossText {
    /// At most `room` tokens of what is given and of what is explained: the end of the first, the beginning of the second.
    pub(super) fn of(tokens: &[StoredQueryToken], room: usize) -> Self {
        let first = tokens.iter().position(|token| token.loss.is_some()).unwrap_or(tokens.len());
        let (given, explained) = tokens.split_at(first);
        let cut = given.len().saturating_sub(room);
        let mut text: String = given[cut..].iter().map(|token| piece(&token.text)).collect();
        if cut > 0 {
            text.insert(0, '…');
        }
        let shown = &explained[..explained.len().min(room)];
        let mut pieces: Vec<Piece> = vec![];
        for token in shown {
            let probability = token.loss.map_or(1.0, |loss| f64::from(-loss).exp());
            let step = LIKELY.iter().filter(|limit| probability < **limit).count();
            let text = piece(&token.text);
            match (step, pieces.last_mut()) {
                (0, Some(last)) if last.class.is_empty() => last.text.push_str(&text),
                (0, _) => pieces.push(Piece { text, class: String::new(), share: String::new() }),
                (step, _) => {
                    pieces.push(Piece { text, class: format!("l{step}"), share: likely(token.loss.unwrap_or(0.0)) });
                }
            }
        }
        if shown.len() < explained.len() {
            pieces.push(Piece { text: "…".to_owned(), class: String::new(), share: String::new() });
        }
        let mut hardest: Vec<(&str, f32)> =
            tokens.iter().filter_map(|token| Some((token.text.as_str(), token.loss?))).collect();
        hardest.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        hardest.retain(|(_, loss)| f64::from(-loss).exp() < LIKELY[0]);
        let hardest = hardest.iter().take(NAMED).map(|(text, loss)| format!("`{}` {}", seen(text), likely(*loss)));
        Self {
            given: text,
            is_prompted: first > 1,
            pieces,
            hardest: super::text::name(&hardest.collect::<Vec<_>>().join(", "), 240),
            hidden: cut + explained.len() - shown.len(),
        }
    }
}

/// `loss 2.30 (10 %)`.
fn likely(loss: f32) -> String {
    format!("loss {loss:.2} ({})", words::probability(f64::from(-loss).exp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_query_are_shaded_by_how_unlikely_they_are() {
        let token = |text: &str, loss: Option<f32>| StoredQueryToken { text: text.into(), loss, is_rejected: false };
        let of = [
            token("A", None),
            token(" bell", None),
            token(" of", Some(0.1)),
            token(" silver", Some(2.5)),
            token(" fish", Some(0.5)),
            token("\u{202e}", Some(6.0)),
        ];
        let found = LossText::of(&of, 10);
        assert_eq!((found.given.as_str(), found.is_prompted, found.hidden), ("A bell", true, 0));
        let pieces: Vec<_> =
            found.pieces.iter().map(|p| (p.text.as_str(), p.class.as_str(), p.share.as_str())).collect();
        let want = [
            (" of", "", ""),
            (" silver", "l3", "loss 2.50 (8.2 %)"),
            (" fish", "l1", "loss 0.50 (61 %)"),
            ("\\u{202e}", "l4", "loss 6.00 (0.25 %)"),
        ];
        assert_eq!(pieces, want);
        assert_eq!(
            found.hardest,
            "`\\u{202e}` loss 6.00 (0.25 %), `silver` loss 2.50 (8.2 %), `fish` loss 0.50 (61 %)"
        );
        let short = LossText::of(&of, 1);
        assert_eq!((short.given.as_str(), short.hidden), ("… bell", 4));
    }

    fn tokens(of: &[(&str, f32)]) -> Vec<StoredToken> {
        of.iter().map(|(text, share)| StoredToken { text: (*text).to_owned(), share: *share }).collect()
    }

    #[test]
    fn tokens_without_a_shade_are_joined_and_the_others_say_their_numbers() {
        let of = tokens(&[("The", 0.001), (" river", -0.002), (" hides", 1.0), (" a", -0.9), ("\n\u{202e}", 0.0)]);
        let shaded = ShadedText::of(&of, None, 10);
        let found: Vec<_> =
            shaded.pieces.iter().map(|p| (p.text.as_str(), p.class.as_str(), p.share.as_str())).collect();
        let want =
            [("The river", "", ""), (" hides", "p4", "+1.000"), (" a", "n4", "-0.9000"), ("\n\\u{202e}", "", "")];
        assert_eq!(found, want);
        assert_eq!(shaded.hidden, 0);
    }

    #[test]
    fn of_a_long_text_the_tokens_around_the_largest_share_are_shown() {
        let mut of = vec![(" x", 0.0); 100];
        of[60] = (" here", 2.0);
        let shaded = ShadedText::of(&tokens(&of), Some(0.5), 10);
        let texts: Vec<_> = shaded.pieces.iter().map(|piece| piece.text.as_str()).collect();
        assert_eq!(texts, ["… x x x x x", " here", " x x x x…"]);
        assert_eq!((shaded.hidden, shaded.rest.as_deref()), (90, Some("+0.5000")));
    }
}
