//! Plain text: a line is an example, its number is its id.

use serde_json::Map;

use super::document::{Document, Encoder};
use super::excerpt::Source;
use super::line_problem::LineProblem;
use super::read::IdField;

pub(super) fn parse(line: &str, encoder: &Encoder<'_>, _: &IdField) -> Result<Document, LineProblem> {
    if encoder.labels_of_texts().is_some() {
        return Err(LineProblem::NoLabel { fields: vec![] });
    }
    let (tokens, labels) = encoder.text(line)?;
    Ok(Document { id: None, metadata: Map::new(), source: Source::text(line), tokens, labels, target: None })
}
