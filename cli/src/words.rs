//! Numbers and names in the form in which they are shown.

use ascribe::attribution::evaluate::{ControlRecall, Interval};
use serde::Serialize;

/// The name that a choice has in flags and files.
pub(crate) fn name_of<T: Serialize>(choice: &T) -> String {
    match serde_json::to_value(choice) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 example`, `2 examples`.
pub(crate) fn counted(n: u64, unit: &str) -> String {
    let text = count(n);
    match unit.strip_suffix('s') {
        Some("querie") if n == 1 => format!("{text} query"),
        Some(one) if n == 1 => format!("{text} {one}"),
        _ => format!("{text} {unit}"),
    }
}

/// `all 10`, `the first 6 of 10`, `none of 10`.
pub(crate) fn stable(stable: usize, listed: usize) -> String {
    match stable {
        0 => format!("none of {listed}"),
        n if n == listed => format!("all {listed}"),
        n => format!("the first {n} of {listed}"),
    }
}

/// `41 %`, `0.25 %`, `1 in 12,345`: a probability as a person says it.
pub(crate) fn probability(p: f64) -> String {
    let percent = 100.0 * p;
    match percent {
        percent if percent > 99.0 && p < 1.0 => format!("{:.1} %", (10.0 * percent).floor() / 10.0),
        percent if percent >= 10.0 => format!("{percent:.0} %"),
        percent if percent >= 1.0 => format!("{percent:.1} %"),
        percent if percent >= 0.01 => format!("{percent:.2} %"),
        _ if 1.0 / p < 1e15 => format!("1 in {}", count((1.0 / p).round() as u64)),
        _ => "almost 0".to_owned(),
    }
}

/// What a choice of candidates kept of one side of a ranking, as its control sample shows it; none if nothing is listed
/// and nothing is missed.
pub(crate) fn kept(side: &str, check: &ControlRecall) -> Option<String> {
    if check.listed == 0 && check.beyond == 0 {
        return None;
    }
    let control = check.best_control.map(score);
    let scores = match (check.threshold != 0.0, control) {
        (true, Some(control)) => format!(
            "the weakest of {} listed candidates has {}, the best of the control sample {control}",
            check.listed,
            score(check.threshold)
        ),
        (true, None) => format!("the weakest of {} listed candidates has {}", check.listed, score(check.threshold)),
        (false, Some(control)) => {
            format!("{} listed candidates, and the best of the control sample has {control}", check.listed)
        }
        (false, None) => format!("{} listed candidates", check.listed),
    };
    let recall = match (check.recall, check.interval) {
        (Some(recall), Some(Interval { low, high })) => format!(
            "; {} as strong in it, so candidates hold about {:.0} % of such examples (95 %: {:.0} to {:.0} %)",
            match check.beyond {
                0 => "none is".to_owned(),
                1 => "1 is".to_owned(),
                n => format!("{} are", count(n as u64)),
            },
            100.0 * recall,
            100.0 * low,
            100.0 * high
        ),
        _ => "; without a control sample nothing says what was missed".to_owned(),
    };
    Some(format!("{side}: {scores}{recall}"))
}

/// `1.5 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} bytes");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `640 FLOP`, `1.5 GFLOP`: operations, in units of 1000.
pub(crate) fn operations(n: u128) -> String {
    const UNITS: [&str; 6] = ["kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"];
    if n < 1000 {
        return format!("{n} FLOP");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    // what would be written as 1000.0 is 1.0 of the next
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `0.4 s`, `2 min 05 s`, `3 h 12 min`.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        return format!("{} min {:02} s", whole / 60, whole % 60);
    }
    format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
}

/// A score with its sign, to four significant digits.
pub(crate) fn score(value: f32) -> String {
    let size = value.abs();
    if value == 0.0 || (1e-3..1e4).contains(&size) {
        // digits behind the point so that four are significant
        let digits = if value == 0.0 { 4 } else { (3 - size.log10().floor() as i32).clamp(0, 6) as usize };
        format!("{value:+.digits$}")
    } else {
        format!("{value:+.3e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [counted(1, "queries"), counted(1, "layers"), counted(2, "queries")],
            ["1 query", "1 layer", "2 queries"]
        );
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(5 << 30)],
            ["0 bytes", "1023 bytes", "1.5 KiB", "5.0 GiB"]
        );
        assert_eq!(
            [operations(0), operations(999), operations(1000), operations(999_949), operations(999_950)],
            ["0 FLOP", "999 FLOP", "1.0 kFLOP", "999.9 kFLOP", "1.0 MFLOP"]
        );
        assert_eq!(
            [operations(565_287_480_000), operations(1_219_166_732_288), operations(3 * 10u128.pow(22))],
            ["565.3 GFLOP", "1.2 TFLOP", "30000.0 EFLOP"]
        );
        assert_eq!(
            [duration(0.04), duration(59.97), duration(125.0), duration(11_520.0)],
            ["0.0 s", "1 min 00 s", "2 min 05 s", "3 h 12 min"]
        );
    }

    #[test]
    fn probabilities_are_readable() {
        let shown = [1.0, 0.9999, 0.405, 0.0512, 0.0025, 4e-5, 0.0].map(probability);
        assert_eq!(shown, ["100 %", "99.9 %", "40 %", "5.1 %", "0.25 %", "1 in 25,000", "almost 0"]);
    }

    #[test]
    fn scores_show_four_digits_and_their_sign() {
        let shown = [0.0, 0.012_345, -12.345_6, 1.0e-9, -0.999_96, 123_456.0].map(score);
        assert_eq!(shown, ["+0.0000", "+0.01235", "-12.35", "+1.000e-9", "-1.0000", "+1.235e5"]);
    }
}
