//! Chat templates, rendered as transformers renders them, in bounded time and space.
//!
//! The language is Jinja's, with what transformers adds: `raise_exception`, `strftime_now`, `tojson` without HTML,
//! loop controls, blocks that trim the line they stand on, and `{% generation %}`. What a template prints of numbers,
//! lists and dictionaries is written as Python writes it, and texts have Python's methods.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};
use serde_json::{Map, Value as Json};

use super::date::ChatDate;
use super::generation::{self, Marks};
use super::options::ChatOptions;
use super::problem::{ChatProblem, escaped};
use super::python;
use super::template_file::{self, Texts};
use super::training_templates;
use crate::data::tokenizer::Tokenizer;

/// Steps that the rendering of one conversation may take: a step is an instruction, or 64 bytes of a text. Templates in
/// use take some hundreds for each turn.
const STEPS: u64 = 4 << 20;

/// Calls of macros within macros.
const DEPTH: usize = 64;

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// The chat template of a model, or two of them: one for conversations with tools.
pub(super) struct Template {
    environment: Environment<'static>,
    file: PathBuf,
    hash: blake3::Hash,
    /// Whether each of the two has marks of what the assistant generates.
    marked: [bool; 2],
    marks: Marks,
    /// Special tokens by their names.
    tokens: Map<String, Json>,
    date: ChatDate,
    /// Whether a conversation asked for the day.
    told: Arc<AtomicBool>,
    /// The family of the template, if TRL trains with another in its place.
    replaced_in_training: Option<&'static str>,
}

/// What is given to a template.
pub(super) struct Given<'a> {
    /// The turns.
    pub(super) messages: &'a [Json],
    /// Descriptions of tools.
    pub(super) tools: Option<&'a Json>,
    /// Further values of the row.
    pub(super) values: &'a Map<String, Json>,
    /// Whether the text ends with the beginning of an answer.
    pub(super) add_generation_prompt: bool,
    /// The most bytes of the text.
    pub(super) limit: usize,
}

/// A conversation as text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) text: String,
    /// Where the text is what the assistant generates, in bytes, if the template has marks.
    pub(super) generated: Option<Vec<Range<usize>>>,
}

/// What `raise_exception` was given.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl Template {
    /// The template that a person gave, or that of the tokenizer's folder.
    pub(super) fn find(options: &ChatOptions, tokenizer: Option<&Tokenizer>) -> Result<Self, ChatProblem> {
        let texts = match options.text {
            Some((name, text)) => Texts { file: name.into(), default: text.to_owned(), tool_use: None },
            None => template_file::find(options.template.as_deref(), tokenizer).map_err(|problem| match problem {
                ChatProblem::NoTemplate { looked, .. } => {
                    ChatProblem::NoTemplate { looked, recorded: options.recorded.clone() }
                }
                other => other,
            })?,
        };
        let date = options.date.unwrap_or_else(ChatDate::today);
        Self::new(texts, template_file::special_tokens(tokenizer), date)
    }

    /// A template that is given `tokens` by name, and this day as today's.
    pub(super) fn new(texts: Texts, tokens: Map<String, Json>, date: ChatDate) -> Result<Self, ChatProblem> {
        let Texts { file, default, tool_use } = texts;
        let all = format!("{default}\0{}", tool_use.as_deref().unwrap_or_default());
        let replaced_in_training = training_templates::family(&default);
        let (hash, marks) = (blake3::hash(all.as_bytes()), Marks::of(&all));
        let told = Arc::new(AtomicBool::new(false));
        let mut environment = environment(&marks, date, &told);
        let mut marked = [false; 2];
        let texts = [(DEFAULT, Some(default)), (TOOL_USE, tool_use)];
        for ((name, text), marked) in texts.into_iter().zip(&mut marked) {
            let Some(text) = text else { continue };
            let (text, has_marks) = generation::with_calls(&text);
            *marked = has_marks;
            environment
                .add_template_owned(name, text)
                .map_err(|error| ChatProblem::BrokenTemplate { file: file.clone(), message: message(&error) })?;
        }
        Ok(Self { environment, file, hash, marked, marks, tokens, date, told, replaced_in_training })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The family of the template, if TRL trains the assistant's turns with another in its place.
    pub(super) fn replaced_in_training(&self) -> Option<&'static str> {
        self.replaced_in_training
    }

    /// The first digits of the hash of the template's text.
    pub(super) fn hash(&self) -> String {
        self.hash.to_hex()[..16].to_owned()
    }

    /// The day that a conversation was told, if one asked.
    pub(super) fn day_told(&self) -> Option<ChatDate> {
        self.told.load(Ordering::Relaxed).then_some(self.date)
    }

    /// The text of a conversation.
    pub(super) fn render(&self, given: &Given<'_>) -> Result<Rendered, ChatProblem> {
        let problem = |error: &Error| self.problem(error, given.limit);
        let tool_use = self.environment.get_template(TOOL_USE).ok().filter(|_| given.tools.is_some());
        let marked = self.marked[usize::from(tool_use.is_some())];
        let template = match tool_use {
            Some(template) => template,
            None => self.environment.get_template(DEFAULT).map_err(|error| problem(&error))?,
        };
        let mut context: Vec<(&str, Value)> = Vec::new();
        let further = self.tokens.iter().chain(given.values);
        context.extend(further.map(|(name, value)| (name.as_str(), python::value(value))));
        context.push(("messages", given.messages.iter().map(python::value).collect::<Vec<_>>().into()));
        context.push(("tools", given.tools.map_or_else(|| Value::from(()), python::value)));
        context.push(("documents", Value::from(())));
        context.push(("add_generation_prompt", Value::from(given.add_generation_prompt)));
        // Marks are no part of the text that is bounded.
        let mut out = Bounded { bytes: Vec::new(), limit: given.limit.saturating_add(64 * (1 + given.messages.len())) };
        template.render_captured_to(Value::from_pairs(context), &mut out).map_err(|error| problem(&error))?;
        let text = String::from_utf8(out.bytes).unwrap_or_default();
        let (text, generated) = self.marks.taken_out(&text);
        if text.len() > given.limit {
            return Err(ChatProblem::TooMuch { file: self.file.clone(), limit: given.limit });
        }
        Ok(Rendered { text, generated: marked.then_some(generated) })
    }

    fn problem(&self, error: &Error, limit: usize) -> ChatProblem {
        let file = self.file.clone();
        if let Some(Raised(message)) = raised(error) {
            return ChatProblem::Raised { file, message: escaped(message) };
        }
        match error.kind() {
            ErrorKind::OutOfFuel => ChatProblem::Endless { file, steps: STEPS },
            ErrorKind::WriteFailure => ChatProblem::TooMuch { file, limit },
            _ => ChatProblem::Failed { file, message: message(error) },
        }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("file", &self.file).field("hash", &self.hash()).finish()
    }
}

fn raised(error: &Error) -> Option<&Raised> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(raised) = error.downcast_ref() {
            return Some(raised);
        }
        source = error.source();
    }
    None
}

/// What went wrong, and in which line of the template.
fn message(error: &Error) -> String {
    let detail = error.detail().map_or_else(String::new, |detail| format!(": {detail}"));
    let line = error.line().map_or_else(String::new, |line| format!(" (line {line} of the template)"));
    escaped(&format!("{}{detail}{line}", error.kind()))
}

/// An output that takes no more than so many bytes.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for &mut Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(io::Error::other("the text is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The language of chat templates as transformers sets it up.
fn environment(marks: &Marks, date: ChatDate, told: &Arc<AtomicBool>) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_recursion_limit(DEPTH);
    environment.set_fuel(Some(STEPS));
    environment.set_formatter(print);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: Value| python::text(&value));
    environment.add_filter("trim", trim);
    // nothing can be passed through in Python where there is `None`; templates ask it of `tools`
    environment
        .add_test("iterable", |value: Value| !value.is_none() && (value.is_undefined() || value.try_iter().is_ok()));
    environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        let raised = Raised(python::text(&message));
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
    });
    let told = told.clone();
    environment.add_function("strftime_now", move |format: String| {
        told.store(true, Ordering::Relaxed);
        let unknown = || Error::new(ErrorKind::InvalidOperation, format!("`strftime_now` of `{format}`"));
        date.format(&format).ok_or_else(unknown)
    });
    let marks = marks.clone();
    environment.add_function(generation::FUNCTION, move |state: &mut State, body: Kwargs| -> Result<Value, Error> {
        let caller: Value = body.get("caller")?;
        let said = caller.call(state, &[])?;
        Ok(Value::from(format!("{}{}{}", marks.begin, python::text(&said), marks.end)))
    });
    environment
}

/// Prints what stands between double braces.
fn print(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => out.write_str(text)?,
        (None, ValueKind::Invalid) => return Err(Error::new(ErrorKind::InvalidOperation, value.to_string())),
        _ => out.write_str(&python::text(value))?,
    }
    Ok(())
}

/// Python's `strip`, of whatever value, as the filter `trim` of Jinja calls it.
fn trim(value: Value, chars: Option<String>) -> String {
    let text = python::text(&value);
    match chars {
        None => text.trim().to_owned(),
        Some(chars) => text.trim_matches(|c| chars.contains(c)).to_owned(),
    }
}

/// Methods of Python's texts, lists and dictionaries.
fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    if let (Some(text), [argument]) = (value.as_str(), arguments)
        && let Some(part) = argument.as_str()
    {
        match name {
            "removeprefix" => return Ok(Value::from(text.strip_prefix(part).unwrap_or(text))),
            "removesuffix" => return Ok(Value::from(text.strip_suffix(part).unwrap_or(text))),
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
}

fn to_json(value: Value, arguments: Kwargs) -> Result<String, Error> {
    let indent = match arguments.get::<Option<Value>>("indent")?.filter(|value| !value.is_none()) {
        None => None,
        Some(value) => Some(match (value.as_str(), value.as_usize()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(width)) if width <= 64 => " ".repeat(width),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "`indent` of `tojson`")),
        }),
    };
    let separators = arguments.get::<Option<Value>>("separators")?.filter(|value| !value.is_none());
    let separators = separators.map(|pair| -> Result<_, Error> {
        let part = |k| pair.get_item_by_index(k).map(|part| python::text(&part));
        Ok((part(0)?, part(1)?))
    });
    let json = python::Json {
        ascii: arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent,
        separators: separators.transpose()?,
        sorted: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    arguments.assert_all_used()?;
    json.write(&value)
}
