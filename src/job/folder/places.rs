//! Names of the files at fixed places of the run folder.

use std::path::PathBuf;

use crate::job::brief::Brief;
use crate::job::request::StoreScores;

/// The record of the run: see [`RunRecord`](super::record::RunRecord).
pub(in crate::job) const RECORD: &str = "run.json";

/// The job, which can be run again.
pub(in crate::job) const JOB: &str = "job.toml";

/// Kind of the store's score parts.
pub(in crate::job) const SCORES: &str = "scores";

/// `name.safetensors` of the first answer, `name.ANSWER.safetensors` of the others.
pub(in crate::job) fn of_answer(brief: &Brief, answer: usize, name: &str, ending: &str) -> PathBuf {
    let file = match answer {
        0 => format!("{name}.{ending}"),
        _ => format!("{name}.{}.{ending}", brief.answers[answer].name),
    };
    brief.job.output.path.join(file)
}

/// An answer's score matrix.
pub(in crate::job) fn scores_file(brief: &Brief, answer: usize) -> PathBuf {
    of_answer(brief, answer, "scores", "safetensors")
}

/// Each query's best and worst, if the matrix is not kept.
pub(in crate::job) fn top_file(brief: &Brief, answer: usize) -> PathBuf {
    of_answer(brief, answer, "top", "safetensors")
}

/// Every training example's score for itself.
pub(in crate::job) fn self_influence_file(brief: &Brief) -> PathBuf {
    brief.job.output.path.join("self_influence.safetensors")
}

/// What each token of the ranked examples adds to the first answer's scores.
pub(in crate::job) fn tokens_file(brief: &Brief) -> PathBuf {
    brief.job.output.path.join("tokens.safetensors")
}

/// Scores in variants of each query's strongest examples and of a random sample.
pub(in crate::job) fn intervals_file(brief: &Brief) -> PathBuf {
    brief.job.output.path.join("intervals.safetensors")
}

/// How badly the model predicts each target token of the queries.
pub(in crate::job) fn query_losses_file(brief: &Brief) -> PathBuf {
    brief.job.output.path.join("query_losses.safetensors")
}

/// The queries' measurements at another checkpoint.
pub(in crate::job) fn before_file(brief: &Brief) -> PathBuf {
    brief.job.output.path.join("before.safetensors")
}

/// Which training examples are copies of one another.
pub(in crate::job) fn copies_file(brief: &Brief) -> PathBuf {
    brief.job.output.path.join("duplicates.jsonl")
}

/// A part of Source's scores that is written apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) enum Apart {
    /// What one stage of training contributes.
    Stage(usize),
    /// What one segment contributes, by its leg.
    Segment(usize),
}

/// Parts of an answer's scores that are written apart.
pub(in crate::job) fn parts_apart(brief: &Brief, answer: usize) -> Vec<Apart> {
    let Some(source) = brief.job.source.as_ref().filter(|_| answer == 0) else { return vec![] };
    if brief.job.output.store_scores != StoreScores::Full {
        return vec![];
    }
    let stages = if source.by_stage { brief.training.stages.len() } else { 0 };
    let segments = if source.by_segment { brief.training.segments().len() } else { 0 };
    (0..stages).map(Apart::Stage).chain((0..segments).map(Apart::Segment)).collect()
}

/// What a part contributes to the first answer's scores.
pub(in crate::job) fn part_file(brief: &Brief, part: Apart) -> PathBuf {
    let name = match part {
        Apart::Stage(stage) => {
            let names: Vec<&str> = brief.training.stages.iter().map(|stage| stage.name.as_str()).collect();
            format!("scores.stage-{}.safetensors", stage_in_path(&names, stage))
        }
        Apart::Segment(leg) => format!("scores.segment-{}.safetensors", leg + 1),
    };
    brief.job.output.path.join(name)
}

/// A stage's name as a part of a file's. The name is a person's, so whatever may mean something in a path is a hyphen;
/// where that makes it the name of another stage, on file systems that ignore case too, the stage's number follows.
fn stage_in_path(names: &[&str], stage: usize) -> String {
    let plain = |c: char| if c.is_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    let plain = |name: &str| name.chars().map(plain).collect::<String>();
    let own = plain(names[stage]);
    let is_own = |(other, name): (usize, &&str)| other != stage && plain(name).to_lowercase() == own.to_lowercase();
    if names.iter().enumerate().any(is_own) { format!("{own}.{}", stage + 1) } else { own }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_with_like_names_have_files_of_their_own() {
        let files = |names: &[&str]| (0..names.len()).map(|stage| stage_in_path(names, stage)).collect::<Vec<_>>();
        assert_eq!(files(&["pre-train", "fine tune", "größe/2"]), ["pre-train", "fine-tune", "größe-2"]);
        assert_eq!(files(&["fine tune", "fine-tune", "last"]), ["fine-tune.1", "fine-tune.2", "last"]);
        assert_eq!(files(&["Tune", "tune"]), ["Tune.1", "tune.2"]);
    }
}
