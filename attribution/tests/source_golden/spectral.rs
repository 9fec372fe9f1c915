//! Scalar functions (`docs/method.md`, Source).

use std::sync::Arc;

use ascribe_curvature::{Momentum, SpectralFn, Step};

use crate::golden::{case, flat, items, lists, number};

#[test]
fn decay_and_response_at_sixty_digits() {
    let case = case("spectral");
    let mut largest = 0.0_f64;
    for row in lists(&case["rows"]) {
        let [time, sigma, decay, response, damped] = row[..] else { panic!("five columns") };
        let found = SpectralFn::Decay { time, scale: 1.0, decay: 0.0 }.at(sigma);
        assert!((found - decay).abs() <= 1e-15, "decay {time} {sigma}");
        let found = SpectralFn::Response { time, scale: 1.0, decay: 0.0 }.at(sigma);
        assert!((found - response).abs() <= 3e-15 * response, "response {time} {sigma}: {found} {response}");
        // the same with τ as the scale, as segments have it
        let found = SpectralFn::Response { time: 1.0, scale: time, decay: 0.0 }.at(sigma);
        assert!((found - response).abs() <= 3e-15 * response, "response {time} {sigma}: {found} {response}");
        largest = largest.max(found / damped);
        assert!(found / damped > 1.0 - 1e-14, "never below the damped inverse");
    }
    let bound = number(&case["L1_ratio_response_over_damped_inverse"]["max"]);
    assert!(largest <= bound + 1e-9, "{largest}");
    let (x, f) = (number(&case["L1_ratio_response_over_damped_inverse"]["at_x"]), SpectralFn::Inverse { damping: 1.0 });
    let ratio = SpectralFn::Response { time: 1.0, scale: 1.0, decay: 0.0 }.at(x) / f.at(x);
    assert!((ratio - bound).abs() < 1e-12);
}

fn steps(rates: &[f64], decay: f64, shrink: f64) -> Arc<[Step]> {
    rates.iter().map(|&rate| Step { rate, scale: 1.0, decay, shrink: shrink * rate }).collect()
}

#[test]
fn products_with_both_kinds_of_weight_decay() {
    let case = &case("spectral")["product"];
    let (rates, w) = (flat(&case["etas"]), number(&case["weight_decay"]));
    for (k, sigma) in flat(&case["sigma"]).into_iter().enumerate() {
        for (steps, decay, response) in [
            (steps(&rates, 0.0, 0.0), "decay", "response"),
            (steps(&rates, w, 0.0), "decay_wd", "response_wd"),
            (steps(&rates, 0.0, w), "decay_wd", "response_wd"),
        ] {
            let found = SpectralFn::DecayProduct { steps: steps.clone() }.at(sigma);
            assert!((found - number(&case[decay][k])).abs() < 1e-14, "{decay} {sigma}");
            let (found, want) = (SpectralFn::ResponseProduct { steps }.at(sigma), number(&case[response][k]));
            assert!((found - want).abs() < 1e-14 * want.abs().max(1.0), "{response} {sigma}");
        }
    }
}

#[test]
fn momentum_as_a_pair_and_at_terminal_velocity() {
    let case = &case("spectral")["momentum"];
    let rates = flat(&case["etas"]);
    let segment = |case: &serde_json::Value, rates: &[f64]| Momentum {
        steps: steps(rates, 0.0, 0.0),
        momentum: number(&case["beta"]),
        dampening: number(&case["dampening"]),
        nesterov: case["nesterov"].as_bool().expect("a flag"),
    };
    for case in items(&case["cases"]) {
        let found = segment(case, &rates).at(number(&case["sigma"]), 1.0);
        for (found, want) in found.matrix.concat().iter().zip(flat(&case["transfer"])) {
            assert!((found - want).abs() < 1e-14, "{case}");
        }
        for (found, want) in found.response.iter().zip(flat(&case["response"])) {
            assert!((found - want).abs() < 1e-14, "{case}");
        }
    }
    for case in items(&case["terminal_velocity"]) {
        let count = case["steps"].as_u64().expect("a count") as usize;
        let found = segment(case, &vec![number(&case["eta"]); count]).at(number(&case["sigma"]), 1.0);
        assert!((found.response[0] + number(&case["exact_response"])).abs() < 1e-9, "{case}");
        let factor = (1.0 - number(&case["dampening"])) / (1.0 - number(&case["beta"]));
        let time = factor * number(&case["eta"]) * count as f64;
        let terminal = SpectralFn::Response { time, scale: 1.0, decay: 0.0 }.at(number(&case["sigma"]));
        assert!((terminal - number(&case["terminal_response"])).abs() < 1e-13, "{case}");
    }
}
