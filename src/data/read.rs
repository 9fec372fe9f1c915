//! Files of text or tokens, read into a [`Dataset`].

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::dataset::{Dataset, Kind};
use super::document::{Document, Encoder, OfText, Split};
use super::error::DataError;
use super::excerpt::Source;
use super::fields;
use super::files::{Bounds, Format, Row, Rows};
use super::labels::Labels;
use super::line_problem::LineProblem;
use super::packing::Packer;
use super::specials::{Role, Specials};
use super::targets::Task;
use super::tokenizer::Tokenizer;
use super::tokens::TokenDataset;
use crate::foreign_file;

/// How a file is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DataOptions {
    /// Longer examples are cut to this many tokens, special tokens included. Without it an example that
    /// is longer than the model's positions is an error.
    pub max_length: Option<usize>,
    /// Training documents are joined and cut into blocks of this many tokens. Queries are never packed.
    pub pack: Option<usize>,
    /// After every so many rows of the file packing begins anew, and what filled no block is left out; a script that
    /// packs each batch of a mapped data set does so. None: one stream.
    pub pack_rows: Option<usize>,
    /// Special tokens added to text.
    pub specials: Specials,
    /// What names an example.
    pub id_field: IdField,
    /// Bytes that the job may use; none: no bound but the largest.
    pub memory: Option<u64>,
    /// Labels of texts, for a model that gives something for a whole text ([`crate::model::Model::labels`]). Without
    /// them tokens are targets.
    pub labels: Option<Arc<Labels>>,
}

/// What names an example of a file of JSON lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum IdField {
    /// `id` where a line has it, else the line's number.
    #[default]
    Default,
    /// The line's number; `id` is metadata.
    Line,
    /// Another field, which every line must have. It stays metadata, and so does `id`.
    Field(String),
}

/// What the model can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelLimits {
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Positions, if their number is limited.
    pub max_positions: Option<usize>,
    /// What the decoder reads beside an encoder; none for a model that reads one sequence.
    pub decoder: Option<DecoderTokens>,
}

/// The tokens that a decoder beside an encoder is given: its targets, shifted behind a first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderTokens {
    /// The first.
    pub start: u32,
    /// What it reads in place of a token that is no target.
    pub padding: u32,
}

/// What reading found, for the plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReadReport {
    /// Examples of the dataset (blocks, if packed).
    pub examples: usize,
    /// Positions of all examples.
    pub tokens: usize,
    /// Targets of all examples: tokens that are predicted, rows, or labelled texts.
    pub targets: usize,
    /// Examples (before packing) that `max_length` cut.
    pub cut: usize,
    /// Whether the tokenizer's own truncation would have cut the beginning of those, where their end was cut.
    pub cut_at_other_end: bool,
    /// Rows without a token, which were skipped.
    pub empty: usize,
    /// Whether end tokens are targets, though the tokenizer's files name the end token as padding, which collators
    /// leave out of the loss.
    pub end_may_be_padding: bool,
    /// Positions of the longest example.
    pub longest: usize,
    /// Tokens of the longest example before it was cut or packed.
    pub longest_before_cut: usize,
    /// What packing did.
    pub packed: Option<Packed>,
    /// Whether examples are rows of numbers or images, not sequences of tokens.
    pub is_rows: bool,
    /// The first example, token for token, and whether each is a target.
    pub first: Vec<(String, bool)>,
}

/// What packing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Documents read.
    pub documents: usize,
    /// Tokens at the end, or at ends of groups of rows, that filled no block and were left out.
    pub dropped_tokens: usize,
    /// Rows after which packing began anew.
    pub rows: Option<usize>,
}

/// Reads a file of text or tokens; its ending says which format it is.
///
/// # Errors
/// [`DataError`] names the file and the first line that cannot be used.
pub fn read_tokens(
    file: &Path,
    role: Role,
    tokenizer: Option<&Arc<Tokenizer>>,
    limits: ModelLimits,
    options: DataOptions,
) -> Result<(Dataset, ReadReport), DataError> {
    let format = Format::of(file)?;
    let open = foreign_file::open(file).map_err(|source| DataError::Read { file: file.to_owned(), source })?;
    read_tokens_from(BufReader::new(open), file, format, role, tokenizer, limits, options)
}

/// As [`read_tokens`], from any stream; `file` is its name in messages.
///
/// # Errors
/// As [`read_tokens`].
pub fn read_tokens_from(
    reader: impl BufRead,
    file: &Path,
    format: Format,
    role: Role,
    tokenizer: Option<&Arc<Tokenizer>>,
    limits: ModelLimits,
    options: DataOptions,
) -> Result<(Dataset, ReadReport), DataError> {
    let pack = options.pack.filter(|_| role == Role::Train);
    check_length("--max-length", options.max_length, None)?;
    check_length("--pack", pack, limits.max_positions)?;
    if options.labels.is_some() && options.pack.is_some() {
        return Err(DataError::PackedLabels { file: file.to_owned() });
    }
    if limits.decoder.is_some() && options.pack.is_some() {
        return Err(DataError::PackedPairs { file: file.to_owned() });
    }
    let bounds = Bounds::of(options.memory);
    let tokens_of = tokenizer.map(Arc::as_ref);
    let encoder = Encoder::new(tokens_of, options.specials, role, limits.vocabulary, bounds.text)?
        .with_labels(options.labels.as_deref())
        .with_decoder(limits.decoder)
        .cut_to(options.max_length);
    // lines of plain text have no names of their own
    let id_field = if format == Format::Text { &IdField::Line } else { &options.id_field };
    let mut collector = Collector {
        file,
        max_length: options.max_length,
        max_positions: limits.max_positions,
        packer: pack.map(Packer::new),
        pack_rows: options.pack_rows,
        rows: 0,
        dataset: match &options.labels {
            None => TokenDataset::new(tokenizer.cloned()),
            Some(labels) => {
                let task = labels.task.unwrap_or(Task::Classification);
                TokenDataset::labelled(tokenizer.cloned(), task, labels.outputs)
            }
        },
        lines: HashMap::new(),
        report: ReadReport::default(),
    };
    let mut texts = false;
    let mut rows = Rows::of(reader, file, format, bounds);
    loop {
        let (chunk, end) = rows.chunk();
        // Parsed in any order, taken in the file's: the first wrong row is the one reported.
        let parse = |row: Row| row.fields().and_then(|fields| fields::parse(fields, &encoder, id_field));
        let documents: Vec<_> = chunk.into_par_iter().map(|row| (row.number, parse(row))).collect();
        let last = documents.is_empty();
        for (number, document) in documents {
            texts |= document.as_ref().is_ok_and(|document| document.source != Source::Tokens);
            let taken = document.and_then(|document| collector.take(number, document));
            taken.map_err(|problem| rows.fail(number, problem))?;
            collector.take_blocks()?;
            collector.end_row();
        }
        end?;
        if last {
            collector.report.end_may_be_padding = texts && encoder.end_may_be_padding();
            collector.report.cut_at_other_end = texts
                && collector.report.cut > 0
                && options.labels.is_none()
                && limits.decoder.is_none()
                && tokens_of.is_some_and(Tokenizer::cuts_the_beginning);
            return collector.finish(pack);
        }
    }
}

fn check_length(option: &'static str, length: Option<usize>, positions: Option<usize>) -> Result<(), DataError> {
    match length {
        Some(length) if length < 2 || positions.is_some_and(|positions| length > positions) => {
            Err(DataError::Length { option, length, positions })
        }
        _ => Ok(()),
    }
}

/// Takes documents in the file's order and checks what concerns more than one line.
struct Collector<'a> {
    file: &'a Path,
    max_length: Option<usize>,
    max_positions: Option<usize>,
    packer: Option<Packer>,
    pack_rows: Option<usize>,
    /// Rows read so far.
    rows: usize,
    dataset: TokenDataset,
    /// Line of each id.
    lines: HashMap<String, usize>,
    report: ReadReport,
}

impl Collector<'_> {
    fn take(&mut self, line: usize, document: Document) -> Result<(), LineProblem> {
        let Document { id, metadata, source, mut tokens, mut labels, mut target, split } = document;
        if tokens.is_empty() {
            self.report.empty += 1;
            return Ok(());
        }
        let id = id.unwrap_or_else(|| line.to_string());
        if let Some(first) = self.lines.insert(id.clone(), line) {
            return Err(LineProblem::DuplicateId { id, first });
        }
        if let Some(Split { encoder, cut }) = split {
            // the last token is read by no row
            self.report.longest_before_cut = self.report.longest_before_cut.max(tokens.len() - 1 + cut);
            self.report.cut += usize::from(cut > 0);
            self.dataset.push_split(id, &metadata, source, (&tokens, &labels), Some(encoder));
            return Ok(());
        }
        let whole = tokens.len() + target.as_ref().map_or(0, |target| target.cut);
        self.report.longest_before_cut = self.report.longest_before_cut.max(whole);
        if let Some(length) = self.max_length.filter(|&length| length < whole) {
            tokens.truncate(length);
            labels.truncate(length);
            if let Some(target) = &mut target {
                target.types.truncate(length);
            }
            self.report.cut += 1;
        }
        let no_target = LineProblem::NoTarget { tokens: tokens.len(), cut: tokens.len() < whole };
        if let Some(packer) = &mut self.packer {
            packer.push(id, &tokens, &labels);
            return Ok(());
        }
        if let Some(positions) = self.max_positions.filter(|&positions| positions < tokens.len()) {
            return Err(LineProblem::TooManyTokens { tokens: tokens.len(), positions });
        }
        if let Some(OfText { target, types, .. }) = target {
            self.dataset.push_labelled(id, &metadata, source, (&tokens, &types), &target);
            return Ok(());
        }
        if labels.iter().skip(1).all(Option::is_none) {
            return Err(no_target);
        }
        self.dataset.push(id, &metadata, source, &tokens, &labels);
        Ok(())
    }

    /// Counts a row, and begins packing anew if that was the last of its group.
    fn end_row(&mut self) {
        self.rows += 1;
        if let (Some(packer), Some(rows)) = (&mut self.packer, self.pack_rows)
            && self.rows.is_multiple_of(rows)
        {
            packer.drop_rest();
        }
    }

    fn take_blocks(&mut self) -> Result<(), DataError> {
        let Some(packer) = &mut self.packer else { return Ok(()) };
        while let Some(block) = packer.block() {
            let number = self.dataset.examples().len();
            if block.labels.iter().skip(1).all(Option::is_none) {
                return Err(DataError::BlockWithoutTarget { file: self.file.to_owned(), block: number });
            }
            let metadata = Map::from_iter([("documents".to_owned(), Value::from(block.documents))]);
            self.dataset.push(format!("block-{number}"), &metadata, Source::Tokens, block.tokens, block.labels);
        }
        Ok(())
    }

    fn finish(self, pack: Option<usize>) -> Result<(Dataset, ReadReport), DataError> {
        let Self { file, packer, pack_rows, dataset, lines, mut report, .. } = self;
        if lines.is_empty() {
            return Err(DataError::Empty { file: file.to_owned() });
        }
        let n = dataset.examples().len();
        if let Some(packer) = packer {
            report.packed = Some(Packed { documents: lines.len(), dropped_tokens: packer.rest(), rows: pack_rows });
            if n == 0 {
                let length = pack.unwrap_or_default();
                return Err(DataError::NoBlock { file: file.to_owned(), tokens: packer.rest(), length });
            }
        }
        report.examples = n;
        for i in 0..n {
            report.tokens += dataset.positions(i);
            report.targets += if dataset.is_labelled() { 1 } else { dataset.targets(i) };
            report.longest = report.longest.max(dataset.positions(i));
        }
        report.first = dataset.marked_tokens(0);
        Ok((Dataset::new(Kind::Tokens(dataset)), report))
    }
}
