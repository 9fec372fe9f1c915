//! One value, or a list of them.

use serde::{Deserialize, Serialize};

/// One value or several, each of which gets scores of its own; a file writes a single one without brackets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written<T>", into = "Written<T>")]
pub struct Several<T: Clone>(pub Vec<T>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written<T> {
    One(T),
    Many(Vec<T>),
}

impl<T: Clone> From<Written<T>> for Several<T> {
    fn from(written: Written<T>) -> Self {
        match written {
            Written::One(value) => Self(vec![value]),
            Written::Many(values) => Self(values),
        }
    }
}

impl<T: Clone> From<Several<T>> for Written<T> {
    fn from(several: Several<T>) -> Self {
        match <[T; 1]>::try_from(several.0) {
            Ok([value]) => Self::One(value),
            Err(values) => Self::Many(values),
        }
    }
}

impl<T: Clone + Default> Default for Several<T> {
    /// The default value alone.
    fn default() -> Self {
        Self(vec![T::default()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct File {
        x: Several<f64>,
    }

    #[test]
    fn one_is_written_without_brackets() {
        for (text, values) in [("x = 2.0\n", vec![2.0]), ("x = [1.0, 3.0]\n", vec![1.0, 3.0])] {
            let file: File = toml::from_str(text).expect("a number or a list");
            assert_eq!(file.x.0, values);
            assert_eq!(toml::to_string(&file).expect("TOML"), text);
        }
        assert!(toml::from_str::<File>("x = 'two'\n").is_err());
    }
}
