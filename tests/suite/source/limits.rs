//! Short and long training (`docs/method.md`, Source), as a job gets there by `time_scale`.

use ascribe::attribution::{QueryRows, Walk};
use ascribe::curvature::{Damping, Factors, Network};
use ascribe::job::Several;

use crate::source::by_hand::ByHand;
use crate::source::case::Case;
use crate::support::figures::{assert_relative, pearson};

fn at(case: &Case, time_scale: f64) -> Vec<f64> {
    let done = case.run(|job| job.source.as_mut().expect("Source").time_scale = Several(vec![time_scale]));
    done.scores("").into_iter().map(|score| score / time_scale.min(1.0)).collect()
}

#[test]
fn short_training_is_a_sum_of_gradient_products() {
    let case = Case::sgd();
    let by_hand = ByHand::new(&case);
    let identity = Factors::identity(by_hand.last.layers().len());
    let vectors = by_hand.vectors(&by_hand.last, &Walk::gradients(&identity));
    // Στ/N of each segment, the query's gradient always at the end
    let want = by_hand.sum(|add| {
        for (leg, networks) in by_hand.networks.iter().enumerate() {
            for (network, weight) in networks {
                let weight = weight * by_hand.run.segments[leg].1.tau / by_hand.n(leg);
                add(network, leg, QueryRows { vectors: &vectors, leg: 0, weight });
            }
        }
    });
    // the next term is τσ of the first: τ = 1e-7 x 105, and no eigenvalue is above 5.3 (1.06 / 0.2)
    assert_relative(&at(&case, 1e-7), &want.values, 1e-4, "short training");
    assert!(pearson(&at(&case, 1.0), &want.values) < 0.99, "training as it was is far from that limit");
}

#[test]
fn long_training_is_influence_in_the_last_segment() {
    let case = Case::sgd();
    let by_hand = ByHand::new(&case);
    let last = by_hand.networks.len() - 1;
    let segment = &by_hand.run.segments[last].1;
    // what is left of earlier segments is exp(-1e5 x 0.0576) by weight decay alone, which is all the damping there is
    let walk = Walk::influence(&by_hand.curvatures[last].factors, Damping::Absolute(0.02));
    assert!((segment.decay_exponent / segment.tau - 0.02).abs() < 1e-12);
    let vectors = by_hand.vectors(&by_hand.last, &walk);
    let want = by_hand.sum(|add| {
        for (network, weight) in &by_hand.networks[last] {
            add(network, last, QueryRows { vectors: &vectors, leg: 0, weight: weight / by_hand.n(last) });
        }
    });
    assert_relative(&at(&case, 1e5), &want.values, 1e-6, "long training");
    assert!(pearson(&at(&case, 1.0), &want.values) < 0.999, "training as it was has not come that far");
}
