//! What a person should know of a plan whose memory is divided.

use crate::job::brief::Brief;
use crate::job::budget::memory::Memory;
use crate::job::request::TokensRequest;
use crate::job::training::{Stage, Training};

/// For how many examples scores are, where the file has another number.
pub(super) fn train_size(stage: &Stage) -> Option<String> {
    (stage.n_examples != stage.all().len()).then(|| {
        format!(
            "scores are for a training set of {} examples, of which {} are {}",
            stage.n_examples,
            stage.all().len(),
            if stage.chosen.is_none() { "scored" } else { "in the file" }
        )
    })
}

/// Which second moments are the curvature, and what that means for amounts.
pub(super) fn second_moments(training: &Training) -> Option<String> {
    let files: Vec<String> = training
        .fits
        .iter()
        .filter_map(|fit| Some(fit.second_moments.as_ref()?.file().display().to_string()))
        .collect();
    (!files.is_empty()).then(|| {
        format!(
            "the curvature is the root of Adam's second moments, which is no curvature of the loss: scores compare \
             examples, and their amounts mean nothing; read from {}",
            files.join(", ")
        )
    })
}

/// What dividing scores over tokens adds to the work, and how large it is.
pub(super) fn tokens(brief: &Brief, memory: &Memory) -> Option<String> {
    let request = brief.job.output.tokens;
    let what = match request {
        TokensRequest::None => return None,
        TokensRequest::Ranked => "their tokens",
        TokensRequest::Query => "the target tokens of the queries",
        TokensRequest::Matrix => "their tokens and the target tokens of the queries",
        TokensRequest::All => {
            let (shares, passes) = (brief.token_shares(), brief.score_passes(&[0]).len());
            let passes = if passes == 1 { String::new() } else { format!(", in each of {passes} passes") };
            return Some(format!(
                "scores of all examples are divided over their tokens: each is differentiated once more{passes}, and there \
                 are about {shares} shares, which take {:.1} MiB on disk and in memory",
                shares as f64 * 4.0 / f64::from(1 << 20)
            ));
        }
    };
    let (listed, rows, passes) = (brief.listed(), brief.query_rows(), brief.score_passes(&[0]).len());
    let passes = if passes == 1 { String::new() } else { format!(", in each of {passes} passes") };
    let mut note = format!(
        "scores of ranked examples are divided over {what}: each ranked example is differentiated once more{passes}, at \
         most {listed} for each of {rows} queries"
    );
    if request.divides_queries() {
        let (targets, shares) = (brief.query_targets(), brief.token_shares());
        let blocks = targets.div_ceil(memory.token_block.max(1));
        note.push_str(&format!(
            "; each of {targets} target tokens is a query of its own, and there are at most about {shares} shares"
        ));
        if blocks > 1 {
            note.push_str(&format!(
                "; memory has room for the vectors of {} tokens, so that this is done {blocks} times",
                memory.token_block
            ));
        }
    }
    Some(note)
}
