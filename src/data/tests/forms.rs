//! Every form of file that is read gives the same rows, on files that pandas, datasets and pyarrow wrote
//! (`fixtures/generators/forms.py`).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::Hint;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/forms").join(name)
}

fn limits() -> ModelLimits {
    ModelLimits { vocabulary: 512, max_positions: Some(64), decoder: None, masked: None }
}

fn texts(path: &Path, options: DataOptions) -> Result<(Dataset, ReadReport), String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gpt2-tiny");
    let tokenizer = Arc::new(Tokenizer::find(&folder, None).expect("a tokenizer"));
    read_tokens(path, Role::Train, Some(&tokenizer), limits(), options).map_err(|error| {
        let folder = fixture("").display().to_string();
        let source = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
        let text = format!("{error}{source}\n{}", error.hint().unwrap_or_default());
        text.replace(&folder, "").replace(&path.parent().expect("a folder").display().to_string(), "")
    })
}

#[track_caller]
fn complaint(path: &Path) -> String {
    texts(path, DataOptions::default()).map(drop).expect_err("a complaint")
}

#[test]
fn the_same_rows_are_the_same_examples_in_every_form() {
    let (expected, report) = texts(&fixture("train.jsonl"), DataOptions::default()).expect("sound");
    assert_eq!((expected.len(), report.empty), (15, 1), "the empty text is skipped and counted");
    for name in [
        "train.json",
        "train.csv",
        "train.tsv",
        "train.jsonl.gz",
        "train.csv.zst",
        "train.parquet",
        "train-zstd.parquet",
        "train-gzip.parquet",
        "train-lz4.parquet",
        "train-none.parquet",
        "train-datasets.parquet",
        "train.arrow",
        "train-zstd.arrow",
        "train-lz4.feather",
        "train-types.arrow",
        "saved",
        "saved/data-*.arrow",
    ] {
        let (found, other) = texts(&fixture(name), DataOptions::default()).expect(name);
        assert_eq!(found.content_hash(), expected.content_hash(), "{name}");
        assert_eq!(other, report, "{name}");
        for i in 0..expected.len() {
            assert_eq!(found.metadata(i), expected.metadata(i), "{name}, {i}");
            assert_eq!(found.excerpt(i, 200), expected.excerpt(i, 200), "{name}, {i}");
        }
    }
    let first = expected.metadata(0);
    assert_eq!(
        Value::Object(first),
        serde_json::json!({"topic": "kitchen", "number": -3, "weight": 0.1, "is_even": true, "version": "007",
            "note": "said \"so\",\nand left"})
    );
}

#[test]
fn lists_objects_and_nulls_of_tables_are_those_of_json() {
    let read =
        |name| read_tokens(&fixture(name), Role::Train, None, limits(), DataOptions::default()).expect("sound").0;
    let lines = read("nested.jsonl");
    for name in ["nested.parquet", "nested.arrow", "nested-lz4.arrow"] {
        let table = read(name);
        assert_eq!(table.content_hash(), lines.content_hash(), "{name}");
        for i in 0..lines.len() {
            assert_eq!(table.metadata(i), lines.metadata(i), "{name}, {i}");
        }
    }
}

#[test]
fn columns_can_have_other_names_and_what_is_called_text_is_then_metadata() {
    let columns = Columns { text: Some("content".into()), ..Columns::default() };
    let options = DataOptions { columns, id_field: IdField::Field("key".into()), ..DataOptions::default() };
    let (found, _) = texts(&fixture("renamed.parquet"), options.clone()).expect("sound");
    let (expected, _) = texts(&fixture("train.jsonl"), DataOptions::default()).expect("sound");
    assert_eq!(found.content_hash(), expected.content_hash());
    assert_eq!(Value::Object(found.metadata(0)), serde_json::json!({"text": 0, "key": "kitchen-04"}));

    let columns = Columns { text: Some("contents".into()), ..Columns::default() };
    let error = texts(&fixture("renamed.parquet"), DataOptions { columns, ..options }).map(drop).expect_err("absent");
    assert_eq!(
        error,
        "renamed.parquet, row 1: no `contents`, which `--text-field` names\nis it `--text-field content`?"
    );
    // a query by the usual names stays one
    let columns = Columns { text: Some("content".into()), ..Columns::default() };
    let options = DataOptions { columns, ..DataOptions::default() };
    let small = tokenizer(ADDS_NOTHING);
    let read = |role| {
        let (text, file) = (&b"{\"prompt\": \"ab\", \"completion\": \"ab\"}"[..], Path::new("q.jsonl"));
        read_tokens_from(text, file, Format::JsonLines, role, Some(&small.tokenizer), LIMITS, options.clone())
    };
    assert_eq!(read(Role::Queries).expect("by the usual names").0.len(), 1);
    assert!(read(Role::Train).is_err());
}

#[test]
fn prompts_and_completions_can_have_other_names() {
    let columns = Columns { prompt: Some("question".into()), completion: Some("answer".into()), ..Columns::default() };
    let options = DataOptions { columns, ..DataOptions::default() };
    let small = tokenizer(ADDS_NOTHING);
    let read = |text: &str, options| read_as(text, Format::JsonLines, Some(&small.tokenizer), options);
    let line = "{\"question\": \"ab ab\", \"answer\": \" ab\", \"text\": \"c\"}";
    let (chosen, _) = read(line, options.clone()).expect("sound");
    let usual = "{\"prompt\": \"ab ab\", \"completion\": \" ab\"}";
    let (expected, _) = read(usual, DataOptions::default()).expect("sound");
    assert_eq!(chosen.content_hash(), expected.content_hash());
    assert_eq!(Value::Object(chosen.metadata(0)), serde_json::json!({"text": "c"}));
    // what has loss is chosen for both alike
    let every_token = |options| {
        let chat = ChatOptions { loss_on: Some(LossOn::All), ..ChatOptions::default() };
        DataOptions { chat, ..options }
    };
    let (chosen, report) = read(line, every_token(options)).expect("sound");
    let (expected, _) = read(usual, every_token(DataOptions::default())).expect("sound");
    assert_eq!((chosen.content_hash(), report.targets), (expected.content_hash(), 2));
}

#[test]
fn several_files_are_read_as_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    fs::write(at("b.jsonl"), "{\"text\": \"ab\"}\n\n{\"text\": \"ab ab\"}\n").expect("writable");
    fs::write(at("a.csv"), "text,n\n\"ab, c\",1\nab,2\n").expect("writable");
    let ids = |pattern: &str| {
        let (data, _) = texts(&at(pattern), DataOptions::default()).expect("sound");
        (0..data.len()).map(|i| (data.id(i).to_owned(), data.excerpt(i, 9))).collect::<Vec<_>>()
    };
    let expect = |list: [(&str, &str); 4]| list.map(|(id, text)| (id.to_owned(), text.to_owned())).to_vec();
    assert_eq!(ids("{b.jsonl,a.csv}"), expect([("1", "ab"), ("3", "ab ab"), ("4", "ab, c"), ("5", "ab")]));
    assert_eq!(ids("*"), expect([("1", "ab, c"), ("2", "ab"), ("3", "ab"), ("5", "ab ab")]));
    fs::write(at("a.csv"), "text,n\n\"ab, c\",1\nab\n").expect("writable");
    let error = complaint(&at("*"));
    assert!(error.starts_with("/a.csv, row 2: 1 cells, and the first line names 2 columns"), "{error}");
}

#[test]
fn broken_files_are_named_with_their_row() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |name: &str, bytes: &[u8], expected: &str| {
        let file = folder.path().join(name);
        fs::write(&file, bytes).expect("writable");
        assert_eq!(complaint(&file), expected, "{name}");
    };
    let bytes = |name: &str| fs::read(fixture(name)).expect("a fixture");
    let cut = |name: &str| {
        let bytes = bytes(name);
        bytes[..bytes.len() / 2].to_vec()
    };
    check(
        "cut.jsonl.gz",
        &cut("train.jsonl.gz"),
        "/cut.jsonl.gz: cannot be read: the gzip stream ends before its end: was it copied or written whole?\n",
    );
    check(
        "cut.csv.zst",
        &cut("train.csv.zst"),
        "/cut.csv.zst: cannot be read: the zstd stream ends before its end: was it copied or written whole?\n",
    );
    check(
        "cut.csv",
        b"text,n\nab,1\n\"ab, and so",
        "/cut.csv: ends within its quoted cell, behind row 1\nwas it copied or written to its end?",
    );
    check(
        "latin.csv",
        b"text,n\nab,1\nZ\xf6mar,2\n",
        "/latin.csv, row 2: `text` has invalid UTF-8 at its byte 2\nsave the file as UTF-8",
    );
    check(
        "middle.csv",
        b"text\nab\n\xff\nab\n",
        "/middle.csv, row 2: `text` has invalid UTF-8 at its byte 1\nsave the file as UTF-8",
    );
    check(
        "names.csv",
        b"txt,n\nab,1\n",
        "/names.csv, row 1: no `text`, no `prompt` and `completion`, no `messages`, no `input_ids`\nthe line has `txt`, `n`; \
         `--text-field FIELD` says which of them is the text",
    );
    check(
        "twice.csv",
        b"text,text\nab,1\n",
        "/twice.csv: two columns are called `text`\ngive each column a name of its own",
    );
    check("none.csv", b"text\n", "/none.csv: no examples\na data file needs at least one example");
    check(
        "type.csv",
        b"input_ids\n\"[1, 2.5]\"\n",
        "/type.csv, row 1: `input_ids[1]` is a number with a fraction, expected an integer\n",
    );
    let parquet = cut("train.parquet");
    let file = folder.path().join("cut.parquet");
    fs::write(&file, &parquet).expect("writable");
    let error = complaint(&file);
    assert!(error.starts_with("/cut.parquet: broken Parquet file: "), "{error}");
    let error = complaint(&fixture("train-brotli.parquet"));
    assert!(error.starts_with("train-brotli.parquet: broken Parquet file: "), "{error}");
    assert!(error.to_lowercase().contains("brotli"), "{error}");
}

#[test]
fn folders_of_datasets_that_are_not_read_are_named() {
    let splits =
        "splits: it has several splits (`train`, `test`), and one is read at a time\nname the folder of one split";
    assert_eq!(complaint(&fixture("splits")), splits);
    assert!(texts(&fixture("splits/train"), DataOptions::default()).is_ok());
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (state, expected) in [
        ("{}", "no list `_data_files`"),
        ("{\"_data_files\": []}", "`_data_files` is empty"),
        ("{\"_data_files\": [{\"filename\": \"../x.arrow\"}]}", "has no `filename` in this folder"),
        ("{\"_data_files\": [{\"filename\": \"x.arrow\"}], \"_indices_files\": [{}]}", "a file of indices"),
        ("{", "EOF while parsing"),
    ] {
        fs::write(folder.path().join("state.json"), state).expect("writable");
        let error = complaint(folder.path());
        assert!(error.contains("state.json: ") && error.contains(expected), "{error}");
    }
    fs::write(folder.path().join("state.json"), "{\"_data_files\": [{\"filename\": \"x.arrow\"}]}").expect("writable");
    assert!(complaint(folder.path()).contains("x.arrow: cannot be read"));
    let cut = fs::read(fixture("train.arrow")).expect("a fixture");
    fs::write(folder.path().join("x.arrow"), &cut[..cut.len() / 2]).expect("writable");
    let error = complaint(folder.path());
    assert!(error.contains("x.arrow: broken Arrow file") && error.contains("it ends before its end"), "{error}");
}

#[test]
fn a_batch_of_arrow_that_claims_more_than_its_bound_is_refused() {
    let options = |memory| DataOptions { memory: Some(memory), ..DataOptions::default() };
    let read = |bytes: &[u8]| {
        let file = Path::new("x.arrow");
        let read = read_tokens_from(bytes, file, Format::Arrow, Role::Train, None, limits(), options(1 << 26));
        read.map(drop).map_err(|error| error.to_string())
    };
    // a message of almost 2 GiB, in eight bytes
    let error = read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).expect_err("too long");
    assert!(error.contains("a message has 2147483647 bytes, and at most 16777216 are taken"), "{error}");
    // buffers that say they unpack to as much: the eight bytes in front of a zstd frame
    let mut packed = fs::read(fixture("train-zstd.arrow")).expect("a fixture");
    let frame = packed.windows(4).position(|bytes| bytes == [0x28, 0xb5, 0x2f, 0xfd]).expect("a packed buffer");
    packed[frame - 8..frame].copy_from_slice(&(1_i64 << 40).to_le_bytes());
    let error = read(&packed).expect_err("too much");
    assert!(error.contains("a batch of rows has 1099511627776 bytes, and at most 16777216 are taken"), "{error}");
}

#[test]
fn what_unpacks_without_end_is_refused_at_a_bound() {
    use std::io::Write;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = DataOptions { memory: Some(1), ..DataOptions::default() };
    // 64 MiB of one line, or of one cell, in a few kilobytes
    for (name, head) in [("x.jsonl", "{\"text\": \""), ("x.csv", "text\n\""), ("x.json", "[{\"text\": \"")] {
        let zeros = vec![b'0'; 1 << 20];
        let (gz, zst) = (folder.path().join(format!("{name}.gz")), folder.path().join(format!("{name}.zst")));
        let mut to =
            flate2::write::GzEncoder::new(fs::File::create(&gz).expect("writable"), flate2::Compression::fast());
        to.write_all(head.as_bytes()).expect("writable");
        (0..64).for_each(|_| to.write_all(&zeros).expect("writable"));
        to.finish().expect("writable");
        let mut to = zstd::Encoder::new(fs::File::create(&zst).expect("writable"), 1).expect("an encoder");
        to.write_all(head.as_bytes()).expect("writable");
        (0..64).for_each(|_| to.write_all(&zeros).expect("writable"));
        to.finish().expect("writable");
        for file in [gz, zst] {
            let error = texts(&file, options.clone()).map(drop).expect_err("a bomb");
            assert!(error.contains("the line is longer than 512 KiB"), "{error}");
        }
    }
}

/// Bytes of a table that were changed anywhere give an error or examples, and never end the program.
#[test]
fn no_change_of_a_table_panics() {
    for (name, format) in
        [("nested.parquet", Format::Parquet), ("nested.arrow", Format::Arrow), ("nested-lz4.arrow", Format::Arrow)]
    {
        let bytes = fs::read(fixture(name)).expect("a fixture");
        let read = |bytes: &[u8]| {
            let options = DataOptions { memory: Some(1 << 26), ..DataOptions::default() };
            let file = Path::new("x");
            read_tokens_from(bytes, file, format, Role::Train, None, limits(), options).map(drop)
        };
        read(&bytes).expect("sound");
        let mut refused = 0;
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            refused += usize::from(read(&changed).is_err());
            if at % 16 == 0 && (format == Format::Parquet || at < bytes.len() / 2) {
                assert!(read(&bytes[..at]).is_err(), "{name} cut at {at}");
            }
        }
        assert!(refused > bytes.len() / 10, "{name}: {refused} of {} changes were refused", bytes.len());
    }
}
