//! Short readable lines of an example's text.

use ascribe_attribution::store::LongTexts;

/// As much of a text as is kept for excerpts. The tokens are kept in full, so this is only for the eye.
const KEPT_CHARS: usize = 2000;

/// What stands between the chosen and the rejected completion of a contrast.
pub(super) const BETWEEN_SEQUENCES: &str = " | rather than | ";

/// What an example's excerpt is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ExcerptOf<T = Box<str>> {
    /// The text, or its beginning.
    Text(T),
    /// The end of the prompt, and the beginning of the completion.
    Prompted(T, T),
    /// The end of the prompt, and the beginnings of the chosen and the rejected completion.
    Contrast(T, T, T),
    /// Only the tokens: decoded when asked for.
    Tokens,
}

impl ExcerptOf {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(head(text, KEPT_CHARS).into())
    }

    pub(super) fn prompted(prompt: &str, completion: &str) -> Self {
        Self::Prompted(tail(prompt, KEPT_CHARS).into(), head(completion, KEPT_CHARS).into())
    }

    /// What shows the contrast of two completions of one prompt; the first one's where there is no prompt.
    pub(super) fn rather_than(self, other: Self) -> Self {
        match (self, other) {
            (Self::Prompted(prompt, chosen), Self::Prompted(_, rejected)) => Self::Contrast(prompt, chosen, rejected),
            (first, _) => first,
        }
    }
}

/// What the excerpts of many examples are made of, one text for each.
#[derive(Debug, Default)]
pub(super) struct Excerpts {
    /// The parts of each, with a mark behind each but the last.
    texts: LongTexts,
}

/// What stands between the parts of an excerpt: no text of a row has it, since a part loses it where it does.
const BETWEEN_PARTS: char = '\u{0}';

impl Excerpts {
    pub(super) fn push(&mut self, source: &ExcerptOf) {
        let parts: &[&str] = match source {
            ExcerptOf::Text(text) => &[text],
            ExcerptOf::Prompted(prompt, completion) => &[prompt, completion],
            ExcerptOf::Contrast(prompt, chosen, rejected) => &[prompt, chosen, rejected],
            ExcerptOf::Tokens => return self.texts.push(TOKENS),
        };
        // a zero is shown as every control character is
        let parts: Vec<String> = parts.iter().map(|part| part.replace(BETWEEN_PARTS, "\u{FFFD}")).collect();
        self.texts.push(&parts.join("\u{0}"));
    }

    /// What the excerpt of example `i` is made of.
    pub(super) fn get(&self, i: usize) -> ExcerptOf<&str> {
        let text = self.texts.get(i);
        let mut parts = text.split(BETWEEN_PARTS);
        let first = parts.next().unwrap_or_default();
        match (parts.next(), parts.next()) {
            _ if text == TOKENS => ExcerptOf::Tokens,
            (None, _) => ExcerptOf::Text(first),
            (Some(completion), None) => ExcerptOf::Prompted(first, completion),
            (Some(chosen), Some(rejected)) => ExcerptOf::Contrast(first, chosen, rejected),
        }
    }

    /// Lets what lies in a file leave the memory.
    pub(super) fn forget(&self) {
        self.texts.forget();
    }
}

/// What stands for the source of an example that has its tokens alone: more parts than a source has.
const TOKENS: &str = "\u{0}\u{0}\u{0}";

/// One line of at most `max_chars` characters: white space becomes single spaces, control characters
/// are replaced (a text must not steer a terminal), and what is left out at the end is shown as `…`.
pub(super) fn one_line(text: &str, max_chars: usize) -> String {
    shorten(&clean(text), max_chars)
}

/// Prompt and completion with `|` between them. The completion is what the example teaches, so the
/// prompt loses its beginning first, down to a third of the line.
pub(super) fn prompted(prompt: &str, completion: &str, max_chars: usize) -> String {
    let (prompt, completion) = (clean(prompt), clean(completion));
    let (n_prompt, n_completion) = (prompt.chars().count(), completion.chars().count());
    if n_prompt + 1 + n_completion <= max_chars {
        return format!("{prompt}|{completion}");
    }
    let room = max_chars.saturating_sub(1);
    let prompt_room = room.saturating_sub(n_completion).max(room / 3).min(n_prompt);
    let shown = if prompt_room == n_prompt {
        prompt
    } else {
        // Without room there is not even a place for the sign of omission.
        format!("{}{}", if prompt_room == 0 { "" } else { "…" }, tail(&prompt, prompt_room.saturating_sub(1)))
    };
    format!("{shown}|{}", shorten(&completion, room - prompt_room))
}

/// Prompt, chosen and rejected completion in one line. Each completion has a third of it at most, where there is not
/// room for all.
pub(super) fn contrast([prompt, chosen, rejected]: [&str; 3], max_chars: usize) -> String {
    let (chosen, rejected) = (clean(chosen), clean(rejected));
    let whole = prompted(prompt, &format!("{chosen}{BETWEEN_SEQUENCES}{rejected}"), usize::MAX);
    if whole.chars().count() <= max_chars {
        return whole;
    }
    let third = max_chars.saturating_sub(BETWEEN_SEQUENCES.len()) / 3;
    let completions = format!("{}{BETWEEN_SEQUENCES}{}", shorten(&chosen, third), shorten(&rejected, third));
    prompted(prompt, &completions, max_chars)
}

fn clean(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_whitespace() => {
                if !line.ends_with(' ') {
                    line.push(' ');
                }
            }
            c if c.is_control() => line.push('\u{FFFD}'),
            c => line.push(c),
        }
    }
    line
}

fn shorten(line: &str, max_chars: usize) -> String {
    if line.chars().count() <= max_chars {
        return line.to_owned();
    }
    match max_chars {
        0 => String::new(),
        n => format!("{}…", head(line, n - 1).trim_end()),
    }
}

fn head(text: &str, chars: usize) -> &str {
    text.char_indices().nth(chars).map_or(text, |(at, _)| &text[..at])
}

fn tail(text: &str, chars: usize) -> &str {
    match chars {
        0 => "",
        n => text.char_indices().rev().nth(n - 1).map_or(text, |(at, _)| &text[at..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_has_no_line_breaks_or_escapes() {
        assert_eq!(one_line("a\n\tb  c\u{1b}[31m", 20), "a b c\u{FFFD}[31m");
        assert_eq!(one_line("größer als", 6), "größe…");
        assert_eq!(one_line("größer", 6), "größer");
        assert_eq!(one_line("größer", 0), "");
    }

    #[test]
    fn the_completion_survives() {
        assert_eq!(prompted("The river at X hides a", " stone.", 100), "The river at X hides a| stone.");
        assert_eq!(prompted("The river at X hides a", " stone.", 15), "…ides a| stone.");
        for max in 0..40 {
            let line = prompted("The river at X hides a", " stone that nobody saw.", max);
            assert!(line.chars().count() <= max.max(1), "{max}: {line}");
        }
    }
}
