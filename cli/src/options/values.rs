//! Parsers of single values.

use std::path::PathBuf;

use ascribe::Hint;
use ascribe::attribution::store::Shard;
use ascribe::job::Measure;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;

/// A choice of the library's by the name it has in `job.toml`; the second text says what it means.
pub(super) fn one_of<T>(choices: &'static [(&'static str, &'static str)]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    let values = choices.iter().map(|(name, help)| match *help {
        "" => PossibleValue::new(*name),
        help => PossibleValue::new(*name).help(help),
    });
    PossibleValuesParser::new(values).try_map(|name| serde_json::from_value(serde_json::Value::String(name)))
}

/// What is measured at a query.
pub(crate) fn measure() -> impl TypedValueParser<Value = Measure> {
    one_of::<Measure>(&[
        ("loss", "the loss; a proponent lowers it"),
        ("logprob", "log-probability of the targets"),
        ("probability", "probability of the right label, summed over targets"),
        ("margin", "log-odds of the right label"),
        ("prediction", "the predicted value of a regression"),
    ])
}

/// `8GiB`, `1.5GiB`, `512MiB`, `4GB` or plain bytes.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
        ("B", 1),
        ("", 1),
    ];
    let text = text.trim();
    let ends = |unit: &str| {
        text.len() >= unit.len() && text.as_bytes()[text.len() - unit.len()..].eq_ignore_ascii_case(unit.as_bytes())
    };
    let bytes = UNITS.iter().find(|(unit, _)| ends(unit)).and_then(|(unit, size)| {
        let number: f64 = text[..text.len() - unit.len()].trim().parse().ok()?;
        let bytes = number * *size as f64;
        (bytes.is_finite() && (1.0..1e18).contains(&bytes)).then_some(bytes as u64)
    });
    bytes.ok_or_else(|| "write `8GiB`, `512MiB` or a number of bytes".to_owned())
}

/// Blocks of so many tokens; begun anew after so many rows, if that is said, in so many shares of the rows, and with what
/// fills no block, or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pack {
    pub(super) length: usize,
    pub(super) rows: Option<usize>,
    pub(super) processes: Option<usize>,
    pub(super) keeps_rest: bool,
}

/// `128`, `128:1000` or `128:1000:4`, each with or without `:keep`.
pub(super) fn pack(text: &str) -> Result<Pack, String> {
    let (numbers, keeps_rest) = text.strip_suffix(":keep").map_or((text, false), |numbers| (numbers, true));
    let numbers: Option<Vec<usize>> = numbers.split(':').map(|number| number.parse().ok()).collect();
    let of = |length, rows, processes| Ok(Pack { length, rows, processes, keeps_rest });
    match numbers.as_deref() {
        Some(&[length]) => of(length, None, None),
        Some(&[length, rows]) => of(length, Some(rows), None),
        Some(&[length, rows, processes]) => of(length, Some(rows), Some(processes)),
        _ => Err("write a number of tokens, `128`, of tokens and rows, `128:1000`, or of tokens, rows and processes, \
                  `128:1000:4`; with `:keep` behind it what fills no block is a shorter one"
            .to_owned()),
    }
}

/// `2/8`: the second of eight.
pub(crate) fn shard(text: &str) -> Result<Shard, String> {
    Shard::parse(text).map_err(|error| match error.hint() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    })
}

/// A factor on learning rates.
pub(super) fn time_scale(text: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|scale: &f64| scale.is_finite() && *scale > 0.0);
    number.ok_or_else(|| "write a number above 0; 1 is training as it was".to_owned())
}

/// `pretraining=pages.jsonl`.
pub(super) fn stage_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((stage, file)) if !stage.is_empty() && !file.is_empty() => Ok((stage.to_owned(), file.into())),
        _ => Err("write the stage's name, `=` and its file".to_owned()),
    }
}

/// `attention=*.attn.*,*.{q,k,v}_proj`: commas inside braces or brackets are the glob's own.
pub(super) fn layer_set(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, globs) = text.split_once('=').unwrap_or((text, ""));
    let (mut depth, mut found) = (0usize, vec![String::new()]);
    for c in globs.chars() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().expect("never empty").push(c);
    }
    if name.is_empty() || found.iter().any(String::is_empty) {
        return Err("write the set's name, `=` and globs over layer names, with commas".to_owned());
    }
    Ok((name.to_owned(), found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_tokens_and_rows() {
        let of = |rows, keeps_rest| Ok(Pack { length: 128, rows, processes: None, keeps_rest });
        assert_eq!((pack("128"), pack("128:keep")), (of(None, false), of(None, true)));
        assert_eq!((pack("128:1000"), pack("128:1000:keep")), (of(Some(1000), false), of(Some(1000), true)));
        let shares = |keeps_rest| Ok(Pack { length: 128, rows: Some(1000), processes: Some(4), keeps_rest });
        assert_eq!((pack("128:1000:4"), pack("128:1000:4:keep")), (shares(false), shares(true)));
        for wrong in ["", "128:", ":5", "-1", "128:1000:2:1", "keep", ":keep", "128:keep:1000", "128:kept", "128::keep"]
        {
            assert!(pack(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn layer_sets_are_globs_with_commas_between() {
        let own = |globs: &[&str]| globs.iter().map(|&glob| glob.to_owned()).collect::<Vec<_>>();
        assert_eq!(layer_set("a=*.attn.*").expect("one"), ("a".to_owned(), own(&["*.attn.*"])));
        let found = layer_set("a=*.{q,k}_proj,h.[0,1].*,c").expect("three");
        assert_eq!(found.1, own(&["*.{q,k}_proj", "h.[0,1].*", "c"]));
        for bad in ["a", "a=", "=x", "a=x,", "a=,x", ""] {
            assert!(layer_set(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_is_written_with_units() {
        let parsed = ["8GiB", "512MiB", "1.5 gib", "1000", "2kB", "64B"].map(memory);
        assert_eq!(parsed, [8 << 30, 512 << 20, 3 << 29, 1000, 2000, 64].map(Ok));
        for bad in ["", "GiB", "-1GiB", "0", "1e400", "8 apples", "nan", "größe"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }
}
