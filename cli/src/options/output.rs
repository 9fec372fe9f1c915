//! Flags about results: where they go, and which are kept.

use std::path::PathBuf;

use ascribe::job::{
    CandidatesRequest, DuplicateScores, DuplicatesRequest, IntervalScores, IntervalsRequest, Job, LayerSplit, RankBy,
    ScoreScale, Several, StoreScores, TokensRequest,
};
use clap::{Args, ValueEnum};

use super::values::{layer_set, one_of};
use crate::failure::Problem;

/// Where results go, and which.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputOptions {
    /// The run folder: results at fixed places, and everything that a later start can use again
    #[arg(long, value_name = "RUN")]
    pub(crate) out: Option<PathBuf>,
    /// Proponents and opponents listed for each query [default: 10]
    #[arg(long, value_name = "K")]
    top: Option<usize>,
    /// What of the scores is kept on disk [default: full]
    ///
    /// `evaluate` needs them all.
    #[arg(long, value_name = "WHAT", value_parser = one_of::<StoreScores>(&[
        ("full", "queries times training examples, four bytes each"),
        ("top", "the --top best and worst of each query alone"),
    ]))]
    store_scores: Option<StoreScores>,
    /// Also divide the scores of the examples that are listed over tokens: which words they come from [default: none]
    ///
    /// From further passes over these examples alone. The plan says how many shares there are.
    #[arg(long, value_name = "WHICH", value_parser = one_of::<TokensRequest>(&[
        ("none", "scores of whole examples alone"),
        ("ranked", "over the tokens of the training example"),
        ("query", "over the target tokens of the query: which of them the example moved; each is a query of its own"),
        ("matrix", "over both: what each token of the example adds through each target token of the query"),
        ("all", "over the tokens of the training example, of every example and not of those alone that are listed"),
    ]))]
    tokens: Option<TokensRequest>,
    /// Also say how sure each score and each ranking is, from variants of the scores [default: none]
    ///
    /// An interval for every listed example, and how many of the first stay listed whichever variant is taken. The plan
    /// says what the variants cost; for influence functions.
    #[arg(long, value_name = "VARIANTS", value_parser = one_of::<IntervalsRequest>(&[
        ("none", "no variants"),
        ("damping", "0.3 and 3 times the damping, and halves of the checkpoints where there are several"),
        ("all", "these, and curvatures of two halves of the training examples; of joint systems, halves of the drawn \
          labels"),
        ("labels", "these, and a curvature with the labels of the next --seed, for which all training examples are \
          differentiated once more"),
    ]))]
    intervals: Option<IntervalsRequest>,
    /// Which training examples the variants of --intervals score [default: auto]
    #[arg(long, value_name = "EXAMPLES", value_parser = one_of::<IntervalScores>(&[
        ("auto", "whichever of the others takes fewer operations; the plan says which"),
        ("all", "all, with the scores: the score matrix of every variant is written"),
        ("strongest", "of each query the examples that may be listed and a random sample, in a further pass over these"),
    ]))]
    interval_scores: Option<IntervalScores>,
    /// By which number training examples are listed [default: score]
    ///
    /// Needs --self-influence for the second. It can be asked of scores that are there: `ascribe rank --rank-by relatif`.
    #[arg(long, value_name = "NUMBER", value_parser = one_of::<RankBy>(&[
        ("score", "the score"),
        ("relatif", "the score over the square root of the example's self-influence (RelatIF): examples that move \
          everything, as long or badly fitted ones do, no longer lead every list"),
    ]))]
    rank_by: Option<RankBy>,
    /// Also write `ranking.csv`
    #[arg(long)]
    csv: bool,
    /// Also add scores up over training examples with the same value of FIELD
    ///
    /// FIELD is any further field of the training examples: `--group-by source`. To first order the effect of a group
    /// is the sum of its examples' effects.
    #[arg(long, value_name = "FIELD")]
    group_by: Option<String>,
    /// List training examples that are copies of one another as one entry, with its copies [default: off]
    ///
    /// `off` lists each by itself. `exact`: the same tokens and targets. `near`: texts whose sets of token trigrams have
    /// a Jaccard similarity of at least 0.8, or of another number: `near:0.7`. It can be asked of scores that are there.
    #[arg(long, value_name = "WHICH")]
    duplicates: Option<DuplicatesRequest>,
    /// By which score a text and its copies are ranked [default: each]
    #[arg(long, value_name = "SCORE", value_parser = one_of::<DuplicateScores>(&[
        ("each", "that of the strongest of them"),
        ("sum", "the sum of all: to first order the effect of all of them together"),
    ]))]
    duplicate_scores: Option<DuplicateScores>,
    /// Also sum every score over these layers alone, into files of its own name; once for each set
    ///
    /// `--layer-set 'attention=*.attn.*' --layer-set 'mlp=*.mlp.*'`: from the same pass, the same curvature and the
    /// same query vectors. Globs as in --layers, over the tracked layers; several with commas.
    #[arg(long, value_name = "NAME=GLOBS", value_parser = layer_set)]
    layer_set: Vec<(String, Vec<String>)>,
    /// Also sum every score over the layers of each set that layers' names give, or over attention heads
    ///
    /// Several with commas. The sets are named by what their layers' names have in common: `transformer-h-0` for a
    /// block of GPT-2, `attn-c_attn` for a module of all its blocks, `transformer-h-0-head-3` for a head.
    #[arg(long, value_name = "SPLIT", value_delimiter = ',', value_parser = one_of::<LayerSplit>(&[
        ("each", "every layer by itself"),
        ("block", "each block of the network: names up to their first number"),
        ("module", "the same module in all blocks: names without their numbers"),
        ("head", "each attention head: its rows of the layers of queries, keys and values, its columns of the output's; \
          keys and values that heads share are sets of their own"),
    ]))]
    layer_sets: Vec<LayerSplit>,
    /// Score some training examples alone: of each query the best by words, or those that a file lists [default: all]
    ///
    /// `bm25:1000` takes for each query the 1,000 examples whose words have most to do with it, `tfidf:1000` likewise; the
    /// examples of all queries are scored for every query. Anything else is a file of ids, one a line. The curvature is
    /// fitted on all examples as ever. What the choice missed is estimated on the control sample and printed.
    #[arg(long, value_name = "FILTER")]
    candidates: Option<CandidatesRequest>,
    /// Also score so many of the other examples, drawn at random, to see what --candidates missed [default: 1000]
    #[arg(long, value_name = "N")]
    candidate_control: Option<usize>,
    /// Unit of the scores [default: per-example]
    #[arg(long, value_name = "UNIT", value_parser = one_of::<ScoreScale>(&[
        ("per-example", "change of the measurement for one more copy: 1/N is in"),
        ("kronfluence", "without 1/N, as kronfluence prints influence on a loss"),
    ]))]
    score_scale: Option<ScoreScale>,
}

impl OutputOptions {
    /// Refuses what each flag by itself may say.
    ///
    /// # Errors
    /// A layer set that is given twice.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        for (index, (name, _)) in self.layer_set.iter().enumerate() {
            if self.layer_set[..index].iter().any(|(earlier, _)| earlier == name) {
                let problem = format!("the layer set `{name}` is given twice");
                return Err(Problem::hinted(problem, "put its globs together, with commas, or rename one"));
            }
        }
        Ok(())
    }

    /// Lays the flags that were given on top of a job.
    pub(crate) fn apply(&self, job: &mut Job) {
        let output = &mut job.output;
        if let Some(out) = &self.out {
            output.path.clone_from(out);
        }
        output.top = self.top.unwrap_or(output.top);
        output.store_scores = self.store_scores.unwrap_or(output.store_scores);
        output.tokens = self.tokens.unwrap_or(output.tokens);
        output.intervals = self.intervals.unwrap_or(output.intervals);
        output.interval_scores = self.interval_scores.unwrap_or(output.interval_scores);
        output.rank_by = self.rank_by.unwrap_or(output.rank_by);
        output.csv |= self.csv;
        if let Some(field) = &self.group_by {
            output.group_by = Some(field.clone());
        }
        output.duplicates = self.duplicates.unwrap_or(output.duplicates);
        output.duplicate_scores = self.duplicate_scores.unwrap_or(output.duplicate_scores);
        if !self.layer_set.is_empty() {
            let sets = self.layer_set.iter().cloned();
            output.layer_sets = sets.map(|(name, globs)| (name, Several(globs))).collect();
        }
        if !self.layer_sets.is_empty() {
            output.split_layers.clone_from(&self.layer_sets);
        }
        if let Some(candidates) = &self.candidates {
            output.candidates = Some(candidates.clone());
        }
        output.candidate_control = self.candidate_control.or(output.candidate_control);
        output.scale = self.score_scale.unwrap_or(output.scale);
    }
}

/// How rankings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum RankingFormat {
    /// For reading
    #[default]
    Table,
    /// One JSON object for each query
    Jsonl,
    /// One line for each query and training example
    Csv,
}
