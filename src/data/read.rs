//! Files of text or tokens, read into a [`Dataset`].

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::chat::Chat;
use super::dataset::{Dataset, Kind};
use super::document::{Document, OfText, Split};
use super::encoder::Encoder;
use super::error::DataError;
use super::excerpt::ExcerptOf;
use super::fields;
use super::files::{Bounds, Format, Row, Rows, expand};
use super::line_problem::LineProblem;
use super::mapped_rows::MappedRows;
use super::packing::{Block, Packer};
use super::read_report::{LeftOut, Packed, ReadReport};
use super::reading_options::{DataOptions, ModelLimits, names_of};
use super::responses::{ResponseReport, ResponseTokens};
use super::seen_ids::SeenIds;
use super::specials::Role;
use super::targets::Task;
use super::tokenizer::Tokenizer;
use super::tokens::TokenDataset;

/// The column in which the pieces of a long example have the whole one's id.
const PIECE_OF: &str = "piece_of";

/// Reads a file of text or tokens, or several ([`expand`]) as if they stood in one; names and contents show their formats.
///
/// # Errors
/// [`DataError`] names the file and the first row that cannot be used.
pub fn read_tokens(
    path: &Path,
    role: Role,
    tokenizer: Option<&Arc<Tokenizer>>,
    limits: ModelLimits,
    options: DataOptions,
) -> Result<(Dataset, ReadReport), DataError> {
    let files = expand(path)?;
    let bounds = Bounds::of(options.memory);
    let chat = Chat::new(options.chat.clone(), tokenizer.map(Arc::as_ref));
    let mut reading = Reading::new(path, role, tokenizer, limits, &options, &chat, bounds)?;
    if reading.needs_count() {
        let mut rows = 0;
        for file in &files {
            rows += count(Rows::open(file, &options.columns, bounds)?.0)?;
        }
        reading.counted(rows);
    }
    for file in &files {
        let (rows, format) = Rows::open(file, &options.columns, bounds)?;
        reading.read(rows, format)?;
    }
    reading.finish()
}

/// As [`read_tokens`], from any stream; `file` is its name in messages. For shares of several processes the stream is
/// read into memory, since its rows have to be counted first.
///
/// # Errors
/// As [`read_tokens`].
pub fn read_tokens_from(
    mut reader: impl BufRead,
    file: &Path,
    format: Format,
    role: Role,
    tokenizer: Option<&Arc<Tokenizer>>,
    limits: ModelLimits,
    options: DataOptions,
) -> Result<(Dataset, ReadReport), DataError> {
    let bounds = Bounds::of(options.memory);
    let chat = Chat::new(options.chat.clone(), tokenizer.map(Arc::as_ref));
    let mut reading = Reading::new(file, role, tokenizer, limits, &options, &chat, bounds)?;
    if reading.needs_count() {
        let mut bytes = vec![];
        reader.read_to_end(&mut bytes).map_err(|source| DataError::Read { file: file.to_owned(), source })?;
        reading.counted(count(Rows::of(&bytes[..], file, format, &options.columns, bounds)?)?);
        reading.read(Rows::of(&bytes[..], file, format, &options.columns, bounds)?, format)?;
        return reading.finish();
    }
    reading.read(Rows::of(reader, file, format, &options.columns, bounds)?, format)?;
    reading.finish()
}

/// How many rows there are.
fn count(mut rows: Rows<'_>) -> Result<usize, DataError> {
    let mut count = 0;
    rows.each(|_, _| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

/// Reading of one file after another into one dataset.
struct Reading<'a> {
    encoder: Encoder<'a>,
    chat: &'a Chat,
    options: &'a DataOptions,
    role: Role,
    collector: Collector<'a>,
    pack: Option<usize>,
    /// Whether a row had text, not tokens.
    texts: bool,
}

impl<'a> Reading<'a> {
    fn new(
        path: &'a Path,
        role: Role,
        tokenizer: Option<&'a Arc<Tokenizer>>,
        limits: ModelLimits,
        options: &'a DataOptions,
        chat: &'a Chat,
        bounds: Bounds,
    ) -> Result<Self, DataError> {
        let pack = options.pack.filter(|_| role == Role::Train);
        check_length("--max-length", options.max_length, None)?;
        check_length("--pack", pack, limits.max_positions)?;
        if options.labels.is_some() && options.pack.is_some() {
            return Err(DataError::PackedLabels { file: path.to_owned() });
        }
        if limits.decoder.is_some() && options.pack.is_some() {
            return Err(DataError::PackedPairs { file: path.to_owned() });
        }
        if limits.masked.is_some() && options.pack.is_some() {
            return Err(DataError::PackedMasks { file: path.to_owned() });
        }
        let tokens_of = tokenizer.map(Arc::as_ref);
        let encoder = Encoder::new(
            tokens_of,
            (options.specials, options.end_token.as_deref()),
            role,
            limits.vocabulary,
            bounds.text,
        )?
        .with_labels(options.labels.as_deref())
        .with_decoder(limits.decoder)
        .with_masks(limits.masked)
        .cut_to(options.max_length)
        .with_loss_on(chat.loss_on())
        .of_trl(options.as_trl);
        let collector = Collector {
            path,
            max_length: options.max_length,
            keep_end: options.keep_end,
            split_long: options.split_long && role == Role::Train,
            max_positions: limits.max_positions,
            packer: pack.map(Packer::new),
            pack_rows: options.pack_rows,
            pack_processes: options.pack_processes,
            ends: vec![],
            shorter_blocks: options.pack_keeps_rest.then_some(0),
            as_trl: options.as_trl && role == Role::Train,
            role,
            padding: tokens_of
                .filter(|_| role == Role::Train && (options.padding_without_loss || options.responses.is_some()))
                .and_then(Tokenizer::padding),
            responses: options
                .responses
                .as_ref()
                .map(|templates| ResponseTokens::of(templates, tokens_of))
                .transpose()?,
            without_response: 0,
            rows: 0,
            dataset: match &options.labels {
                None if limits.masked.is_some() => TokenDataset::masked(tokenizer.cloned()),
                None => TokenDataset::new(tokenizer.cloned()),
                Some(labels) => {
                    let task = labels.task.unwrap_or(Task::Classification);
                    TokenDataset::labelled(tokenizer.cloned(), task, labels.outputs)
                }
            },
            ids: SeenIds::default(),
            before: 0,
            report: ReadReport::default(),
        };
        Ok(Self { encoder, chat, options, role, collector, pack, texts: false })
    }

    /// Whether the number of rows has to be known before they are read: several processes have a share each.
    fn needs_count(&self) -> bool {
        self.collector.packer.is_some() && self.options.pack_processes.is_some_and(|processes| processes > 1)
    }

    /// Says how many rows will be read.
    fn counted(&mut self, rows: usize) {
        let mapped = MappedRows { rows: self.options.pack_rows, processes: self.options.pack_processes.unwrap_or(1) };
        self.collector.ends = mapped.ends(rows).collect();
        self.collector.ends.reverse();
    }

    /// Reads the rows of one file.
    fn read(&mut self, mut rows: Rows<'_>, format: Format) -> Result<(), DataError> {
        let (columns, id_field) = names_of(format, &self.options.columns, &self.options.id_field);
        let mut last_number = 0;
        loop {
            let (chunk, end) = rows.chunk();
            // Parsed in any order, taken in the file's: the first wrong row is the one reported.
            let parse = |row: Row| {
                row.fields()
                    .and_then(|fields| fields::parse(fields, &self.encoder, self.chat, id_field, columns, self.role))
            };
            let documents: Vec<_> = chunk.into_par_iter().map(|row| (row.number, parse(row))).collect();
            let last = documents.is_empty();
            for (number, document) in documents {
                last_number = number;
                self.texts |= document.as_ref().is_ok_and(|document| document.source != ExcerptOf::Tokens);
                let taken = document.and_then(|document| self.collector.take(number, document));
                taken.map_err(|problem| rows.fail(number, problem))?;
                self.collector.take_blocks();
                self.collector.end_row();
            }
            end?;
            if last {
                self.collector.before += last_number;
                return Ok(());
            }
        }
    }

    fn finish(self) -> Result<(Dataset, ReadReport), DataError> {
        let Self { encoder, chat, options, mut collector, pack, texts, .. } = self;
        collector.report.end_may_be_padding = texts && encoder.end_may_be_padding();
        collector.report.kept_end = options.keep_end && collector.report.cut > 0;
        collector.report.cut_at_other_end = texts
            && collector.report.cut > 0
            && options.labels.is_none()
            && !options.keep_end
            && encoder.decoder().is_none()
            && encoder.cuts_the_beginning();
        collector.report.chat = chat.report();
        collector.report.parted = encoder.parted();
        collector.report.doubled = encoder.doubled();
        collector.report.responses = options
            .responses
            .clone()
            .map(|templates| ResponseReport { templates, missing: collector.without_response });
        collector.report.end_may_be_padding &= collector.padding.is_none();
        collector.finish(pack)
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

/// Takes documents in the files' order and checks what concerns more than one row.
struct Collector<'a> {
    path: &'a Path,
    max_length: Option<usize>,
    keep_end: bool,
    split_long: bool,
    max_positions: Option<usize>,
    packer: Option<Packer>,
    pack_rows: Option<usize>,
    pack_processes: Option<usize>,
    /// Numbers of rows behind which packing begins anew, the next one last; empty if `pack_rows` alone says where.
    ends: Vec<usize>,
    /// Blocks of what filled none; `None` where that is left out.
    shorter_blocks: Option<usize>,
    /// Whether examples are those that TRL made ([`DataOptions::as_trl`]).
    as_trl: bool,
    role: Role,
    /// The padding, if no occurrence of it is a target.
    padding: Option<u32>,
    /// The tokens that tell answers from questions, if answers alone are targets.
    responses: Option<ResponseTokens>,
    /// Examples without a target behind them.
    without_response: usize,
    /// Rows read so far.
    rows: usize,
    dataset: TokenDataset,
    /// The number of each id's row through all files.
    ids: SeenIds,
    /// Rows, or lines, of the files before.
    before: usize,
    report: ReadReport,
}

impl Collector<'_> {
    /// Takes the document of the row with this number in its file.
    fn take(&mut self, number: usize, document: Document) -> Result<(), LineProblem> {
        let Document { id, mut metadata, source, mut tokens, mut labels, mut target, split, mut types, rejected } =
            document;
        if tokens.is_empty() {
            self.report.empty += 1;
            return Ok(());
        }
        let number = self.before + number;
        let id = id.unwrap_or_else(|| number.to_string());
        if let Some(first) = self.ids.insert(&id, number) {
            return Err(LineProblem::DuplicateId { id, first });
        }
        if let Some(Split { encoder, cut }) = split {
            // the last token is read by no row
            self.report.longest_before_cut = self.report.longest_before_cut.max(tokens.len() - 1 + cut);
            self.report.cut += usize::from(cut > 0);
            self.dataset.push_split(id, &metadata, source, (&tokens, &labels), encoder);
            return Ok(());
        }
        if let Some(rejected) = rejected {
            return self.take_contrast(id, &metadata, source, [(tokens, labels), rejected]);
        }
        let whole = tokens.len() + target.as_ref().map_or(0, |target| target.cut);
        self.report.longest_before_cut = self.report.longest_before_cut.max(whole);
        if self.split_long {
            let written_over = metadata.insert(PIECE_OF.to_owned(), Value::from(id.as_str()));
            if written_over.is_some() {
                return Err(LineProblem::ColumnOfPieces { column: PIECE_OF });
            }
        }
        if let Some(length) = self.max_length.filter(|&length| length < whole && self.split_long) {
            return self.take_pieces(&id, number, &metadata, (&tokens, labels), length);
        }
        if let Some(length) = self.max_length.filter(|&length| length < whole) {
            shorten(&mut tokens, length, self.keep_end);
            shorten(&mut labels, length, self.keep_end);
            types.truncate(length);
            if let Some(target) = &mut target {
                target.types.truncate(length);
            }
            self.report.cut += 1;
        }
        self.leave_padding_out(&mut labels);
        if !self.choose_responses(&mut labels) {
            self.report.without_target.add(tokens.len());
            return Ok(());
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
        if self.dataset.has_no_target(&labels) {
            // an empty text with its end token is a row of training in which nothing is predicted
            let left_out = match (self.as_trl, tokens.len()) {
                (true, 1) => &mut self.report.without_target,
                (true, n) if n < whole => &mut self.report.cut_away,
                _ => return Err(no_target),
            };
            left_out.add(tokens.len());
            return Ok(());
        }
        if self.dataset.is_masked() {
            self.dataset.push_masked(id, &metadata, source, (&tokens, &types), &labels);
        } else {
            self.dataset.push(id, &metadata, source, &tokens, &labels);
        }
        Ok(())
    }

    /// Takes a training example in pieces, each of which knows nothing of those before it. They are called by its id with
    /// their number behind `#`.
    fn take_pieces(
        &mut self,
        id: &str,
        number: usize,
        metadata: &Map<String, Value>,
        (tokens, mut labels): (&[u32], Vec<Option<u32>>),
        length: usize,
    ) -> Result<(), LineProblem> {
        if let Some(positions) = self.max_positions.filter(|&positions| positions < length) {
            return Err(LineProblem::TooManyTokens { tokens: length, positions });
        }
        self.leave_padding_out(&mut labels);
        self.report.divided += 1;
        for (k, (tokens, labels)) in tokens.chunks(length).zip(labels.chunks(length)).enumerate() {
            let id = format!("{id}#{}", k + 1);
            if let Some(first) = self.ids.insert(&id, number) {
                return Err(LineProblem::DuplicateId { id, first });
            }
            match self.dataset.has_no_target(labels) {
                true => self.report.without_target.add(tokens.len()),
                false => self.dataset.push(id, metadata, ExcerptOf::Tokens, tokens, labels),
            }
        }
        Ok(())
    }

    /// Takes the loss from padding, where a collator left it out.
    fn leave_padding_out(&mut self, labels: &mut [Option<u32>]) {
        let Some(padding) = self.padding else { return };
        let taken = labels.iter_mut().enumerate().filter(|(_, label)| **label == Some(padding));
        self.report.padding += taken.map(|(k, label)| (*label = None, usize::from(k > 0)).1).sum::<usize>();
    }

    /// Leaves answers alone as targets, where that was asked for. `false` of a training example without one, which a
    /// trainer has without loss.
    fn choose_responses(&mut self, labels: &mut Vec<Option<u32>>) -> bool {
        let Some(responses) = &self.responses else { return true };
        if self.role == Role::Queries {
            // a query that has a prompt asks about its completion
            if labels.iter().all(Option::is_some) {
                let mut chosen = labels.clone();
                match responses.choose(&mut chosen) {
                    true => *labels = chosen,
                    false => self.without_response += 1,
                }
            }
            return true;
        }
        let is_there = responses.choose(labels) && labels.iter().skip(1).any(Option::is_some);
        self.without_response += usize::from(!is_there);
        is_there
    }

    /// Takes a contrast; each of its sequences is cut by itself.
    fn take_contrast(
        &mut self,
        id: String,
        metadata: &Map<String, Value>,
        source: ExcerptOf,
        mut sequences: [(Vec<u32>, Vec<Option<u32>>); 2],
    ) -> Result<(), LineProblem> {
        let mut was_cut = false;
        for (tokens, labels) in &mut sequences {
            let whole = tokens.len();
            self.report.longest_before_cut = self.report.longest_before_cut.max(whole);
            if let Some(length) = self.max_length.filter(|&length| length < whole) {
                shorten(tokens, length, self.keep_end);
                shorten(labels, length, self.keep_end);
            }
            let cut = tokens.len() < whole;
            was_cut |= cut;
            if let Some(positions) = self.max_positions.filter(|&positions| positions < tokens.len()) {
                return Err(LineProblem::TooManyTokens { tokens: tokens.len(), positions });
            }
            if labels.iter().skip(1).all(Option::is_none) {
                return Err(LineProblem::NoTarget { tokens: tokens.len(), cut });
            }
        }
        let [chosen, rejected] = sequences;
        if chosen == rejected {
            return Err(LineProblem::ContrastOfEquals { cut: was_cut });
        }
        self.report.cut += usize::from(was_cut);
        self.report.contrasts += 1;
        self.dataset.push_contrast(id, metadata, source, chosen, rejected);
        Ok(())
    }

    /// Counts a row, and begins packing anew if that was the last of its group.
    fn end_row(&mut self) {
        self.rows += 1;
        let ends = match self.ends.last() {
            Some(&end) => end == self.rows,
            None => self.pack_rows.is_some_and(|rows| self.rows.is_multiple_of(rows)),
        };
        if ends {
            self.ends.pop();
            self.take_rest();
            if let Some(packer) = &mut self.packer {
                packer.drop_rest();
            }
        }
    }

    /// Takes the blocks that are full. One that predicts nothing is left out: a training loop that has it takes nothing
    /// from it.
    fn take_blocks(&mut self) {
        let Some(packer) = &mut self.packer else { return };
        while let Some(block) = packer.block() {
            push_block(&mut self.dataset, block, &mut self.report.without_target);
        }
    }

    /// Makes a shorter block of what fills none, if such blocks are kept. One of a single token has no target, and is
    /// left out.
    fn take_rest(&mut self) {
        let (Some(packer), Some(count)) = (&mut self.packer, &mut self.shorter_blocks) else { return };
        let Some(block) = packer.shorter_block() else { return };
        *count += usize::from(push_block(&mut self.dataset, block, &mut self.report.without_target));
    }

    fn finish(mut self, pack: Option<usize>) -> Result<(Dataset, ReadReport), DataError> {
        self.take_rest();
        let Self { path, packer, pack_rows, pack_processes, shorter_blocks, dataset, ids, mut report, .. } = self;
        if ids.is_empty() {
            return Err(DataError::Empty { file: path.to_owned() });
        }
        let n = dataset.examples().len();
        if let Some(packer) = packer {
            let dropped_tokens = packer.rest();
            let (documents, rows, shares) = (ids.len(), pack_rows, pack_processes);
            report.packed = Some(Packed { documents, dropped_tokens, shorter_blocks, rows, shares });
            if n == 0 && report.without_target.examples > 0 {
                return Err(DataError::NoBlockWithTarget { file: path.to_owned() });
            }
            if n == 0 {
                let length = pack.unwrap_or_default();
                return Err(DataError::NoBlock { file: path.to_owned(), tokens: packer.rest(), length });
            }
        }
        if n == 0 {
            let file = path.to_owned();
            return Err(match &report.responses {
                Some(responses) => DataError::NoResponse { file, template: responses.templates.response.clone() },
                None => DataError::NoExampleWithTarget { file },
            });
        }
        report.examples = n;
        for i in 0..n {
            report.tokens += dataset.positions(i);
            report.targets += if dataset.is_labelled() { 1 } else { dataset.targets(i) };
            report.longest = report.longest.max(dataset.positions(i));
        }
        report.first = dataset.marked_tokens(0);
        dataset.forget();
        Ok((Dataset::new(Kind::Tokens(dataset)), report))
    }
}

/// Keeps so many of a longer list: the first, or the last.
fn shorten<T>(list: &mut Vec<T>, length: usize, keep_end: bool) {
    match keep_end {
        true => drop(list.drain(..list.len().saturating_sub(length))),
        false => list.truncate(length),
    }
}

/// Adds a block to a dataset; `false`, and it is counted among those left out, if it predicts nothing. Blocks are numbered
/// as training had them, those left out included.
fn push_block(dataset: &mut TokenDataset, block: Block<'_>, without_target: &mut LeftOut) -> bool {
    if block.labels.iter().skip(1).all(Option::is_none) {
        without_target.add(block.tokens.len());
        return false;
    }
    let number = dataset.examples().len() + without_target.examples;
    let metadata = Map::from_iter([("documents".to_owned(), Value::from(block.documents))]);
    dataset.push(format!("block-{number}"), &metadata, ExcerptOf::Tokens, block.tokens, block.labels);
    true
}
