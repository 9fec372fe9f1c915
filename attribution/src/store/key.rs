//! Keys are contents: the BLAKE3 hash of everything an artifact depends on.

use std::fmt;
use std::str::FromStr;

/// What an artifact depends on, as a BLAKE3 hash. Equal keys mean equal bytes, so that an artifact of
/// the same key may be used again, and one of another key never.
///
/// Displayed, and parsed, as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    /// The hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 16 hexadecimal digits, for file names. Files carry the whole key as well, and it is compared.
    pub fn short(&self) -> String {
        let mut digits = self.to_string();
        digits.truncate(16);
        digits
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.short())
    }
}

/// The text is not a key: it needs 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a key of 64 hexadecimal digits")]
pub struct KeyParseError {
    /// The text.
    pub text: String,
}

impl FromStr for Key {
    type Err = KeyParseError;

    fn from_str(text: &str) -> Result<Self, KeyParseError> {
        let error = || KeyParseError { text: text.to_owned() };
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(error());
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0]).ok_or_else(error)? << 4 | value(pair[1]).ok_or_else(error)?;
        }
        Ok(Self(bytes))
    }
}

/// One value of a key's field. Its kind is part of the hash: the number 1, the text `1` and the byte 1 differ.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum FieldValue<'a> {
    /// Raw bytes, such as a tensor's contents.
    Bytes(&'a [u8]),
    /// Text.
    Text(&'a str),
    /// A count, a seed.
    Unsigned(u64),
    /// A number, by its bits: `0.0` and `-0.0` differ.
    Float(f64),
    /// Another key, of what this one builds on.
    Key(Key),
    /// A switch.
    Switch(bool),
}

impl FieldValue<'_> {
    fn feed(&self, hasher: &mut blake3::Hasher) {
        let (tag, number): (u8, [u8; 8]);
        let bytes = match self {
            Self::Bytes(bytes) => {
                tag = 0;
                *bytes
            }
            Self::Text(text) => {
                tag = 1;
                text.as_bytes()
            }
            Self::Unsigned(value) => {
                tag = 2;
                number = value.to_le_bytes();
                &number
            }
            Self::Float(value) => {
                tag = 3;
                number = value.to_bits().to_le_bytes();
                &number
            }
            Self::Key(key) => {
                tag = 4;
                &key.0
            }
            Self::Switch(value) => {
                tag = 5;
                if *value { &[1] } else { &[0] }
            }
        };
        hasher.update(&[tag]);
        feed_sized(hasher, bytes);
    }
}

macro_rules! field_value {
    ($($from:ty => $variant:ident),* $(,)?) => {
        $(impl<'a> From<$from> for FieldValue<'a> {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}
field_value!(&'a [u8] => Bytes, &'a str => Text, u64 => Unsigned, u32 => Unsigned, f64 => Float, bool => Switch, Key => Key);

impl<'a> From<&'a String> for FieldValue<'a> {
    fn from(value: &'a String) -> Self {
        Self::Text(value)
    }
}

/// The tag of a list, which no value has.
const LIST: u8 = 255;

/// Builds a [`Key`] from named fields.
///
/// The hash covers, in this order: the kind, the format version of its arithmetic, and each field's name,
/// type and value as they were added. Every piece of variable length is preceded by its length, so no two
/// different sequences of fields give the same bytes. **The order of fields matters**: add them in one
/// fixed order, and sort what comes from a map.
///
/// ```
/// use ascribe_attribution::store::KeyBuilder;
/// let key = |seed: u64| {
///     KeyBuilder::new("covariance", 1).field("dtype", "f32").field("seed", seed).list("ids", ["a", "b"]).finish()
/// };
/// assert_eq!(key(7), key(7));
/// assert_ne!(key(7), key(8));
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct KeyBuilder(blake3::Hasher);

impl KeyBuilder {
    /// A key of an artifact of this kind. Raise `format_version` when the same inputs would give other bytes.
    pub fn new(kind: &str, format_version: u32) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("ascribe artifact key 1");
        feed_sized(&mut hasher, kind.as_bytes());
        hasher.update(&format_version.to_le_bytes());
        Self(hasher)
    }

    /// Adds a field.
    pub fn field<'a>(mut self, name: &str, value: impl Into<FieldValue<'a>>) -> Self {
        feed_sized(&mut self.0, name.as_bytes());
        value.into().feed(&mut self.0);
        self
    }

    /// Adds a field that is a list, such as the ids of all examples. An empty list is not a missing field.
    pub fn list<'a, V: Into<FieldValue<'a>>>(mut self, name: &str, values: impl IntoIterator<Item = V>) -> Self {
        feed_sized(&mut self.0, name.as_bytes());
        self.0.update(&[LIST]);
        // Each element announces itself, so that the length need not be known beforehand.
        for value in values {
            self.0.update(&[1]);
            value.into().feed(&mut self.0);
        }
        self.0.update(&[0]);
        self
    }

    /// The key.
    pub fn finish(self) -> Key {
        Key(*self.0.finalize().as_bytes())
    }
}

fn feed_sized(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_read_back_from_its_digits() {
        let key = KeyBuilder::new("lambda", 3).field("seed", 1u64).finish();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(key.short(), key.to_string()[..16]);
        for wrong in ["", "00", &"g".repeat(64), &"A".repeat(64), &"é".repeat(32)] {
            assert_eq!(wrong.parse::<Key>(), Err(KeyParseError { text: wrong.to_owned() }));
        }
    }

    #[test]
    fn every_part_of_a_key_counts() {
        let parent = KeyBuilder::new("kind", 1).finish();
        let keys = [
            parent,
            KeyBuilder::new("kind", 2).finish(),
            KeyBuilder::new("kinds", 1).finish(),
            KeyBuilder::new("kind", 1).field("a", 1u64).finish(),
            KeyBuilder::new("kind", 1).field("a", "1").finish(),
            KeyBuilder::new("kind", 1).field("a", &b"1"[..]).finish(),
            KeyBuilder::new("kind", 1).field("a", f64::from_bits(1)).finish(),
            KeyBuilder::new("kind", 1).field("a", 0.0).finish(),
            KeyBuilder::new("kind", 1).field("a", -0.0).finish(),
            KeyBuilder::new("kind", 1).field("a", true).finish(),
            KeyBuilder::new("kind", 1).field("a", false).finish(),
            KeyBuilder::new("kind", 1).field("a", parent).finish(),
            KeyBuilder::new("kind", 1).field("a", &parent.as_bytes()[..]).finish(),
            KeyBuilder::new("kind", 1).field("a", 1u64).field("b", 2u64).finish(),
            KeyBuilder::new("kind", 1).field("b", 2u64).field("a", 1u64).finish(),
            KeyBuilder::new("kind", 1).list("a", [1u64]).finish(),
            KeyBuilder::new("kind", 1).list("a", [1u64; 0]).finish(),
            KeyBuilder::new("kind", 1).list("a", ["x", "y"]).finish(),
            KeyBuilder::new("kind", 1).list("a", ["xy"]).finish(),
            KeyBuilder::new("kind", 1).list("a", ["x"]).list("a", ["y"]).finish(),
        ];
        for i in 0..keys.len() {
            for j in 0..i {
                assert_ne!(keys[i], keys[j], "{j} and {i}");
            }
        }
    }

    /// The bytes under the hash, written out. A change here makes every stored artifact a stranger, so it
    /// must be meant.
    #[test]
    fn the_hash_of_fields_never_changes() {
        let key =
            KeyBuilder::new("golden", 1).field("text", "a").field("count", 2u64).list("ids", ["x", "yz"]).finish();
        let mut bytes = Vec::new();
        bytes.extend(b"\x06\0\0\0\0\0\0\0golden\x01\0\0\0");
        bytes.extend(b"\x04\0\0\0\0\0\0\0text\x01\x01\0\0\0\0\0\0\0a");
        bytes.extend(b"\x05\0\0\0\0\0\0\0count\x02\x08\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
        bytes.extend(b"\x03\0\0\0\0\0\0\0ids\xff");
        bytes.extend(b"\x01\x01\x01\0\0\0\0\0\0\0x\x01\x01\x02\0\0\0\0\0\0\0yz\0");
        assert_eq!(*key.as_bytes(), blake3::derive_key("ascribe artifact key 1", &bytes));
    }

    #[derive(Debug, Clone, PartialEq)]
    enum Part {
        Text(String, String),
        Bytes(String, Vec<u8>),
        Number(String, u64),
        List(String, Vec<String>),
    }

    /// Short strings of few letters (with NUL and a digit), so that equal concatenations are frequent.
    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let name = || "[ab\u{0}1]{0,3}";
        let part = prop_oneof![
            (name(), name()).prop_map(|(n, v)| Part::Text(n, v)),
            (name(), proptest::collection::vec(0u8..3, 0..9)).prop_map(|(n, v)| Part::Bytes(n, v)),
            (name(), 0u64..3).prop_map(|(n, v)| Part::Number(n, v)),
            (name(), proptest::collection::vec(name(), 0..3)).prop_map(|(n, v)| Part::List(n, v)),
        ];
        proptest::collection::vec(part, 0..4)
    }

    fn key_of(kind: &str, parts: &[Part]) -> Key {
        parts
            .iter()
            .fold(KeyBuilder::new(kind, 1), |builder, part| match part {
                Part::Text(name, value) => builder.field(name, value),
                Part::Bytes(name, value) => builder.field(name, &value[..]),
                Part::Number(name, value) => builder.field(name, *value),
                Part::List(name, values) => builder.list(name, values),
            })
            .finish()
    }

    proptest! {
        #[test]
        fn keys_are_equal_exactly_if_their_fields_are(
            a in parts(), b in parts(), kind_a in "[ab]{0,2}", kind_b in "[ab]{0,2}"
        ) {
            prop_assert_eq!(key_of(&kind_a, &a) == key_of(&kind_b, &b), a == b && kind_a == kind_b);
        }

        #[test]
        fn a_byte_cannot_move_between_neighbours(text in "[ab]{2,8}", i in 0usize..9, j in 0usize..9) {
            let (i, j) = (i % (text.len() + 1), j % (text.len() + 1));
            let split = |at: usize| Part::Text(text[..at].to_owned(), text[at..].to_owned());
            let pair = |at: usize| vec![Part::List("n".into(), vec![text[..at].to_owned(), text[at..].to_owned()])];
            prop_assert_eq!(key_of("k", &[split(i)]) == key_of("k", &[split(j)]), i == j);
            prop_assert_eq!(key_of("k", &pair(i)) == key_of("k", &pair(j)), i == j);
        }
    }
}
