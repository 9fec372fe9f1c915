//! One value, or a list of them.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One value or several, each of which gets scores of its own; a file writes a single one without brackets.
#[derive(Debug, Clone, PartialEq)]
pub struct Several<T>(pub Vec<T>);

impl<T: Serialize> Serialize for Several<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [value] => value.serialize(serializer),
            values => values.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Several<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // an untagged enum would swallow what is wrong with the value
        deserializer.deserialize_any(OneOrMany(PhantomData))
    }
}

struct OneOrMany<T>(PhantomData<T>);

fn one<'de, T: Deserialize<'de>, E: Error>(value: impl IntoDeserializer<'de, E>) -> Result<Several<T>, E> {
    Ok(Several(vec![T::deserialize(value.into_deserializer())?]))
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
    type Value = Several<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or a list of values")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        one(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        one(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        one(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        one(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<Self::Value, A::Error> {
        Ok(Several(Vec::deserialize(SeqAccessDeserializer::new(values))?))
    }
}

impl<T: Default> Default for Several<T> {
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
        assert_eq!(toml::from_str::<File>("x = 2\n").expect("a number").x.0, [2.0]);
        let error = toml::from_str::<File>("x = 'two'\n").expect_err("text").to_string();
        assert!(error.contains("invalid type: string \"two\", expected f64"), "{error}");
        assert!(toml::from_str::<File>("x = { y = 1 }\n").is_err());
    }
}
