//! Learning-rate schedules against the recorded rates of `transformers.get_scheduler`.

#![allow(clippy::unwrap_used, missing_docs)]

use ascribe_attribution::trajectory::{DecayShape, Schedule, ScheduleKind, StepRates};
use serde_json::Value;

fn kind(name: &str, arguments: &Value) -> ScheduleKind {
    let number = |key: &str| arguments[key].as_f64();
    let shape = |key: &str| match arguments[key].as_str()? {
        "linear" => Some(DecayShape::Linear),
        "1-sqrt" => Some(DecayShape::OneMinusSqrt),
        _ => Some(DecayShape::Cosine),
    };
    let cycles = number("num_cycles").unwrap_or(0.5);
    match name {
        "constant" => ScheduleKind::Constant,
        "constant_with_warmup" => ScheduleKind::ConstantWithWarmup,
        "linear" => ScheduleKind::Linear,
        "cosine" => ScheduleKind::Cosine { cycles },
        "cosine_with_restarts" => ScheduleKind::CosineWithRestarts { cycles: number("num_cycles").unwrap_or(1.0) },
        "polynomial" => {
            ScheduleKind::Polynomial { end: number("lr_end").unwrap_or(1e-7), power: number("power").unwrap_or(1.0) }
        }
        "inverse_sqrt" => ScheduleKind::InverseSqrt { timescale: number("timescale") },
        "cosine_with_min_lr" => ScheduleKind::CosineWithMinimum { cycles, minimum: number("min_lr_rate").unwrap() },
        "cosine_warmup_with_min_lr" => ScheduleKind::CosineWarmupWithMinimum {
            cycles,
            minimum: number("min_lr_rate").unwrap(),
            warmup_start: number("warmup_lr_rate"),
        },
        "warmup_stable_decay" => ScheduleKind::WarmupStableDecay {
            stable_steps: None,
            decay_steps: number("num_decay_steps").unwrap() as usize,
            warmup: shape("warmup_type").unwrap_or(DecayShape::Linear),
            decay: shape("decay_type").unwrap_or(DecayShape::Cosine),
            minimum: number("min_lr_ratio").unwrap_or(0.0),
            cycles,
        },
        other => panic!("schedule {other}"),
    }
}

/// Every recorded rate of 17 settings at three lengths. `data/schedules.json` is the part `schedules` of the golden
/// file, whose generator compares it with transformers.
#[test]
fn rates_equal_those_of_transformers() {
    let golden: Value = serde_json::from_str(include_str!("data/schedules.json")).unwrap();
    let cases = golden["schedules"].as_array().unwrap();
    assert_eq!(cases.len(), 51);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let whole = |key: &str| case[key].as_u64().unwrap() as usize;
        let base = case["base"].as_f64().unwrap();
        let kind = kind(name, &case["kwargs"]);
        assert_eq!(kind.name(), name);
        let schedule = Schedule::new(kind, base, whole("warmup_steps"), whole("training_steps")).unwrap();
        for (step, rate) in case["rates"].as_object().unwrap() {
            let (got, rate) = (schedule.rate(step.parse().unwrap()), rate.as_f64().unwrap());
            // A cosine at its zero is what rounding leaves of 1 - 1: an absolute bound of an ulp of the base there.
            let tolerance = (1e-15 * rate).max(1e-16 * base);
            assert!((got - rate).abs() <= tolerance, "{name} {} step {step}: {got:e} not {rate:e}", case["kwargs"]);
        }
        let rates = (0..schedule.training_steps).map(|k| schedule.rate(k)).collect();
        let (sum, expected) =
            (StepRates::per_step(rates).unwrap().sum(0..usize::MAX), case["sum_over_training"].as_f64().unwrap());
        assert!((sum - expected).abs() <= 1e-15 * expected, "{name}: Σ {sum} not {expected}");
    }
}

#[test]
fn numbers_without_a_schedule_are_refused() {
    let error = |kind, base, steps| Schedule::new(kind, base, 3, steps).unwrap_err().to_string();
    assert_eq!(error(ScheduleKind::Linear, f64::NAN, 9), "`learning_rate` is NaN, expected a number above 0");
    assert_eq!(error(ScheduleKind::Linear, 0.1, 0), "`max_steps` is 0, expected at least 1");
    assert_eq!(
        error(ScheduleKind::Polynomial { end: 0.2, power: 1.0 }, 0.1, 9),
        "`lr_end` is 0.2, expected at least 0 and below the learning rate"
    );
    assert_eq!(
        error(ScheduleKind::InverseSqrt { timescale: Some(0.0) }, 0.1, 9),
        "`timescale` is 0, expected a number above 0"
    );
    // Warm-up as long as training, where transformers divides by zero after the end.
    let schedule = Schedule::new(ScheduleKind::Polynomial { end: 0.01, power: 2.0 }, 0.1, 5, 5).unwrap();
    assert_eq!((schedule.rate(4), schedule.rate(5)), (0.1 * 0.8, 0.01));
}
