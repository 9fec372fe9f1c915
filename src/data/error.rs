//! Why data or a tokenizer cannot be used, with the file and the line.

use std::path::{Path, PathBuf};

use super::images::problem::ImageProblem;
use super::line_problem::LineProblem;
use crate::Hint;
use crate::foreign_file::{Refusal, size};

/// Why data or a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file cannot be opened or read.
    #[error("{}: cannot be read", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's ending names no format that is read here.
    #[error("{}: not a known data format", file.display())]
    Format {
        /// The file.
        file: PathBuf,
    },
    /// A text in another encoding than UTF-8, by its first bytes.
    #[error("{}: the text is in {encoding}, and UTF-8 is read", file.display())]
    Encoding {
        /// The file.
        file: PathBuf,
        /// The name of its encoding.
        encoding: &'static str,
    },
    /// The file holds no example.
    #[error("{}: no examples", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// One line of the file is wrong.
    #[error("{}:{line}: {problem}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
    /// One row of the file is wrong, and rows are not lines.
    #[error("{}, row {row}: {problem}", file.display())]
    Row {
        /// The file.
        file: PathBuf,
        /// The row, counted from 1.
        row: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
    /// A file with an image that cannot be used.
    #[error("{}: {problem}", file.display())]
    Image {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: ImageProblem,
    },
    /// Images are files, and nothing says what becomes of them before the model sees them.
    #[error("no image processor in {}", looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or "))]
    NoImageProcessor {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// A file of an image processor says what is not done here, or is broken.
    #[error("{}: {message}", file.display())]
    ImageProcessor {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A folder without images.
    #[error("{}: no folder with PNG or JPEG images in it", folder.display())]
    NoImages {
        /// The folder.
        folder: PathBuf,
    },
    /// An image beside the folders of classes.
    #[error("{}: the image belongs to no class", file.display())]
    ImageWithoutClass {
        /// The folder of the classes.
        folder: PathBuf,
        /// The image.
        file: PathBuf,
    },
    /// Folders whose names are no classes of the model.
    #[error("{}: {}", folder.display(), class_names(unknown, known, *outputs))]
    ClassNames {
        /// The folder of the classes.
        folder: PathBuf,
        /// Names that are no class.
        unknown: Vec<String>,
        /// Names of classes in the configuration.
        known: Vec<String>,
        /// Classes of the model.
        outputs: usize,
    },
    /// A model whose labels are no classes cannot have them by a folder's name.
    #[error("{}: folders are classes, and the model has other labels: {problem}", folder.display())]
    FolderLabels {
        /// The folder of the classes.
        folder: PathBuf,
        /// What is wrong with a class as a label.
        problem: LineProblem,
    },
    /// Two examples of one id.
    #[error("{}: examples {first} and {second} have the id {id:?}", file.display())]
    RepeatedId {
        /// The file or folder.
        file: PathBuf,
        /// The id.
        id: String,
        /// The first of them, counted from 1.
        first: usize,
        /// The second of them.
        second: usize,
    },
    /// More images than the memory holds.
    #[error("{}: the pixels of {images} images take {}, and {} of the memory are for them", file.display(), size(*bytes), size(*room))]
    ManyImages {
        /// The file or folder.
        file: PathBuf,
        /// Images up to here.
        images: usize,
        /// Bytes of their pixels.
        bytes: u64,
        /// Bytes that there are for them.
        room: u64,
    },
    /// The file ends before what it began does.
    #[error("{}: ends within its {form}, behind row {rows}", file.display())]
    CutShort {
        /// The file.
        file: PathBuf,
        /// What is not complete.
        form: &'static str,
        /// Whole rows before that.
        rows: usize,
    },
    /// A table in columns that its library cannot read.
    #[error("{}: broken {form} file{}: {message}", file.display(), if *rows > 0 { format!(", behind row {rows}") } else { String::new() })]
    Table {
        /// The file.
        file: PathBuf,
        /// The format.
        form: &'static str,
        /// Whole rows before that.
        rows: usize,
        /// What the library said.
        message: String,
    },
    /// Two columns of a table have one name.
    #[error("{}: two columns are called `{name}`", file.display())]
    TwoColumns {
        /// The file.
        file: PathBuf,
        /// The name.
        name: String,
    },
    /// No file has a name that a pattern fits.
    #[error("{}: no file has such a name", pattern.display())]
    NoMatch {
        /// The pattern.
        pattern: PathBuf,
    },
    /// A folder that `datasets` saved and that is not read.
    #[error("{}: {message}", file.display())]
    Saved {
        /// The folder, or its file that says so.
        file: PathBuf,
        /// What is wrong with it.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// A pattern that cannot be understood.
    #[error("{}: no pattern of names: {message}", pattern.display())]
    Pattern {
        /// The pattern.
        pattern: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Something stands between or behind the elements of a JSON array.
    #[error("{}: behind row {rows} stands `{found}`, where a comma or the array's end is due", file.display())]
    BetweenElements {
        /// The file.
        file: PathBuf,
        /// Elements before it.
        rows: usize,
        /// The character.
        found: String,
    },
    /// Packing leaves nothing: all documents together are shorter than one block.
    #[error("{}: {tokens} tokens in all, which do not fill one block of {length}", file.display())]
    NoBlock {
        /// The file.
        file: PathBuf,
        /// Tokens of all documents.
        tokens: usize,
        /// Tokens of a block.
        length: usize,
    },
    /// Texts with a label each are joined to nothing.
    #[error("{}: texts with labels cannot be packed", file.display())]
    PackedLabels {
        /// The file.
        file: PathBuf,
    },
    /// Texts for an encoder and a decoder are joined to nothing.
    #[error("{}: prompts that an encoder reads cannot be packed", file.display())]
    PackedPairs {
        /// The file.
        file: PathBuf,
    },
    /// Masked tokens are joined to nothing.
    #[error("{}: examples of masked tokens cannot be packed", file.display())]
    PackedMasks {
        /// The file.
        file: PathBuf,
    },
    /// No packed block holds anything to predict.
    #[error("{}: no block has a target token", file.display())]
    NoBlockWithTarget {
        /// The file.
        file: PathBuf,
    },
    /// All examples were left out, since nothing is predicted in them.
    #[error("{}: no example has a target token", file.display())]
    NoExampleWithTarget {
        /// The file.
        file: PathBuf,
    },
    /// The length asked for cannot hold or predict anything, or the model has fewer positions.
    #[error("{option} {length} does not fit: the least is 2{}", positions.map_or(String::new(), |n| format!(", the most the model's {n} positions")))]
    Length {
        /// `--pack` or `--max-length`.
        option: &'static str,
        /// What was asked.
        length: usize,
        /// The model's positions, if they are limited.
        positions: Option<usize>,
    },
    /// No tokenizer where it was looked for.
    #[error("no `tokenizer.json` in {}", list(looked))]
    NoTokenizer {
        /// Folders and files that were looked at.
        looked: Vec<PathBuf>,
        /// A `tokenizer.json` nearby that was not taken, since nobody named it.
        nearby: Option<PathBuf>,
    },
    /// The folder has a tokenizer only in a form that needs Python.
    #[error("{}: only a slow tokenizer (`{found}`), no `tokenizer.json`", folder.display())]
    SlowTokenizer {
        /// The folder.
        folder: PathBuf,
        /// A file of the slow tokenizer.
        found: &'static str,
    },
    /// A `tokenizer.json` that the tokenizers library refuses.
    #[error("{}: not a usable tokenizer", file.display())]
    BrokenTokenizer {
        /// The file.
        file: PathBuf,
        /// What the library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A JSON file beside the tokenizer or model is broken.
    #[error("{}: broken JSON", file.display())]
    BrokenConfig {
        /// The file.
        file: PathBuf,
        /// What serde said.
        source: serde_json::Error,
    },
    /// `--add-bos` or `--add-eos` was asked, and nothing says which token that is.
    #[error("no `{token}_token`: {} does not name it", list(looked))]
    NoSpecial {
        /// `bos` or `eos`.
        token: &'static str,
        /// The files that could have named it.
        looked: Vec<PathBuf>,
    },
    /// A template that tells answers from questions, and has no tokens to look for.
    #[error("`{flag}`: {why}")]
    ResponseTemplate {
        /// The flag that gives it.
        flag: &'static str,
        /// Why it has none.
        why: String,
    },
    /// Rows without a target behind `--response-template`, all of them.
    #[error("{}: no example has a target behind `{template}`", file.display())]
    NoResponse {
        /// The file.
        file: PathBuf,
        /// The template.
        template: String,
    },
    /// The end token that was chosen by its text is none of the tokenizer's, or beyond the embedding.
    #[error("{}: the end token `{token}` is no token of the tokenizer within the model's vocabulary", file.display())]
    NoSuchEnd {
        /// Its text.
        token: String,
        /// The tokenizer's file.
        file: PathBuf,
    },
    /// A named special token is none of the tokenizer's, or beyond the embedding.
    #[error("{}: `{token}_token` is {found}, {why}", file.display())]
    BadSpecial {
        /// The file that names it.
        file: PathBuf,
        /// `bos` or `eos`.
        token: &'static str,
        /// What it names.
        found: String,
        /// What is wrong with that.
        why: &'static str,
    },
    /// A file that is no sound safetensors file.
    #[error("{}: broken safetensors file", file.display())]
    Safetensors {
        /// The file.
        file: PathBuf,
        /// What the safetensors library said.
        source: safetensors::SafeTensorError,
    },
    /// A tensor that has to be there is not.
    #[error("{}: no tensor `{key}`", file.display())]
    MissingTensor {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        key: &'static str,
        /// The tensors that the file has.
        found: Vec<String>,
    },
    /// A tensor of another type.
    #[error("{}: `{key}` is {found}, expected {expected}", file.display())]
    TensorType {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        key: &'static str,
        /// Its type.
        found: String,
        /// The types it may have.
        expected: &'static str,
    },
    /// A tensor of another shape.
    #[error("{}: `{key}` has the shape {found:?}, expected {expected}", file.display())]
    TensorShape {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        key: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it must have, in words.
        expected: String,
    },
    /// NaN or infinity.
    #[error("{}: row {row} of `{key}` holds {value}", file.display())]
    NonFinite {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        key: &'static str,
        /// The row, counted from 0.
        row: usize,
        /// The value found.
        value: f32,
    },
    /// A class that the model does not have.
    #[error("{}: row {row} of `{key}` is {class}, but the model has {classes} classes", file.display())]
    ClassRange {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        key: &'static str,
        /// The row, counted from 0.
        row: usize,
        /// The class found.
        class: i64,
        /// Number of classes.
        classes: usize,
    },
    /// `inputs_scale` is missing, not a positive number, or given for inputs that are not u8.
    #[error("{}: `inputs_scale` {}", file.display(), found.as_ref().map_or("is missing".to_owned(), |text| format!("is `{text}`")))]
    InputsScale {
        /// The file.
        file: PathBuf,
        /// The metadata's text.
        found: Option<String>,
        /// What it has to be.
        expected: &'static str,
    },
}

/// What makes a file that is read of one that is not.
fn conversion(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    let unpack = |command: &str| format!("unpack it first: `{command} {name}`");
    match ending.as_str() {
        "xz" => unpack("xz -dk"),
        "bz2" => unpack("bunzip2 -k"),
        "zip" => unpack("unzip"),
        _ if file.is_dir() => format!("give its files: `{name}/*.parquet`, or another pattern"),
        _ => {
            "`.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`, `.arrow` and `.txt` are read, also with `.gz` or `.zst` behind".into()
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(" or ")
}

impl Hint for DataError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { source, .. } => match Refusal::of(source)? {
                Refusal::NotRegular { found: "a pipe" } => "write it to a file first, and give that".into(),
                _ => return None,
            },
            Self::BrokenConfig { .. } => return None,
            Self::Format { file } => conversion(file),
            Self::Encoding { .. } => "save the file as UTF-8".into(),
            Self::Empty { .. } => "a data file needs at least one example".into(),
            Self::Line { problem, .. } | Self::Row { problem, .. } => return problem.hint(),
            Self::Image { problem, .. } => return problem.hint(),
            Self::NoImageProcessor { .. } => {
                "copy training's `preprocessor_config.json` there, or give one with `--image-processor PATH`; it may declare \
                 the steps itself: `size`, `resample`, `rescale_factor`, `image_mean`, `image_std`"
                    .into()
            }
            Self::ImageProcessor { .. } => "declare the steps in a file of your own: `--image-processor FILE`".into(),
            Self::NoImages { .. } => "the folder's folders are the classes, with the images in them".into(),
            Self::ImageWithoutClass { folder, .. } => format!(
                "put it into the folder of its class, or list the images with their labels in {}",
                folder.join("metadata.jsonl").display()
            ),
            Self::ClassNames { .. } => {
                "name the classes in `label2id` of the model's `config.json`, or list the images with `file_name` and the \
                 number of the class as `label` in a `metadata.jsonl`"
                    .into()
            }
            Self::FolderLabels { .. } => {
                "list the images with `file_name` and `label` in a `metadata.jsonl` of the folder".into()
            }
            Self::RepeatedId { .. } => "name examples by another field (`--id-field FIELD`), or by their rows (`line`)".into(),
            Self::ManyImages { .. } => {
                "give fewer or smaller images, raise `--memory`, or set TMPDIR to a folder with room for their pixels".into()
            }
            Self::Table { .. } => "was it copied or written to its end?".into(),
            Self::TwoColumns { .. } => "give each column a name of its own".into(),
            Self::Saved { hint, .. } => (*hint).into(),
            Self::NoMatch { .. } => "is the path right from here? `*` fits within one folder".into(),
            Self::Pattern { .. } => "`*`, `?`, `[…]` and `{a,b}` are understood".into(),
            Self::CutShort { .. } => "was it copied or written to its end?".into(),
            Self::BetweenElements { .. } => "a `.json` file is one array of objects, or one object a line".into(),
            Self::PackedLabels { .. } | Self::PackedPairs { .. } | Self::PackedMasks { .. } => "leave `--pack` out".into(),
            Self::NoBlock { .. } => "use shorter blocks (`--pack N`), or leave `--pack` out".into(),
            Self::NoBlockWithTarget { .. } => {
                "use longer blocks (`--pack N`), or do not pack prompts and completions".into()
            }
            Self::NoExampleWithTarget { .. } => "raise `--max-length`, or give examples that have a target".into(),
            Self::Length { positions, .. } => match positions {
                Some(n) => format!("give a length from 2 to {n}"),
                None => "give a length of at least 2".into(),
            },
            Self::NoTokenizer { nearby: Some(nearby), .. } => {
                format!("is it `--tokenizer {}`?", nearby.display())
            }
            Self::NoTokenizer { nearby: None, .. } => {
                "give the tokenizer's file or folder with `--tokenizer PATH`".into()
            }
            Self::SlowTokenizer { .. } => {
                "save a fast tokenizer there: `AutoTokenizer.from_pretrained(folder, use_fast=True).save_pretrained(folder)`"
                    .into()
            }
            Self::BrokenTokenizer { .. } => "was it saved by `save_pretrained`, and is it complete?".into(),
            Self::NoSpecial { token, .. } => {
                format!("name it as `{token}_token` in `tokenizer_config.json`, or leave `--add-{token}` out")
            }
            Self::ResponseTemplate { .. } => {
                "give what the trainer's `DataCollatorForCompletionOnlyLM` was given: a text, or its token ids as JSON".into()
            }
            Self::NoResponse { .. } => {
                "the template is looked for as TRL does it, by the tokens that it has by itself; within a text it may have \
                 others: give those that training was given, as `[835, 13291]`, or look at the tokens without the flag \
                 (`--dry-run`)"
                    .into()
            }
            Self::NoSuchEnd { .. } => {
                "give the tokenizer that training had (`--tokenizer PATH`), or another `--end-token`".into()
            }
            Self::BadSpecial { token, .. } => format!("correct `{token}_token`, or leave `--add-{token}` out"),
            Self::Safetensors { .. } => "is the file complete? write it again with the safetensors library".into(),
            Self::MissingTensor { found, .. } if found.is_empty() => "the file has no tensors".into(),
            Self::MissingTensor { found, .. } => format!("the file has `{}`", found.join("`, `")),
            Self::TensorType { expected, .. } => format!("convert it to {expected}"),
            Self::TensorShape { .. } => "is this the data of another model?".into(),
            Self::NonFinite { .. } => "remove the row or fill its missing values".into(),
            Self::ClassRange { classes, .. } => format!("classes count from 0 to {}", classes.saturating_sub(1)),
            Self::InputsScale { expected, .. } => (*expected).into(),
        })
    }
}

/// What is wrong with the names of a folder's folders.
fn class_names(unknown: &[String], known: &[String], outputs: usize) -> String {
    let list = |names: &[String]| {
        let shown: Vec<_> = names.iter().take(8).map(|name| format!("{name:?}")).collect();
        let more = if names.len() > shown.len() { ", …" } else { "" };
        format!("{}{more}", shown.join(", "))
    };
    let of_model = if known.is_empty() { "without names".to_owned() } else { list(known) };
    format!("{} are no classes of the model, which has {outputs}: {of_model}", list(unknown))
}
