//! A Trainer run that froze a part of the model, under AdamW: the optimizer's file knows the trained parameters alone.

use ascribe::attribution::source::SourceOptions;
use ascribe::job::{Job, Plan};

use crate::source::by_hand::{ByHand, assert_scores};
use crate::source::case::Case;
use crate::support::Outcome;

#[test]
fn frozen_layers_are_found_and_left_out() -> Outcome {
    let case = Case::frozen();
    let by_hand = ByHand::new(&case);
    let without = |leg: &ascribe::attribution::source::LegCurvature<f64>| {
        leg.factors.layers.iter().filter(|layer| layer.basis.is_none()).count()
    };
    assert_eq!(by_hand.curvatures.iter().map(without).collect::<Vec<_>>(), [4, 4], "the first block has no curvature");
    let done = case.run(|_| {});
    assert_scores(&done.scores(""), &by_hand.scores(SourceOptions::default()), "a run with frozen layers");
    let out = tempfile::tempdir()?;
    let plan = Plan::resolve(case.job(out.path()))?;
    let said = |note: &String| note.starts_with("4 tracked layers are the same in all checkpoints and count as frozen");
    assert!(plan.summary().notes.iter().any(said), "{:?}", plan.summary().notes);
    assert!(plan.summary().legs.iter().all(|leg| leg.frozen.len() == 4));
    Ok(())
}

/// Tracking the trained layers alone asks the same question.
#[test]
fn frozen_layers_change_nothing_beside_tracking_the_others() {
    let case = Case::frozen();
    let tracked = |job: &mut Job| job.model.layers = vec!["transformer.h.1.*".into()];
    let (all, some) = (case.run(|_| {}).scores(""), case.run(tracked).scores(""));
    crate::support::figures::assert_relative(&all, &some, 1.2e-7, "the trained layers");
}
