//! Damping as a person writes it.

use serde::{Deserialize, Serialize};

use crate::curvature::Damping;

/// How [`DampingRequest::Rates`] is written.
const RATES: &str = "1/rates";

/// `auto`, `1/rates`, a number (absolute), or a number with `x` (times the layer's mean eigenvalue).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DampingRequest {
    /// What the systems that are solved have been validated with; a plan has the number.
    #[default]
    Auto,
    /// One over the sum of what the steps of the training run moved its parameters by along a gradient; a plan has the
    /// number.
    Rates,
    /// This damping.
    Value(Damping),
}

impl DampingRequest {
    /// The damping; where a plan has yet to write a number, that of systems of single layers.
    pub(in crate::job) fn value(self) -> Damping {
        match self {
            Self::Auto | Self::Rates => Damping::default(),
            Self::Value(damping) => damping,
        }
    }

    /// Whether another number is added to each layer.
    pub(in crate::job) fn is_relative(self) -> bool {
        match self {
            Self::Rates => false,
            Self::Auto | Self::Value(_) => matches!(self.value(), Damping::MeanFraction(_)),
        }
    }
}

impl From<DampingRequest> for String {
    fn from(request: DampingRequest) -> Self {
        match request {
            DampingRequest::Auto => "auto".into(),
            DampingRequest::Rates => RATES.into(),
            DampingRequest::Value(Damping::Absolute(x)) => format!("{x:e}"),
            DampingRequest::Value(Damping::MeanFraction(x)) => format!("{x}x"),
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
            _ if text == "auto" => return Ok(Self::Auto),
            _ if text == RATES => return Ok(Self::Rates),
            Some(fraction) => number(fraction).map(Damping::MeanFraction),
            None => number(text).map(Damping::Absolute),
        };
        damping.map(Self::Value).ok_or_else(|| {
            format!("`{text}` is not a damping: write `auto`, `1/rates`, a positive number such as `1e-8` (absolute), or `0.1x` (times each layer's mean eigenvalue)")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dampings_are_written_in_four_ways() {
        let parse = |text: &str| text.parse::<DampingRequest>().map(DampingRequest::value);
        assert_eq!("auto".parse(), Ok(DampingRequest::Auto));
        assert_eq!(parse("0.25x"), Ok(Damping::MeanFraction(0.25)));
        assert_eq!(parse("1e-8"), Ok(Damping::Absolute(1e-8)));
        for bad in ["", "x", "-1", "nan", "infx", "0"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!("1/rates".parse(), Ok(DampingRequest::Rates));
        for request in [DampingRequest::Auto, DampingRequest::Rates, DampingRequest::Value(Damping::Absolute(1e-8))] {
            assert_eq!(String::from(request).parse(), Ok(request));
        }
    }
}
