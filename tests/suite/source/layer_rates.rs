//! A Trainer run whose parameter groups had rates of their own.

use ascribe::attribution::source::SourceOptions;
use ascribe::job::{Beside, Plan};

use crate::source::by_hand::{ByHand, assert_scores};
use crate::source::case::Case;
use crate::support::Outcome;
use crate::support::figures::largest;

#[test]
fn each_layer_has_the_rates_of_its_group() -> Outcome {
    let case = Case::grouped();
    let by_hand = ByHand::new(&case);
    assert_eq!(by_hand.run.trajectory.stages()[0].layer_rate("transformer.h.0.mlp.c_fc"), 0.1);
    let want = by_hand.scores(SourceOptions::default());
    let done = case.run(|job| job.source.as_mut().expect("Source").with = vec![Beside::Tracin]);
    assert_scores(&done.scores(""), &want, "groups with rates of their own");
    let out = tempfile::tempdir()?;
    let plan = Plan::resolve(case.job(out.path()))?;
    let said = |note: &String| {
        note.starts_with("parameter groups had rates of their own: `transformer.h.0.attn.c_attn x 0.1`")
    };
    assert!(plan.summary().notes.iter().any(said), "{:?}", plan.summary().notes);
    assert_eq!(plan.summary().legs[0].layer_rates, [0.1, 0.1, 0.1, 0.1, 1.0, 1.0, 1.0, 1.0]);
    // one rate for all would be something else
    let mut one_rate = case;
    one_rate.recorded.as_mut().expect("recorded").layer_rates.clear();
    let other = ByHand::new(&one_rate).scores(SourceOptions::default()).values;
    let apart = other.iter().zip(&want.values).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart > 0.05 * largest(&want.values), "{apart:e}");
    Ok(())
}
