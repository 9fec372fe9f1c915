//! A JSON array whose elements are rows, as `json.dump` and pandas' `to_json(orient="records")` write it.
//!
//! The array as a whole is not parsed: its elements are cut out of the stream one at a time, by their brackets and
//! strings alone, and each is parsed as a line of JSON lines is.

use std::io::BufRead;
use std::path::Path;

use super::form::UTF8_MARK;
use super::lines::Lines;
use super::row::{Bounds, Content, Row, RowReader};
use crate::data::error::DataError;
use crate::data::line_problem::LineProblem;

/// The elements of an array, or lines if the stream does not begin with `[`.
pub(super) fn array_or_lines<'a>(
    mut reader: impl BufRead + 'a,
    file: &'a Path,
    bounds: Bounds,
) -> Box<dyn RowReader + 'a> {
    // What stands before an array may be the mark of UTF-8 and white space. More white space than a buffer holds is
    // counted as lines are; an error of reading is met again there, and reported.
    let first = reader.fill_buf().ok().and_then(|buffer| {
        let skipped = buffer.iter().take_while(|byte| byte.is_ascii_whitespace() || UTF8_MARK.contains(byte)).count();
        (buffer.get(skipped) == Some(&b'[')).then_some(skipped)
    });
    match first {
        Some(skipped) => {
            reader.consume(skipped + 1);
            Box::new(Array { bytes: reader.bytes(), file, number: 0, bounds, ended: false })
        }
        None => Box::new(Lines::new(reader, file, bounds, Content::Json)),
    }
}

/// A stream behind the `[` of an array.
struct Array<'a, R: BufRead> {
    bytes: std::io::Bytes<R>,
    file: &'a Path,
    /// Elements so far.
    number: usize,
    bounds: Bounds,
    /// Whether the array's `]` was read.
    ended: bool,
}

impl<R: BufRead> Array<'_, R> {
    fn byte(&mut self) -> Result<Option<u8>, DataError> {
        self.bytes.next().transpose().map_err(|source| DataError::Read { file: self.file.to_owned(), source })
    }

    /// The next byte that is not white space.
    fn next_token(&mut self) -> Result<Option<u8>, DataError> {
        loop {
            match self.byte()? {
                Some(byte) if byte.is_ascii_whitespace() => {}
                other => return Ok(other),
            }
        }
    }

    fn cut_short(&self) -> DataError {
        DataError::CutShort { file: self.file.to_owned(), form: "JSON array", rows: self.number }
    }

    fn between(&self, found: u8) -> DataError {
        let found = char::from(found).escape_default().to_string();
        DataError::BetweenElements { file: self.file.to_owned(), rows: self.number, found }
    }

    /// The text of the element that begins with this byte.
    fn element(&mut self, first: u8) -> Result<String, DataError> {
        self.number += 1;
        let mut text = vec![first];
        if first != b'{' {
            // No row: as much of it as shows what it is.
            return Err(self.fail(self.number, LineProblem::NotObject { found: scalar(first) }));
        }
        let (mut depth, mut in_string, mut escaped) = (1_usize, false, false);
        while depth > 0 {
            let Some(byte) = self.byte()? else {
                self.number -= 1;
                return Err(self.cut_short());
            };
            text.push(byte);
            if text.len() > self.bounds.row {
                return Err(self.fail(self.number, LineProblem::TooLong { limit: self.bounds.row }));
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth -= 1,
                _ => {}
            }
        }
        String::from_utf8(text)
            .map_err(|error| self.fail(self.number, LineProblem::Utf8 { byte: error.utf8_error().valid_up_to() + 1 }))
    }
}

/// What a value is that begins with this byte and is no object.
fn scalar(first: u8) -> &'static str {
    match first {
        b'"' => "a string",
        b'[' => "an array",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        b'-' | b'0'..=b'9' => "a number",
        _ => "no JSON",
    }
}

impl<R: BufRead> RowReader for Array<'_, R> {
    fn fail(&self, row: usize, problem: LineProblem) -> DataError {
        DataError::Row { file: self.file.to_owned(), row, problem }
    }

    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        if self.ended {
            return Ok(None);
        }
        let mut next = self.next_token()?;
        if self.number > 0 {
            match next {
                Some(b',') => next = self.next_token()?,
                Some(b']') => {}
                Some(found) => return Err(self.between(found)),
                None => return Err(self.cut_short()),
            }
        }
        match next {
            None => Err(self.cut_short()),
            Some(b']') => {
                self.ended = true;
                match self.next_token()? {
                    None => Ok(None),
                    Some(found) => Err(self.between(found)),
                }
            }
            Some(first) => {
                let text = self.element(first)?;
                Ok(Some(Row::new(self.number, Content::Json(text))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Rows};
    use super::*;
    use crate::data::columns::Columns;

    fn rows(text: &str) -> Result<Vec<(usize, String)>, String> {
        let bounds = Bounds { row: 40, text: 1 << 10, page: 1 << 10, keeps_bytes: false };
        let columns = Columns::default();
        let mut rows =
            Rows::of(text.as_bytes(), Path::new("x.json"), Format::Json, &columns, bounds).expect("a stream");
        let mut found = vec![];
        loop {
            let (chunk, end) = rows.chunk();
            let last = chunk.is_empty();
            for row in chunk {
                let number = row.number;
                let fields = row.fields().map_err(|problem| problem.to_string())?;
                found.push((number, serde_json::Value::Object(fields).to_string()));
            }
            end.map_err(|error| error.to_string())?;
            if last {
                return Ok(found);
            }
        }
    }

    #[test]
    fn elements_are_rows_whatever_their_strings_hold() {
        let text = "\u{FEFF} [\n {\"a\": \"],}\\\"[\", \"b\": [{\"c\": 1}]},\n{}\n, {\"d\": null}\n]\n";
        let expected = [(1, "{\"a\":\"],}\\\"[\",\"b\":[{\"c\":1}]}"), (2, "{}"), (3, "{\"d\":null}")];
        assert_eq!(rows(text).expect("sound"), expected.map(|(number, text)| (number, text.to_owned())));
        assert_eq!(rows("[]").expect("sound"), []);
        // a comma before the end is a slip that other readers forgive
        assert_eq!(rows("[{},]").expect("sound").len(), 1);
    }

    #[test]
    fn a_file_of_lines_by_the_same_name_is_read_as_lines() {
        let expected = [(1, "{\"a\":1}".to_owned()), (3, "{\"a\":2}".to_owned())];
        assert_eq!(rows("{\"a\": 1}\n\n{\"a\": 2}\n").expect("sound"), expected);
    }

    #[test]
    fn what_is_no_array_of_objects_is_refused_at_its_row() {
        for (text, complaint) in [
            ("[", "x.json: ends within its JSON array, behind row 0"),
            ("[{\"a\": 1}, {\"a\": \"b", "x.json: ends within its JSON array, behind row 1"),
            ("[{\"a\": 1}", "x.json: ends within its JSON array, behind row 1"),
            ("[{\"a\": 1} {", "x.json: behind row 1 stands `{`, where a comma or the array's end is due"),
            ("[{\"a\": 1}] []", "x.json: behind row 1 stands `[`, where a comma or the array's end is due"),
            ("[{\"a\": 1}, 7]", "x.json, row 2: a number, expected an object"),
            ("[{\"a\": nul}]", "broken JSON at column 10: expected ident"),
            (
                "[{\"a\": \"more than forty bytes, which is the bound of this test\"}]",
                "x.json, row 1: the line is longer than 40 bytes",
            ),
        ] {
            assert_eq!(rows(text).expect_err(text), complaint);
        }
    }
}
