//! What the agreement tests share: recorded numbers, checkpoints with their data, and the passes of a
//! run on the library layer, generic over the arithmetic.

pub mod agreement;
pub mod dense;
pub mod editable;
pub mod figures;
pub mod layer_rows;
pub mod passes;
pub mod recorded;
pub mod toy;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ascribe::data::{DataOptions, Dataset, Role, Specials, Tokenizer, Which, read_rows, read_tokens};
use ascribe::model::{LayerSelection, Limits, LoadOptions, Model};
use candle_core::DType;

/// What a test returns: any error ends it.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A folder or file of `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

/// A folder of the larger data beside the repository, or `None` with a word about what is not tested.
pub fn shared(path: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(path);
    if folder.exists() {
        return Some(folder);
    }
    say(format_args!("skipped: no {}", folder.display()));
    None
}

/// A figure for whoever runs the tests with `--nocapture`.
#[allow(clippy::print_stderr)]
pub fn say(figure: std::fmt::Arguments<'_>) {
    eprintln!("{figure}");
}

/// A checkpoint in `f32` or `f64`, with the default layers.
pub fn load(folder: &Path, dtype: DType) -> Model {
    load_layers(folder, dtype, &[])
}

/// The same with the layers that match `patterns`.
pub fn load_layers(folder: &Path, dtype: DType, patterns: &[&str]) -> Model {
    load_selected(folder, dtype, selection(patterns))
}

/// The layers that match `patterns`; those of the default where there are none.
pub fn selection(patterns: &[&str]) -> LayerSelection {
    let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
    LayerSelection::new(&patterns, &[]).expect("patterns")
}

/// A checkpoint of which these parameters are tracked.
pub fn load_selected(folder: &Path, dtype: DType, selection: LayerSelection) -> Model {
    Model::load(folder, &LoadOptions { selection, dtype, ..LoadOptions::default() }).expect("a checkpoint")
}

/// Where a set of examples lies and how its text becomes tokens.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    pub file: PathBuf,
    pub role: Role,
    /// Where the tokenizer lies: a folder. Not used for rows.
    pub tokenizer: &'a Path,
    pub add_eos: Which,
    pub max_length: Option<usize>,
}

impl<'a> Source<'a> {
    /// Text or rows, with one `<|endoftext|>` behind every text.
    pub fn new(file: PathBuf, role: Role, tokenizer: &'a Path) -> Self {
        Self { file, role, tokenizer, add_eos: Which::Both, max_length: None }
    }

    /// Reads it for a model.
    pub fn read(&self, model: &Model) -> Dataset {
        match model.limits() {
            Limits::Rows(limits) => read_rows(&self.file, limits).expect("rows").0,
            Limits::Tokens(limits) => {
                let tokenizer = Arc::new(Tokenizer::find(self.tokenizer, None).expect("a tokenizer"));
                let specials = Specials { add_eos: self.add_eos, ..Specials::default() };
                let labels = model.labels().cloned();
                let options = DataOptions { max_length: self.max_length, specials, labels, ..DataOptions::default() };
                read_tokens(&self.file, self.role, Some(&tokenizer), limits, options).expect("text").0
            }
        }
    }
}

/// Training examples and queries of a fixture.
pub struct Fixture {
    pub model: Model,
    pub train: Dataset,
    pub queries: Dataset,
}

/// The language models share their text, each MLP has its own rows.
pub fn open(name: &str, dtype: DType) -> Fixture {
    open_layers(name, dtype, &[])
}

/// The same with the layers that match `patterns`.
pub fn open_layers(name: &str, dtype: DType, patterns: &[&str]) -> Fixture {
    let model = load_layers(&fixture(name), dtype, patterns);
    let folder = match model.limits() {
        Limits::Rows(_) => fixture(name),
        Limits::Tokens(_) => fixture("gpt2-tiny"),
    };
    let ending = if matches!(model.limits(), Limits::Rows(_)) { "safetensors" } else { "jsonl" };
    let names = if ending == "jsonl" { ["train", "queries"] } else { ["train", "query"] };
    let [train, queries] = [(names[0], Role::Train), (names[1], Role::Queries)]
        .map(|(name, role)| Source::new(folder.join(format!("{name}.{ending}")), role, &folder).read(&model));
    Fixture { model, train, queries }
}
