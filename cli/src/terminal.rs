//! The one way to stdout and stderr, where names and texts from files lose the power to steer a terminal.
//!
//! An id, a tensor's name or a path may hold escape sequences, marks that turn the direction of writing, or line
//! breaks. What a person reads is escaped: `\n`, `\u{1b}`. What a program reads, JSON and CSV, keeps its bytes as its
//! format says when stdout is a file or a pipe, and is escaped when it is a terminal. Nothing else in this crate opens
//! stdout or stderr (a test looks), except for progress bars, whose texts are constants.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use anyhow::Context;

/// Does this character do something else to a terminal, or to a reader, than to be seen?
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // directions and other marks without a width, but the joiners that scripts and emoji need
            '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
            // breaks of lines and paragraphs
            | '\u{2028}' | '\u{2029}')
}

/// A name or value that stands inside of a line: whatever is hidden is written out, line breaks too.
pub(crate) fn inline(text: &str) -> Cow<'_, str> {
    match text.contains(is_hidden) {
        true => Cow::Owned(escaped(text, |_| false)),
        false => Cow::Borrowed(text),
    }
}

/// Lines that were put together here: whatever is hidden is written out, the breaks between lines stay.
pub(crate) fn lines(text: &str) -> String {
    escaped(text, |c| c == '\n')
}

/// Characters of a line of a message, and lines of it, that are shown: a message may quote a file of one line.
const MOST_CHARACTERS: usize = 1000;
const MOST_LINES: usize = 40;

/// A message behind its label: lines after the first stand to the right, where none can pass for another message.
pub(crate) fn message(text: &str) -> String {
    let text = lines(text.trim_end());
    let mut shown: Vec<String> = text.split('\n').take(MOST_LINES).map(cut).collect();
    if text.split('\n').count() > MOST_LINES {
        shown.push("…".to_owned());
    }
    shown.join("\n  ")
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(MOST_CHARACTERS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

/// JSON whose hidden characters are written as the format's own escapes; it means the same.
pub(crate) fn json(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || !is_hidden(c) {
            all.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(all, "\\u{unit:04x}");
        }
    }
    all
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut all = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if stays(c) || !is_hidden(c) => all.push(c),
            '\n' | '\r' | '\t' => all.extend(c.escape_default()),
            c => all.extend(c.escape_unicode()),
        }
    }
    all
}

/// Prints lines for a person on stdout; `what` they are is said where they cannot be written.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn print(text: &str, what: &str) -> anyhow::Result<()> {
    print_prepared(lines(text).as_bytes(), what)
}

/// Prints JSON on stdout.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn print_json(text: &str, what: &str) -> anyhow::Result<()> {
    match stdout_is_terminal() {
        true => print_prepared(json(text).as_bytes(), what),
        false => print_prepared(text.as_bytes(), what),
    }
}

/// Prints bytes on stdout whose hidden characters are meant: colours around escaped names, or a file's own bytes.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn print_prepared(bytes: &[u8], what: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).with_context(|| format!("stdout: cannot write {what}"))
}

/// Whether a person sees what is printed as it is.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Says lines on stderr. Where nobody listens any more the work goes on.
pub(crate) fn say(text: &str) {
    say_prepared(&format!("{}\n", lines(text)));
}

/// Says a line of JSON on stderr.
pub(crate) fn say_json(value: &serde_json::Value) {
    say_prepared(&format!("{}\n", json(&value.to_string())));
}

/// Says text on stderr whose hidden characters are meant: colours around escaped messages.
pub(crate) fn say_prepared(text: &str) {
    // Where nobody listens there is nobody to tell.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_written_out() {
        assert_eq!(inline("größe 猫 é"), "größe 猫 é");
        assert_eq!(inline("a\u{1b}[2J\r\nb\tc"), "a\\u{1b}[2J\\r\\nb\\tc");
        assert_eq!(inline("\u{202e}\u{9b}\u{7f}\u{2028}"), "\\u{202e}\\u{9b}\\u{7f}\\u{2028}");
        assert_eq!(lines("a\nb\u{7}\r"), "a\nb\\u{7}\\r");
    }

    #[test]
    fn a_line_break_in_a_name_begins_no_message_of_its_own() {
        let text = message("`x\nerror: forged` is not there\n");
        assert_eq!(text, "`x\n  error: forged` is not there");
        assert!(message(&"[".repeat(100_000)).len() < 1100 && message(&"x\n".repeat(100_000)).len() < 200);
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({"a\u{202e}": ["\u{1b}[31m", "\u{e0041}", "\u{7f}\u{85}", "größe"]});
        for text in [value.to_string(), serde_json::to_string_pretty(&value).expect("JSON")] {
            let shown = json(&text);
            assert!(!shown.replace('\n', "").contains(is_hidden), "{shown}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
        }
    }

    /// A second way out would be one that nobody escapes.
    #[test]
    fn nothing_else_opens_stdout_or_stderr() {
        let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the crate's source") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                if path.file_name().is_some_and(|name| name == "terminal.rs") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).expect("text");
                for way in ["stdout().lock", "stderr().lock", "println!(", "print!("] {
                    assert!(!text.contains(way), "{}: `{way}`", path.display());
                }
            }
        }
    }
}
