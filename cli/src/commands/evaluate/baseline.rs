//! `ascribe evaluate baseline`: scores that no method made, for every evaluation to read.

use std::path::{Path, PathBuf};

use anyhow::Context;
use ascribe::attribution::evaluate::{LexiconBuilder, Weighting, random_scores};
use ascribe::attribution::store::{Dtype, FORMAT, Metadata, TensorSpec, TensorWriter};
use ascribe::data::{Columns, Role, for_each_text};
use clap::{Args, ValueEnum};

use crate::failure::Problem;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::terminal::say;
use crate::words::counted;

/// Write the scores of a baseline: the words that query and example share, or chance
///
/// Without a model. The file holds `scores` for every query and training example as a run's does, so that
/// `evaluate lds`, `retrieval`, `likeness`, `candidates` and `subsets --top` take it beside a run of the same files. Rows
/// without a text are an error, empty texts are skipped as in a run.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Baseline {
    /// What the scores are
    #[arg(long, value_name = "BASELINE", value_enum)]
    method: Method,
    /// Training examples: rows with `text`, `prompt` and `completion`, or `messages`
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Queries, in the same formats
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// The field that names an example, or `line` for the line's number [default: `id`, else the line's number]
    #[arg(long, value_name = "FIELD|line")]
    id_field: Option<String>,
    /// The column of texts [default: `text`]
    #[arg(long, value_name = "FIELD")]
    text_field: Option<String>,
    /// The column of prompts [default: `prompt`]
    #[arg(long, value_name = "FIELD", conflicts_with = "text_field")]
    prompt_field: Option<String>,
    /// The column of completions [default: `completion`]
    #[arg(long, value_name = "FIELD", conflicts_with = "text_field")]
    completion_field: Option<String>,
    /// Seed of random scores
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// The safetensors file of the scores; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What baseline scores are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// BM25 of the query's words in the example
    Bm25,
    /// The cosine of both texts' words, each weighed by its rarity
    Tfidf,
    /// Numbers between 0 and 1
    Random,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe evaluate baseline --method bm25 --train train.jsonl --queries queries.jsonl --out bm25.safetensors
  ascribe evaluate retrieval --scores run bm25.safetensors --answers queries.jsonl
  ascribe evaluate candidates --scores run --filter bm25.safetensors"
);

impl Baseline {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        if self.out.is_dir() || ascribe::presence::is_file(&self.out) {
            let problem = format!("{}: already exists", self.out.display());
            return Err(Problem::hinted(problem, "delete it or choose another file"));
        }
        let (mut query_ids, mut queries) = (vec![], vec![]);
        self.read(&self.queries, Role::Queries, |id, text| {
            query_ids.push(id);
            queries.push(text.to_owned());
        })?;
        let weighting = match self.method {
            Method::Bm25 => Some(Weighting::Bm25),
            Method::Tfidf => Some(Weighting::TfIdf),
            Method::Random => None,
        };
        let words = queries.iter().map(String::as_str);
        let mut lexicon = weighting.map(|weighting| LexiconBuilder::new(weighting, words));
        let mut train_ids = vec![];
        self.read(&self.train, Role::Train, |id, text| {
            train_ids.push(id);
            lexicon.iter_mut().for_each(|lexicon| lexicon.push(text));
        })?;
        let lexicon = lexicon.map(LexiconBuilder::finish);
        let name = self.method.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let ids = |ids: &[String]| serde_json::to_string(ids).context("ids are texts");
        let metadata = Metadata::from([
            ("format".into(), FORMAT.to_string()),
            ("ascribe_version".into(), env!("CARGO_PKG_VERSION").into()),
            ("method".into(), name.clone()),
            ("answer".into(), name.clone()),
            // no amounts, as cosines are none
            ("normalize".into(), "cosine".into()),
            ("units".into(), "none: the order of scores alone means something".into()),
            ("seed".into(), self.seed.to_string()),
            ("query_ids".into(), ids(&query_ids)?),
            ("train_ids".into(), ids(&train_ids)?),
        ]);
        let specs = [TensorSpec::new("scores", Dtype::F32, [queries.len(), train_ids.len()])];
        let writer = TensorWriter::create(&self.out, &specs, &metadata)?;
        for (q, query) in queries.iter().enumerate() {
            let scores = match &lexicon {
                Some(lexicon) => lexicon.scores(query),
                None => random_scores(self.seed, q, train_ids.len()),
            };
            writer.write_values_at("scores", (q * train_ids.len()) as u64, &scores)?;
        }
        writer.finish()?;
        say(&format!(
            "{name} of {} and {} in {}",
            counted(queries.len() as u64, "queries"),
            counted(train_ids.len() as u64, "training examples"),
            self.out.display()
        ));
        Ok(Status::Done)
    }

    /// Gives ids and texts of a file's rows.
    fn read(&self, file: &Path, role: Role, give: impl FnMut(String, &str)) -> anyhow::Result<()> {
        let columns = Columns {
            text: self.text_field.clone(),
            prompt: self.prompt_field.clone(),
            completion: self.completion_field.clone(),
            label: None,
            image: None,
        };
        let report = for_each_text(file, role, &columns, &self.id_field.as_deref().into(), give)?;
        if report.empty > 0 {
            say(&format!("{}: {} skipped", file.display(), counted(report.empty as u64, "empty rows")));
        }
        Ok(())
    }
}
