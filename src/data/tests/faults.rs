//! Faults of data files, each in every form of file that can have it, as pandas, datasets and pyarrow write it
//! (`fixtures/generators/faults.py`): one message that names the file, the row and the column, whatever the form is.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::Hint;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/forms").join(name)
}

/// A file as the small GPT-2 of the fixtures reads training examples.
fn read_small(file: &Path, options: DataOptions) -> Result<(Dataset, ReadReport), DataError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gpt2-tiny");
    let tokenizer = Arc::new(Tokenizer::find(&folder, None).expect("a tokenizer"));
    let limits = ModelLimits { vocabulary: 512, max_positions: Some(64), decoder: None, masked: None };
    read_tokens(file, Role::Train, Some(&tokenizer), limits, options)
}

/// Message, causes and hint of a file that is refused.
#[track_caller]
fn refusal(file: &Path) -> String {
    let error =
        read_small(file, DataOptions::default()).map(drop).expect_err(&format!("{} is refused", file.display()));
    let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
    format!("{error}{cause}\n{}", error.hint().unwrap_or_default())
}

/// Every file of a folder of faults; of a folder of `save_to_disk` the folder.
fn forms(fault: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(fixture("faults").join(fault)).expect("a folder of faults");
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.sort();
    found
}

/// A fault, the row that shows it, what its message says, and how many forms can have it.
const FAULTS: [(&str, usize, &str, usize); 12] = [
    ("absent", 1, "no `text`, no `prompt` and `completion`", 10),
    ("number", 1, "`text` is an integer, expected a string", 7),
    ("truth", 1, "`text` is a boolean, expected a string", 7),
    ("list", 1, "`text` is an array, expected a string", 7),
    ("object", 1, "`text` is an object, expected a string", 7),
    ("tokens", 1, "`input_ids` is a string, expected an array of integers", 10),
    ("fraction", 1, "`id` is a number with a fraction, expected a string or an integer", 7),
    ("repeated", 3, "the id `a` is already that of", 10),
    ("changed", 2, "`id` is an object, expected a string or an integer", 3),
    ("number-and-text", 2, "the id `1` is already that of", 3),
    ("one-number", 2, "`text` is an integer, expected a string", 3),
    ("one-list", 2, "`text` is an array, expected a string", 3),
];

#[test]
fn each_fault_is_named_with_file_row_and_column_in_every_form() {
    let mut wrong = vec![];
    for (fault, row, expected, count) in FAULTS {
        let forms = forms(fault);
        assert_eq!(forms.len(), count, "{fault}: {forms:?}");
        for file in forms {
            let said = refusal(&file);
            let shown = file.display().to_string();
            let places = [format!("{shown}:{row}: "), format!("{shown}, row {row}: ")];
            // of a folder the file in it is named
            let in_folder = said.starts_with(&shown) && said.contains(&format!(".arrow, row {row}: "));
            let is_placed = places.iter().any(|place| said.starts_with(place)) || in_folder;
            if !is_placed || !said.contains(expected) {
                wrong.push(format!("{fault}, {}: {said}", file.file_name().unwrap_or_default().display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Bytes that are no UTF-8: of a text that is Latin-1 the row, of a file in UTF-16 the encoding.
#[test]
fn other_encodings_are_named() {
    let mut wrong = vec![];
    for file in forms("latin") {
        let said = refusal(&file);
        let name = file.file_name().unwrap_or_default().display().to_string();
        let is_right = match name.as_str() {
            name if name.starts_with("rows.utf16") => said.contains("UTF-16") && said.contains("UTF-8"),
            // a column of bytes is no column of texts
            "rows.parquet" | "rows.arrow" => {
                said.contains("row 2: `text` is bytes that are no UTF-8, expected a string")
            }
            "rows.csv" | "rows.tsv" => said.contains(", row 2: `text` has invalid UTF-8 at its byte 2"),
            _ => said.contains("UTF-8"),
        };
        if !is_right || !said.starts_with(&file.display().to_string()) {
            wrong.push(format!("{name}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// A file that was not copied to its end is refused by its name: within a row always, and between two wherever the form
/// says how many there are.
#[test]
fn files_that_were_cut_short_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut wrong = vec![];
    for name in [
        "train.jsonl",
        "train.json",
        "train.csv",
        "train.tsv",
        "train.jsonl.gz",
        "train.csv.zst",
        "train.parquet",
        "train-datasets.parquet",
        "train.arrow",
        "train-zstd.arrow",
        "train-lz4.feather",
    ] {
        let bytes = fs::read(fixture(name)).expect("a fixture");
        let mut places: Vec<usize> = (1..8).map(|k| bytes.len() * k / 8).collect();
        // within the last row, whose text is quoted or in a string
        places.push(bytes.len() - 2);
        for length in places {
            let mut part = bytes[..length].to_vec();
            // a line that ends before its last cells is one that says so; what ends with a line is a whole table
            while matches!(name, "train.csv" | "train.tsv" | "train.jsonl") && part.last() == Some(&b'\n') {
                part.pop();
            }
            let file = folder.path().join(name);
            fs::write(&file, &part).expect("writable");
            match read_small(&file, DataOptions::default()) {
                Err(error) if error.to_string().starts_with(&file.display().to_string()) => {}
                Err(error) => wrong.push(format!("{name} at {length}: {error}")),
                // nothing in a table of lines says that the last cell was longer
                Ok(_) if matches!(name, "train.csv" | "train.tsv") => {}
                Ok(_) => wrong.push(format!("{name} at {length} of {}: is read", bytes.len())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What repeats in one column may be told apart by another, or by the row.
#[test]
fn rows_whose_ids_repeat_can_be_told_apart_in_every_form() {
    for file in forms("repeated") {
        let options = DataOptions { id_field: IdField::Line, ..DataOptions::default() };
        let (dataset, _) = read_small(&file, options).expect("sound");
        assert_eq!((0..3).map(|i| dataset.id(i).to_owned()).collect::<Vec<_>>(), ["1", "2", "3"], "{}", file.display());
    }
}
