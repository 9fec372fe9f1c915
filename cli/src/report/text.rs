//! Texts of training data as they may stand in a report: visible, and no longer than there is room.
//!
//! A text may hold marks that turn the direction of writing, control characters, or a megabyte in one line. Line
//! breaks and tabs stay, everything else that is not seen is written out (`\u{202e}`), and what goes beyond the room
//! is left out and counted. The templates escape markup; nothing here does.

use serde::Serialize;

use crate::terminal::is_hidden;

/// A text with its beginning told apart, where it has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ShownText {
    /// What the model was given, empty if the whole text is what it has to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) prompt: String,
    /// What the loss is on.
    pub(crate) body: String,
    /// Characters of the whole.
    pub(crate) length: usize,
    /// Characters that are not shown.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) left_out: usize,
    /// Whether this is the excerpt that the ranking holds, and not the text itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_excerpt: bool,
    /// The example's image in small, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<ShownImage>,
}

/// A small picture within the page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ShownImage {
    /// The picture as a `data:` address.
    pub(crate) address: String,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Characters that are seen at once; a longer text is opened by hand.
const AT_ONCE: usize = 600;

impl ShownText {
    /// A text within a room of so many characters. Of a prompt the end is kept, of everything else the beginning.
    pub(crate) fn new(prompt: &str, body: &str, room: usize) -> Self {
        let (n_prompt, n_body) = (prompt.chars().count(), body.chars().count());
        let prompt_room = room.saturating_sub(n_body).max(room / 3).min(n_prompt);
        let kept_prompt: String = prompt.chars().skip(n_prompt - prompt_room).collect();
        let (shown_prompt, prompt_used) = visible(&kept_prompt, room);
        let (shown_body, body_used) = visible(body, room.saturating_sub(prompt_used).max(room / 3));
        let left_out = n_prompt + n_body - prompt_used - body_used;
        let sign = |is_cut: bool| if is_cut { "…" } else { "" };
        Self {
            prompt: format!("{}{shown_prompt}", sign(prompt_used < n_prompt)),
            body: format!("{shown_body}{}", sign(body_used < n_body)),
            length: n_prompt + n_body,
            left_out,
            is_excerpt: false,
            image: None,
        }
    }

    /// The excerpt of a ranking.
    pub(crate) fn excerpt(excerpt: &str, room: usize) -> Self {
        Self { is_excerpt: true, ..Self::new("", excerpt, room) }
    }

    /// Whether it is too long to be shown at once.
    pub(crate) fn is_long(&self) -> bool {
        self.prompt.len() + self.body.len() > AT_ONCE
    }

    /// The beginning of what is shown, as one line.
    pub(crate) fn line(&self, characters: usize) -> String {
        one_line(&format!("{}{}", self.prompt, self.body), characters)
    }
}

/// A text as one line of at most so many characters.
pub(crate) fn one_line(text: &str, characters: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(characters) {
        Some((at, _)) => format!("{}…", line[..at].trim_end()),
        None => line,
    }
}

/// A name or value inside of a line.
pub(crate) fn name(text: &str, room: usize) -> String {
    let (mut shown, used) = visible(text, room);
    if used < text.chars().count() {
        shown.push('…');
    }
    shown.replace(['\n', '\t'], " ")
}

/// A token as it stands among others: breaks and spaces stay.
pub(super) fn piece(text: &str) -> String {
    const ROOM: usize = 200;
    visible(text, ROOM).0
}

/// The text with hidden characters written out, up to a room, and how many of its characters that are. In a page of
/// HTML it has at most twice as many bytes as there is room for characters, so that no text swells a report.
fn visible(text: &str, room: usize) -> (String, usize) {
    let (mut shown, mut used, mut left) = (String::new(), 0, 2 * room);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        let seen = match c {
            '\n' | '\t' => c.to_string(),
            '\r' if characters.peek() == Some(&'\n') => String::new(),
            c if is_hidden(c) => c.escape_unicode().to_string(),
            c => c.to_string(),
        };
        let bytes = match c {
            '<' | '>' | '&' | '"' | '\'' => 5,
            _ => seen.len(),
        };
        if bytes > left || used == room {
            break;
        }
        left -= bytes;
        used += 1;
        shown.push_str(&seen);
    }
    (shown, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_written_out_and_breaks_stay() {
        assert_eq!(visible("a\r\nb\tc", 20).0, "a\nb\tc");
        assert_eq!(visible("\u{202e}x\u{1b}[2J\u{feff}", 20).0, "\\u{202e}x\\u{1b}[2J\\u{feff}");
        assert_eq!(visible("größe 猫 नि", 20).0, "größe 猫 नि");
    }

    #[test]
    fn a_text_takes_no_more_than_its_room() {
        let long = "x".repeat(1 << 20);
        let shown = ShownText::new("", &long, 100);
        assert_eq!((shown.body.chars().count(), shown.length, shown.left_out), (101, 1 << 20, (1 << 20) - 100));
        for character in ["<", "\u{202e}", "猫", "&"] {
            let shown = ShownText::new("", &character.repeat(1 << 16), 100);
            let page = shown.body.replace('<', "&#60;").replace('&', "&#38;");
            assert!(page.len() <= 4 * 100, "{character}: {}", page.len());
        }
        assert_eq!(name("a\nb", 10), "a b");
        assert_eq!(name("abcdef", 3), "abc…");
    }

    #[test]
    fn the_end_of_a_prompt_and_the_beginning_of_the_rest_are_kept() {
        let shown = ShownText::new("0123456789", "abcdefghij", 12);
        assert_eq!((shown.prompt.as_str(), shown.body.as_str(), shown.left_out), ("…6789", "abcdefgh…", 8));
        let whole = ShownText::new("ask", "answer", 12);
        assert_eq!((whole.prompt.as_str(), whole.body.as_str(), whole.left_out), ("ask", "answer", 0));
    }
}
