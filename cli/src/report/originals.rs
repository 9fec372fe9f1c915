//! The texts and images behind a ranking's excerpts, looked up in the files that the job names.
//!
//! A run folder holds excerpts of a line. The files of training examples and queries may have moved or changed since;
//! so a text is taken only if the excerpt is a part of it, and the excerpt stands for it otherwise.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use ascribe::data::{Columns, IdField, for_each_row, thumbnails};
use ascribe::job::Job;
use serde_json::{Map, Value};

use super::text::ShownImage;

/// An example's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Original {
    pub(super) prompt: String,
    pub(super) body: String,
}

impl Original {
    fn of_row(fields: &Map<String, Value>, columns: &Columns) -> Option<Self> {
        let value = |name: &str| fields.get(name).and_then(Value::as_str);
        // columns that were chosen stand for the usual ones
        let text = |usual: &str| match usual {
            "text" => columns.text.as_deref().and_then(value).or_else(|| value(usual)),
            "prompt" => columns.prompt.as_deref().and_then(value).or_else(|| value(usual)),
            "completion" => columns.completion.as_deref().and_then(value).or_else(|| value(usual)),
            _ => value(usual),
        };
        if let Some(body) = columns.text.as_deref().and_then(value) {
            return Some(Self { prompt: String::new(), body: body.to_owned() });
        }
        if let (Some(prompt), Some(body)) = (text("prompt"), text("completion")) {
            return Some(Self { prompt: prompt.to_owned(), body: body.to_owned() });
        }
        if let (Some(prompt), Some(chosen), Some(rejected)) = (text("prompt"), text("chosen"), text("rejected")) {
            return Some(Self { prompt: prompt.to_owned(), body: format!("{chosen} | rather than | {rejected}") });
        }
        let body = match (text("text")?, text("text_pair")) {
            (first, Some(second)) => format!("{first}\n{second}"),
            (text, None) => text.to_owned(),
        };
        Some(Self { prompt: String::new(), body })
    }

    /// Whether a line of the ranking was made of this text.
    fn fits(&self, excerpt: &str) -> bool {
        // white space and what separates two parts is not compared
        let bare = |text: &str| -> String {
            text.chars()
                .filter(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '|' | '\u{fffd}' | '…'))
                .collect()
        };
        bare(&format!("{}{}", self.prompt, self.body)).contains(&bare(excerpt))
    }
}

/// Small pictures of those examples of a file or folder that are wanted, by id, with sides of at most so many pixels; none
/// if they are no images, or not there any more. They take at most `room` bytes of the page together; also how many have
/// no room.
pub(super) fn images<'a>(
    job: &Job,
    file: &Path,
    wanted: impl Iterator<Item = &'a str>,
    side: usize,
    room: usize,
) -> (HashMap<String, ShownImage>, usize) {
    let wanted: HashSet<&str> = wanted.collect();
    let id_field = IdField::from(job.data.id_field.as_deref());
    let mut found: Vec<_> = thumbnails(file, &job.data.columns(), &id_field, &wanted, side).into_iter().collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    let (mut shown, mut used, mut hidden) = (HashMap::new(), 0, 0);
    for (id, small) in found {
        let address = format!("data:image/jpeg;base64,{}", base64::encode(&small.jpeg));
        if used + address.len() > room {
            hidden += 1;
            continue;
        }
        used += address.len();
        // pixels of what is smaller are drawn larger
        let times = (side / small.width.max(small.height)).max(1);
        shown.insert(id, ShownImage { address, width: times * small.width, height: times * small.height });
    }
    (shown, hidden)
}

/// The texts of those examples of a file that are wanted, by id; `wanted` has each one's excerpt. Empty if the file is
/// not there any more, or holds no texts.
pub(super) fn find(job: &Job, file: &Path, wanted: &HashMap<&str, &str>) -> HashMap<String, Original> {
    let mut found = HashMap::new();
    if wanted.is_empty() {
        return found;
    }
    let (columns, id_field) = (job.data.columns(), job.data.id_field.as_deref());
    // a file that ends to be one of examples gives what it gave until then
    let _partly = for_each_row(file, &columns, |number, fields| {
        let id = match (id_field, fields.get(id_field.unwrap_or("id"))) {
            (Some("line"), _) => number.to_string(),
            (_, Some(Value::String(id))) => id.clone(),
            (_, Some(Value::Number(id))) => id.to_string(),
            _ => number.to_string(),
        };
        if let Some(excerpt) = wanted.get(id.as_str())
            && let Some(original) = Original::of_row(&fields, &columns)
            && original.fits(excerpt)
        {
            found.insert(id, original);
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_fits_its_excerpt_and_no_other() {
        let original = Original { prompt: "The river\nat X".into(), body: " hides a stone.".into() };
        assert!(original.fits("The river at X| hides a stone."));
        assert!(original.fits("…er at X| hides…"));
        assert!(!original.fits("The river at Y| hides a stone."));
    }

    #[test]
    fn examples_are_found_by_the_ids_of_the_job() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("train.jsonl");
        let lines =
            "{\"id\":7,\"text\":\"seven\"}\nnot JSON\n\n{\"text\":\"four\"}\n{\"id\":\"x\",\"text\":\"changed\"}\n";
        std::fs::write(&file, lines).expect("writable");
        let job = Job::new("model", &file, "run");
        let wanted = HashMap::from([("7", "seven"), ("4", "four"), ("x", "was this")]);
        let mut found: Vec<_> = find(&job, &file, &wanted).into_iter().map(|(id, text)| (id, text.body)).collect();
        found.sort();
        assert_eq!(found, [("4".to_owned(), "four".to_owned()), ("7".to_owned(), "seven".to_owned())]);
        assert!(find(&job, &folder.path().join("gone.jsonl"), &wanted).is_empty());
    }
}
