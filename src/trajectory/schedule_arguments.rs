//! Schedules by the names and arguments of transformers.
//!
//! # Source
//! `docs/method.md`, Source.

use ascribe_attribution::trajectory::{DecayShape, ScheduleKind};

/// A value of `lr_scheduler_kwargs`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::trajectory) enum Argument {
    Number(f64),
    Text(String),
    Other(&'static str),
}

/// A schedule by the names of transformers; `None` if the name or an argument is not one of a known closed form.
pub(in crate::trajectory) fn schedule_kind(
    name: &str,
    arguments: &[(String, Argument)],
    base: f64,
) -> Option<ScheduleKind> {
    let number = |key: &str| match arguments.iter().find(|(k, _)| k == key)? {
        (_, Argument::Number(value)) => Some(*value),
        _ => None,
    };
    let shape = |key: &str, default| match arguments.iter().find(|(k, _)| k == key) {
        None => Some(default),
        Some((_, Argument::Text(text))) => match text.as_str() {
            "linear" => Some(DecayShape::Linear),
            "cosine" => Some(DecayShape::Cosine),
            "1-sqrt" => Some(DecayShape::OneMinusSqrt),
            _ => None,
        },
        Some(_) => None,
    };
    let cycles = number("num_cycles").unwrap_or(0.5);
    let minimum = || number("min_lr_rate").or_else(|| Some(number("min_lr")? / base));
    let (kind, known): (ScheduleKind, &[&str]) = match name {
        "constant" => (ScheduleKind::Constant, &[]),
        "constant_with_warmup" => (ScheduleKind::ConstantWithWarmup, &[]),
        "linear" => (ScheduleKind::Linear, &[]),
        "cosine" => (ScheduleKind::Cosine { cycles }, &["num_cycles"]),
        "cosine_with_restarts" => {
            (ScheduleKind::CosineWithRestarts { cycles: number("num_cycles").unwrap_or(1.0) }, &["num_cycles"])
        }
        "polynomial" => {
            let (end, power) = (number("lr_end").unwrap_or(1e-7), number("power").unwrap_or(1.0));
            (ScheduleKind::Polynomial { end, power }, &["lr_end", "power"])
        }
        "inverse_sqrt" => (ScheduleKind::InverseSqrt { timescale: number("timescale") }, &["timescale"]),
        "cosine_with_min_lr" => {
            (ScheduleKind::CosineWithMinimum { cycles, minimum: minimum()? }, &["num_cycles", "min_lr", "min_lr_rate"])
        }
        "cosine_warmup_with_min_lr" => (
            ScheduleKind::CosineWarmupWithMinimum {
                cycles,
                minimum: minimum()?,
                warmup_start: number("warmup_lr_rate"),
            },
            &["num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"],
        ),
        "warmup_stable_decay" => {
            let whole = |key: &str| number(key).filter(|n| *n >= 0.0).map(|n| n as usize);
            let kind = ScheduleKind::WarmupStableDecay {
                stable_steps: whole("num_stable_steps"),
                decay_steps: whole("num_decay_steps")?,
                warmup: shape("warmup_type", DecayShape::Linear)?,
                decay: shape("decay_type", DecayShape::Cosine)?,
                minimum: number("min_lr_ratio").unwrap_or(0.0),
                cycles,
            };
            let known =
                &["num_stable_steps", "num_decay_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles"];
            (kind, known)
        }
        _ => return None,
    };
    // An argument that we do not know may change the form: then it is not known.
    let all_known =
        arguments.iter().all(|(key, value)| known.contains(&key.as_str()) && !matches!(value, Argument::Other(_)));
    all_known.then_some(kind)
}
