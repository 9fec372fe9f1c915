//! Several files given as one: braces with a choice, and patterns over names.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use globset::GlobBuilder;

use super::saved;
use crate::data::error::DataError;

/// The most names that the braces of a path may stand for.
const NAMES: usize = 10_000;

/// The most braces of a path, each within another or behind it.
const BRACES: usize = 64;

/// The files that a path stands for. A path that exists stands for itself, whatever characters it has. Otherwise
/// `{a,b}` stands for its alternatives in the order in which they are written, and `*`, `?` and `[…]` for the names of
/// files that they fit, sorted. A folder that `datasets` saved stands for its files.
///
/// # Errors
/// If a pattern is broken, fits no file, or stands for more names than anybody writes.
pub fn expand(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let Some(text) = path.to_str().filter(|_| !path.exists()) else {
        return Ok(saved::files(path)?.unwrap_or_else(|| vec![path.to_owned()]));
    };
    let mut found = vec![];
    for one in names(text).map_err(|message| DataError::Pattern { pattern: path.to_owned(), message })? {
        let one = PathBuf::from(one);
        if !one.exists() && is_pattern(&one.to_string_lossy()) {
            found.extend(matching(&one)?);
        } else {
            found.push(one);
        }
    }
    let mut files = Vec::with_capacity(found.len());
    for one in found {
        match saved::files(&one)? {
            Some(of_folder) => files.extend(of_folder),
            None => files.push(one),
        }
    }
    Ok(files)
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// What the braces of a text stand for, the first ones first.
fn names(text: &str) -> Result<Vec<String>, String> {
    if text.matches('{').count() > BRACES {
        return Err(format!("it has more than {BRACES} braces"));
    }
    let mut found = vec![];
    match alternatives(text, &mut found) {
        true => Ok(found),
        false => Err(format!("its braces stand for more than {NAMES} names")),
    }
}

/// Adds what the braces of a text stand for; `false` if that is too much. Braces that are not closed are characters.
fn alternatives(text: &str, found: &mut Vec<String>) -> bool {
    let mut whole = || {
        found.push(text.to_owned());
        found.len() <= NAMES
    };
    let Some(start) = text.find('{') else { return whole() };
    let (mut depth, mut cuts, mut end) = (0_usize, vec![start], None);
    for (at, c) in text[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => cuts.push(start + at),
            _ => {}
        }
        if depth == 0 {
            end = Some(start + at);
            break;
        }
    }
    let Some(end) = end else { return whole() };
    cuts.push(end);
    let mut parts = cuts.windows(2).map(|cut| &text[cut[0] + 1..cut[1]]);
    parts.all(|part| alternatives(&format!("{}{part}{}", &text[..start], &text[end + 1..]), found))
}

/// Files that a pattern fits, sorted by name, component by component.
fn matching(pattern: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let name = component.as_os_str().to_string_lossy();
        if !is_pattern(&name) {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        }
        let glob = GlobBuilder::new(&name).literal_separator(true).build();
        let glob =
            glob.map_err(|error| DataError::Pattern { pattern: pattern.to_owned(), message: error.to_string() })?;
        let matcher = glob.compile_matcher();
        let mut next = vec![];
        for folder in &found {
            let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder.as_path() };
            // what is absent, or is a file, has no entries; a folder that cannot be read could hide some of the data
            let unread = |source| DataError::Read { file: here.to_owned(), source };
            let entries = match std::fs::read_dir(here) {
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
                entries => entries.and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(unread)?,
            };
            let names = entries.into_iter().map(|entry| entry.file_name());
            // as in a shell, hidden files are only found by a pattern that begins with a dot
            let fits = |name: &std::ffi::OsString| {
                let is_hidden = name.to_string_lossy().starts_with('.');
                matcher.is_match(name) && (!is_hidden || glob.glob().starts_with('.'))
            };
            next.extend(names.filter(fits).map(|name| folder.join(name)));
        }
        next.sort();
        found = next;
    }
    // a link to nothing is named when it is opened
    found.retain(|path| path.symlink_metadata().is_ok());
    if found.is_empty() {
        return Err(DataError::NoMatch { pattern: pattern.to_owned() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_that_stand_for_too_many_names_are_refused() {
        let pairs = |n: usize| PathBuf::from("{a,b}".repeat(n));
        assert_eq!(expand(&pairs(10)).expect("as many as there are").len(), 1024);
        for n in [14, 40] {
            let error = expand(&pairs(n)).expect_err("too many").to_string();
            assert!(error.contains("stand for more than 10000 names"), "{error}");
        }
        let nested = format!("{}{}", "{a,".repeat(2000), "}".repeat(2000));
        let error = expand(Path::new(&nested)).expect_err("too deep").to_string();
        assert!(error.contains("more than 64 braces"), "{error}");
    }

    #[test]
    fn braces_keep_their_order_and_patterns_are_sorted() {
        let all = |text: &str| names(text).expect("few");
        assert_eq!(all("a{2,1}b{x,{y,z}}"), ["a2bx", "a2by", "a2bz", "a1bx", "a1by", "a1bz"]);
        assert_eq!(all("a{b"), ["a{b"]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("d")).expect("writable");
        for name in ["b.jsonl", "a.jsonl", "d/c.jsonl", ".h.jsonl", "x[1].txt"] {
            std::fs::write(at(name), "").expect("writable");
        }
        let found = |pattern: &str| expand(&at(pattern)).expect("there are files");
        assert_eq!(found("*.jsonl"), [at("a.jsonl"), at("b.jsonl")]);
        assert_eq!(found("{b,a}.jsonl"), [at("b.jsonl"), at("a.jsonl")]);
        assert_eq!(found("{b.jsonl,*/c.jsonl}"), [at("b.jsonl"), at("d/c.jsonl")]);
        assert_eq!(found("x[1].txt"), [at("x[1].txt")], "a file by that very name");
        assert_eq!(found("absent.jsonl"), [at("absent.jsonl")], "reading says that it is not there");
        let error = expand(&at("*.csv")).expect_err("none").to_string();
        assert!(error.ends_with("*.csv: no file has such a name"), "{error}");
    }
}
