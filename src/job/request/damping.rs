//! Damping as a person writes it.

use serde::{Deserialize, Serialize};

use crate::curvature::Damping;

/// `auto`, a number (absolute), or a number with `x` (times the layer's mean eigenvalue).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DampingRequest(pub Damping);

impl From<DampingRequest> for String {
    fn from(request: DampingRequest) -> Self {
        match request.0 {
            Damping::Absolute(x) => format!("{x:e}"),
            Damping::MeanFraction(x) => format!("{x}x"),
        }
    }
}

impl TryFrom<String> for DampingRequest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for DampingRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0);
        let damping = match text.strip_suffix('x') {
            _ if text == "auto" => Some(Damping::default()),
            Some(fraction) => number(fraction).map(Damping::MeanFraction),
            None => number(text).map(Damping::Absolute),
        };
        damping.map(Self).ok_or_else(|| {
            format!("`{text}` is not a damping: write `auto` (0.1x), a positive number such as `1e-8` (absolute), or `0.1x` (times each layer's mean eigenvalue)")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dampings_are_written_in_three_ways() {
        let parse = |text: &str| text.parse::<DampingRequest>().map(|request| request.0);
        assert_eq!(parse("auto"), Ok(Damping::MeanFraction(0.1)));
        assert_eq!(parse("0.25x"), Ok(Damping::MeanFraction(0.25)));
        assert_eq!(parse("1e-8"), Ok(Damping::Absolute(1e-8)));
        for bad in ["", "x", "-1", "nan", "infx", "0"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let back: String = DampingRequest(Damping::Absolute(1e-8)).into();
        assert_eq!(parse(&back), Ok(Damping::Absolute(1e-8)));
    }
}
