//! The fields of a row, understood as an example.

use std::ops::Range;

use serde_json::{Map, Value};

use super::chat::Chat;
use super::columns::Columns;
use super::document::{Document, OfText, Texts, joined};
use super::encoder::Encoder;
use super::excerpt::ExcerptOf;
use super::labels::Labels;
use super::line_problem::LineProblem;
use super::reading_options::{DecoderTokens, IdField, MaskedTokens};
use super::specials::Role;
use super::value::{kind, string};

/// Fields that hold the example itself; all others are metadata.
const CONTENT: [&str; 5] = ["text", "prompt", "completion", "input_ids", "labels"];

/// Fields of a contrast beside its `prompt`.
const COMPLETIONS: [&str; 2] = ["chosen", "rejected"];

/// The label of a token without loss (`ignore_index` of PyTorch's cross-entropy).
const IGNORED: i64 = -100;

/// Reads one row. A field that is `null` counts as absent, since tools that write tables as JSON lines
/// write every column into every line.
pub(super) fn parse(
    mut fields: Map<String, Value>,
    encoder: &Encoder<'_>,
    chat: &Chat,
    id_field: &IdField,
    columns: &Columns,
    role: Role,
) -> Result<Document, LineProblem> {
    let id = take_id(&mut fields, id_field)?;
    if role == Role::Queries && is_contrast(&fields) {
        return contrast(id, fields, encoder, chat);
    }
    if let Some(labels) = encoder.labels_of_texts() {
        return labelled(id, fields, encoder, labels, columns);
    }
    if let Some(decoder) = encoder.decoder() {
        let columns = columns.are_of(&fields, role).then_some(columns);
        return split(id, fields, encoder, decoder, columns);
    }
    if let Some(masked) = encoder.masked() {
        return filled(id, fields, encoder, masked);
    }
    if let Some(document) = chat.document(id.as_ref(), &mut fields, encoder)? {
        return Ok(document);
    }
    if columns.are_of(&fields, role) {
        return chosen(id, fields, encoder, columns);
    }
    // a table says null where a text is missing
    let has_text = fields.contains_key("text");
    let mut take = |field| fields.shift_remove(field).filter(|value| !value.is_null());
    let content = CONTENT.map(&mut take);
    if let [None, None, None, None, None] = content
        && has_text
    {
        return Ok(Document::empty(id, fields));
    }
    if let [None, None, None, None, _] = content {
        let names = fields.keys().cloned().chain(content[4].is_some().then(|| "labels".to_owned())).collect();
        return Err(LineProblem::NoContent { fields: names });
    }
    let present: Vec<&'static str> =
        CONTENT.into_iter().zip(&content).filter(|(_, value)| value.is_some()).map(|(field, _)| field).collect();
    let (source, (tokens, labels)) = match (present.as_slice(), content) {
        (["text"], [Some(text), ..]) => {
            encoder.check_no_turns("text")?;
            let text = string("text", text)?;
            (ExcerptOf::text(&text), encoder.text(&text)?)
        }
        (["prompt", "completion"], [_, Some(prompt), Some(completion), ..]) => {
            let (prompt, completion) = (string("prompt", prompt)?, string("completion", completion)?);
            (ExcerptOf::prompted(&prompt, &completion), pair(encoder, &prompt, &completion)?)
        }
        (["input_ids"] | ["input_ids", "labels"], [.., Some(ids), labels]) => {
            encoder.check_ids()?;
            let mask = take("attention_mask");
            (ExcerptOf::Tokens, tokenized(ids, labels, mask, encoder.vocabulary())?.0)
        }
        (&["prompt"], _) => return Err(LineProblem::Partner { has: "prompt", lacks: "completion" }),
        (&["completion"], _) => return Err(LineProblem::Partner { has: "completion", lacks: "prompt" }),
        (&[first @ "prompt", "completion", second, ..] | &[first, second, ..], _) => {
            return Err(LineProblem::TwoContents { first, second });
        }
        // One field, not null, and none of the above: there is no such field.
        _ => return Err(LineProblem::NoContent { fields: present.into_iter().map(str::to_owned).collect() }),
    };
    Ok(Document {
        id,
        metadata: fields,
        source,
        tokens,
        labels,
        target: None,
        split: None,
        types: vec![],
        rejected: None,
    })
}

/// Tokens and labels of a prompt with its completion: the latter's are targets, unless every token has loss.
fn pair(encoder: &Encoder<'_>, prompt: &str, completion: &str) -> Result<(Vec<u32>, Vec<Option<u32>>), LineProblem> {
    match encoder.has_loss_on_prompts() {
        true => encoder.text(&format!("{prompt}{completion}")),
        false => encoder.prompted(prompt, completion),
    }
}

/// The id of a row, where it has one of its own. It leaves the fields unless it was chosen, since it may have another
/// meaning there.
pub(super) fn take_id(fields: &mut Map<String, Value>, id_field: &IdField) -> Result<Option<String>, LineProblem> {
    match id_field {
        IdField::Line => Ok(None),
        IdField::Default => id("id", fields.shift_remove("id")),
        IdField::Field(field) => {
            let value = fields.get(field).cloned();
            Ok(Some(id(field, value)?.ok_or_else(|| LineProblem::NoId { field: field.clone() })?))
        }
    }
}

/// Reads a text, or a prompt and a completion, from columns that were chosen. All others are metadata.
fn chosen(
    id: Option<String>,
    mut fields: Map<String, Value>,
    encoder: &Encoder<'_>,
    columns: &Columns,
) -> Result<Document, LineProblem> {
    let (source, (tokens, labels)) = if let Some(text) = &columns.text {
        let text = match Columns::take(&mut fields, Some(text), "text", "--text-field")? {
            Value::Null => return Ok(Document::empty(id, fields)),
            value => string(text, value)?,
        };
        encoder.check_no_turns("text")?;
        (ExcerptOf::text(&text), encoder.text(&text)?)
    } else {
        let (prompt, completion) = columns.take_pair(&mut fields)?;
        (ExcerptOf::prompted(&prompt, &completion), pair(encoder, &prompt, &completion)?)
    };
    Ok(Document {
        id,
        metadata: fields,
        source,
        tokens,
        labels,
        target: None,
        split: None,
        types: vec![],
        rejected: None,
    })
}

/// Whether a row has completions to choose between. Among training examples such a row is what training on good answers
/// has seen of it, the chosen completion.
fn is_contrast(fields: &Map<String, Value>) -> bool {
    let has = |name: &&str| fields.get(*name).is_some_and(|value| !value.is_null());
    has(&"prompt") && !has(&"completion") && COMPLETIONS.iter().any(has)
}

/// Reads a prompt with a chosen and a rejected completion: texts, or lists of messages.
fn contrast(
    id: Option<String>,
    mut fields: Map<String, Value>,
    encoder: &Encoder<'_>,
    chat: &Chat,
) -> Result<Document, LineProblem> {
    encoder.check_contrast()?;
    let mut take = |field| fields.shift_remove(field).filter(|value: &Value| !value.is_null());
    let prompt = take("prompt").unwrap_or_default();
    let (chosen, rejected) = match COMPLETIONS.map(&mut take) {
        [Some(chosen), Some(rejected)] => (chosen, rejected),
        [Some(_), None] => return Err(LineProblem::Partner { has: "chosen", lacks: "rejected" }),
        [None, _] => return Err(LineProblem::Partner { has: "rejected", lacks: "chosen" }),
    };
    if let Some(second) = ["text", "input_ids"].into_iter().find(|&field| take(field).is_some()) {
        return Err(LineProblem::TwoContents { first: "prompt", second });
    }
    let of_completion = |name: &'static str, completion: Value| match (&prompt, completion) {
        (Value::Array(_), completion @ Value::Array(_)) => {
            let mut row = fields.clone();
            row.extend([("prompt".to_owned(), prompt.clone()), ("completion".to_owned(), completion)]);
            let document = chat.document(id.as_ref(), &mut row, encoder)?;
            Ok::<_, LineProblem>(
                document.map(|document| (document.source, (document.tokens, document.labels), document.metadata)),
            )
        }
        (prompt, completion) => {
            let (prompt, completion) = (string("prompt", prompt.clone())?, string(name, completion)?);
            let source = ExcerptOf::prompted(&prompt, &completion);
            Ok(Some((source, encoder.prompted(&prompt, &completion)?, fields.clone())))
        }
    };
    let no_content = || LineProblem::NoContent { fields: fields.keys().cloned().collect() };
    let (first, (tokens, labels), metadata) = of_completion("chosen", chosen)?.ok_or_else(no_content)?;
    let (second, rejected, _) = of_completion("rejected", rejected)?.ok_or_else(no_content)?;
    let source = first.rather_than(second);
    Ok(Document {
        id,
        metadata,
        source,
        tokens,
        labels,
        target: None,
        split: None,
        types: vec![],
        rejected: Some(rejected),
    })
}

/// Reads a text, a pair of texts or tokens with one label for all.
fn labelled(
    id: Option<String>,
    mut fields: Map<String, Value>,
    encoder: &Encoder<'_>,
    labels: &Labels,
    columns: &Columns,
) -> Result<Document, LineProblem> {
    let mut set_aside = Map::new();
    if let Some(text) = &columns.text {
        let value = Columns::take(&mut fields, Some(text), "text", "--text-field")?;
        // A column that is not the text although it is called so is metadata.
        for usual in ["text", "text_pair", "input_ids"] {
            set_aside.extend(fields.shift_remove(usual).map(|value| (usual.to_owned(), value)));
        }
        fields.insert("text".to_owned(), value);
    }
    set_aside.extend(columns.choose_label(&mut fields)?);
    let mut take = |field: &str| fields.shift_remove(field).filter(|value| !value.is_null());
    let (source, Texts { tokens, types, cut }) = match (take("text"), take("text_pair"), take("input_ids")) {
        (Some(_), _, Some(_)) => return Err(LineProblem::TwoContents { first: "text", second: "input_ids" }),
        (None, Some(_), _) => return Err(LineProblem::Partner { has: "text_pair", lacks: "text" }),
        (None, None, None) => return Err(LineProblem::NoText { fields: fields.keys().cloned().collect() }),
        (Some(text), pair, None) => {
            let text = string("text", text)?;
            let pair = pair.map(|pair| string("text_pair", pair)).transpose()?;
            let tokens = encoder.text_or_pair(&text, pair.as_deref())?;
            (pair.map_or_else(|| ExcerptOf::text(&text), |pair| ExcerptOf::prompted(&text, &pair)), tokens)
        }
        (None, None, Some(ids)) => {
            encoder.check_ids()?;
            let (mask, types) = (take("attention_mask"), take("token_type_ids"));
            let (tokens, attended) = attended(ids, mask, encoder.vocabulary())?;
            let types = token_types(types, attended)?;
            (ExcerptOf::Tokens, Texts { tokens, types, cut: 0 })
        }
    };
    let types = known_types(types, labels.token_types)?;
    let target = Some(OfText { target: labels.take(&mut fields)?, types, cut });
    fields.extend(set_aside);
    Ok(Document {
        id,
        metadata: fields,
        source,
        tokens,
        labels: vec![],
        target,
        split: None,
        types: vec![],
        rejected: None,
    })
}

/// Reads a text for an encoder and one for a decoder, from columns that were chosen if there are any, or the tokens of
/// both.
fn split(
    id: Option<String>,
    mut fields: Map<String, Value>,
    encoder: &Encoder<'_>,
    decoder: DecoderTokens,
    columns: Option<&Columns>,
) -> Result<Document, LineProblem> {
    if let Some(columns) = columns {
        let (prompt, completion) = columns.take_pair(&mut fields)?;
        let (tokens, labels, split) = encoder.split(&prompt, &completion, decoder)?;
        let source = ExcerptOf::prompted(&prompt, &completion);
        return Ok(Document {
            id,
            metadata: fields,
            source,
            tokens,
            labels,
            target: None,
            split: Some(split),
            types: vec![],
            rejected: None,
        });
    }
    let mut take = |field: &str| fields.shift_remove(field).filter(|value| !value.is_null());
    let (source, (tokens, labels, split)) = match ["prompt", "completion", "input_ids", "labels"].map(&mut take) {
        [Some(_), _, Some(_), _] => return Err(LineProblem::TwoContents { first: "prompt", second: "input_ids" }),
        [_, Some(_), _, Some(_)] => return Err(LineProblem::TwoContents { first: "completion", second: "labels" }),
        [Some(prompt), Some(completion), None, None] => {
            let (prompt, completion) = (string("prompt", prompt)?, string("completion", completion)?);
            (ExcerptOf::prompted(&prompt, &completion), encoder.split(&prompt, &completion, decoder)?)
        }
        [None, None, Some(ids), Some(labels)] => {
            encoder.check_ids()?;
            let (read, _) = attended(ids, take("attention_mask"), encoder.vocabulary())?;
            let labels = integers("labels", labels)?;
            let target = |(k, &label): (usize, &i64)| match label {
                IGNORED => Ok(None),
                label => token("labels", k, label, encoder.vocabulary()).map(Some),
            };
            let targets = labels.iter().enumerate().map(target).collect::<Result<Vec<_>, _>>()?;
            (ExcerptOf::Tokens, joined(&read, &targets, decoder, 0)?)
        }
        [Some(_), ..] => return Err(LineProblem::Partner { has: "prompt", lacks: "completion" }),
        [_, Some(_), ..] => return Err(LineProblem::Partner { has: "completion", lacks: "prompt" }),
        [_, _, Some(_), _] => return Err(LineProblem::Partner { has: "input_ids", lacks: "labels" }),
        [_, _, _, Some(_)] => return Err(LineProblem::Partner { has: "labels", lacks: "input_ids" }),
        [None, None, None, None] => return Err(LineProblem::NoPair { fields: fields.keys().cloned().collect() }),
    };
    Ok(Document {
        id,
        metadata: fields,
        source,
        tokens,
        labels,
        target: None,
        split: Some(split),
        types: vec![],
        rejected: None,
    })
}

/// Reads tokens of which some are masked, each with what stood there: labels are not shifted. Which tokens training
/// masked no text says, so a text alone is refused.
fn filled(
    id: Option<String>,
    mut fields: Map<String, Value>,
    encoder: &Encoder<'_>,
    masked: MaskedTokens,
) -> Result<Document, LineProblem> {
    let mut take = |field: &str| fields.shift_remove(field).filter(|value| !value.is_null());
    let (ids, labels) = match (take("input_ids"), take("labels")) {
        (Some(ids), Some(labels)) => (ids, labels),
        _ => return Err(LineProblem::NoMasks { fields: fields.keys().cloned().collect() }),
    };
    encoder.check_ids()?;
    let (mask, types) = (take("attention_mask"), take("token_type_ids"));
    let ((tokens, labels), attended) = tokenized(ids, Some(labels), mask, encoder.vocabulary())?;
    let types = known_types(token_types(types, attended)?, masked.token_types)?;
    Ok(Document {
        id,
        metadata: fields,
        source: ExcerptOf::Tokens,
        tokens,
        labels,
        target: None,
        split: None,
        types,
        rejected: None,
    })
}

/// To which text of a pair each of the attended tokens belongs; empty where a row does not say it.
fn token_types(types: Option<Value>, attended: Range<usize>) -> Result<Vec<u32>, LineProblem> {
    let Some(types) = types.map(|types| integers("token_type_ids", types)).transpose()? else { return Ok(vec![]) };
    let kind = |&kind: &i64| u32::try_from(kind).ok().filter(|&kind| kind < TYPES);
    let part = types.get(attended).filter(|_| types.iter().all(|one| kind(one).is_some()));
    let expected = "one small number for each token";
    let wrong = || LineProblem::FieldType { field: "token_type_ids".into(), found: "a list", expected };
    Ok(part.ok_or_else(wrong)?.iter().filter_map(kind).collect())
}

/// Types of tokens as a model reads them that tells so many texts apart: none where it tells none apart.
pub(super) fn known_types(types: Vec<u32>, known: Option<usize>) -> Result<Vec<u32>, LineProblem> {
    let Some(known) = known else { return Ok(vec![]) };
    match types.iter().position(|&kind| kind as usize >= known) {
        Some(index) => Err(LineProblem::TokenType { index, kind: types[index], types: known }),
        None => Ok(types),
    }
}

/// More than the most texts that any model tells apart by token types.
const TYPES: u32 = 1 << 16;

/// An id is text; an integer stands for its decimal text.
fn id(field: &str, value: Option<Value>) -> Result<Option<String>, LineProblem> {
    let expected = "a string or an integer";
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => {
            Err(LineProblem::FieldType { field: field.into(), found: "an empty string", expected })
        }
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Ok(Some(number.to_string())),
        Some(other) => Err(LineProblem::FieldType { field: field.into(), found: kind(&other), expected }),
    }
}

/// Tokens, and the label of each at the token.
type Labelled = (Vec<u32>, Vec<Option<u32>>);

/// Tokens as they are, without the padding at either end, and where they stand. Without `labels` every token is its own.
fn tokenized(
    ids: Value,
    labels: Option<Value>,
    mask: Option<Value>,
    vocabulary: usize,
) -> Result<(Labelled, Range<usize>), LineProblem> {
    let labels = labels.map(|labels| integers("labels", labels)).transpose()?;
    if let (Some(labels), Value::Array(ids)) = (&labels, &ids)
        && labels.len() != ids.len()
    {
        return Err(LineProblem::ListLength { field: "labels", found: labels.len(), expected: ids.len() });
    }
    let (tokens, attended) = attended(ids, mask, vocabulary)?;
    let labels = match labels {
        None => tokens.iter().map(|&token| Some(token)).collect(),
        Some(labels) => attended
            .clone()
            .map(|k| match labels[k] {
                IGNORED => Ok(None),
                label => token("labels", k, label, vocabulary).map(Some),
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(((tokens, labels), attended))
}

fn token(field: &'static str, index: usize, id: i64, vocabulary: usize) -> Result<u32, LineProblem> {
    match u32::try_from(id) {
        Ok(token) if (token as usize) < vocabulary => Ok(token),
        _ => Err(LineProblem::TokenRange { field, index, id, vocabulary }),
    }
}

/// Tokens without the padding at either end, and where they stand.
fn attended(ids: Value, mask: Option<Value>, vocabulary: usize) -> Result<(Vec<u32>, Range<usize>), LineProblem> {
    let ids = integers("input_ids", ids)?;
    let mask = mask.map(|mask| integers("attention_mask", mask)).transpose()?;
    if let Some(found) = mask.as_ref().map(Vec::len).filter(|&found| found != ids.len()) {
        return Err(LineProblem::ListLength { field: "attention_mask", found, expected: ids.len() });
    }
    let attended = match mask {
        None => 0..ids.len(),
        Some(mask) => {
            if let Some(index) = mask.iter().position(|&bit| bit != 0 && bit != 1) {
                let field = format!("attention_mask[{index}]");
                return Err(LineProblem::FieldType { field, found: "another number", expected: "0 or 1" });
            }
            let start = mask.iter().position(|&bit| bit == 1).unwrap_or(0);
            let end = mask.iter().rposition(|&bit| bit == 1).map_or(0, |last| last + 1);
            if let Some(hole) = mask[start..end].iter().position(|&bit| bit == 0) {
                return Err(LineProblem::MaskHole { index: start + hole });
            }
            start..end
        }
    };
    let tokens = attended.clone().map(|k| token("input_ids", k, ids[k], vocabulary)).collect::<Result<_, _>>()?;
    Ok((tokens, attended))
}

fn integers(field: &str, value: Value) -> Result<Vec<i64>, LineProblem> {
    let Value::Array(list) = value else {
        return Err(LineProblem::FieldType {
            field: field.into(),
            found: kind(&value),
            expected: "an array of integers",
        });
    };
    let integer = |(index, value): (usize, &Value)| {
        // Integers beyond i64 are out of every range, which is what is then said of them.
        value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX)).ok_or_else(|| LineProblem::FieldType {
            field: format!("{field}[{index}]"),
            found: kind(value),
            expected: "an integer",
        })
    };
    list.iter().enumerate().map(integer).collect()
}
