//! A reader of pickles that executes nothing.
//!
//! A pickle is a program for a stack machine whose `REDUCE` calls any importable function. Here a call is a node
//! that remembers what would have been called. The opcodes are those that `torch.save` writes and torch's own
//! restricted reader takes; any other is an error. Values live in one arena and refer to each other by index, so
//! that a list that the memo shares a thousand times exists once, a cycle is harmless, and neither reading nor
//! dropping recurses.
//!
//! # Source
//! torch's `serialization.py` and `_utils.py`, which write and read these files.

mod error;
mod machine;
mod node;

pub use self::error::PickleError;
pub(super) use self::machine::MAX_BYTES;
use self::node::{Id, Node};

/// A pickle that was read: an arena of values and the one it stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

impl Pickle {
    /// Reads a pickle up to its `STOP`.
    ///
    /// # Errors
    /// An opcode outside the closed list, a size beyond the limits, or a program that does not fit its own stack.
    pub fn read(bytes: &[u8]) -> Result<Self, PickleError> {
        let (nodes, root) = machine::run(bytes)?;
        Ok(Self { nodes, root })
    }

    /// The value that the pickle stands for.
    pub fn root(&self) -> Value<'_> {
        Value { pickle: self, id: self.root }
    }
}

/// A value of a pickle.
///
/// Accessors return `None` for a value of another kind. Nothing here walks a whole value: values may contain
/// themselves.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    pickle: &'a Pickle,
    id: Id,
}

impl<'a> Value<'a> {
    fn node(self) -> &'a Node {
        &self.pickle.nodes[self.id]
    }

    fn at(self, id: Id) -> Self {
        Self { pickle: self.pickle, id }
    }

    /// What kind of value it is, for messages.
    pub fn kind(self) -> &'static str {
        match self.node() {
            Node::None => "None",
            Node::Bool(_) => "bool",
            Node::Integer(_) => "int",
            Node::Float(_) => "float",
            Node::Text(_) => "str",
            Node::List(_) => "list",
            Node::Tuple(_) => "tuple",
            Node::Set => "set",
            Node::Dict(_) => "dict",
            Node::Global(_) => "name",
            Node::Object(_) => "object",
            Node::Persistent(_) => "storage",
        }
    }

    /// Whether it is `None`.
    pub fn is_none(self) -> bool {
        matches!(self.node(), Node::None)
    }

    /// A `bool`.
    pub fn as_bool(self) -> Option<bool> {
        match self.node() {
            Node::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// An `int` of at most 64 bits.
    pub fn as_i64(self) -> Option<i64> {
        match self.node() {
            Node::Integer(i) => *i,
            _ => None,
        }
    }

    /// An `int` of at least 0.
    pub fn as_usize(self) -> Option<usize> {
        usize::try_from(self.as_i64()?).ok()
    }

    /// A `float` or an `int`.
    pub fn as_f64(self) -> Option<f64> {
        match self.node() {
            Node::Float(f) => Some(*f),
            Node::Integer(i) => i.map(|i| i as f64),
            _ => None,
        }
    }

    /// A `str`.
    pub fn as_str(self) -> Option<&'a str> {
        match self.node() {
            Node::Text(s) => Some(s),
            _ => None,
        }
    }

    /// A `str`, or the `str` that a string enum wraps: `SchedulerType("cosine")`.
    pub fn as_name(self) -> Option<&'a str> {
        let wrapped = || {
            let arguments = self.arguments()?;
            (arguments.len() == 1).then(|| arguments.get(0))??.as_str()
        };
        self.as_str().or_else(wrapped)
    }

    /// The elements of a list or tuple, or those appended to an object.
    pub fn elements(self) -> Option<Elements<'a>> {
        let ids = match self.node() {
            Node::List(ids) | Node::Tuple(ids) => ids,
            Node::Object(object) => &object.elements,
            _ => return None,
        };
        Some(Elements { pickle: self.pickle, ids })
    }

    /// The entries of a `dict` or `OrderedDict`, in their order.
    pub fn entries(self) -> impl Iterator<Item = (Value<'a>, Value<'a>)> {
        self.entry_ids().unwrap_or(&[]).iter().map(move |&(key, value)| (self.at(key), self.at(value)))
    }

    fn entry_ids(self) -> Option<&'a [(Id, Id)]> {
        match self.node() {
            Node::Dict(entries) => Some(entries),
            Node::Object(object) => Some(&object.items),
            _ => None,
        }
    }

    /// The entry of a `str` key; of several the last, as in Python.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let entries = self.entry_ids()?;
        entries.iter().rev().find(|(k, _)| self.at(*k).as_str() == Some(key)).map(|&(_, value)| self.at(value))
    }

    /// An attribute of an object whose state is a `dict`.
    pub fn attribute(self, name: &str) -> Option<Value<'a>> {
        self.state()?.get(name)
    }

    /// The state of an object.
    pub fn state(self) -> Option<Value<'a>> {
        match self.node() {
            Node::Object(object) => object.state.map(|id| self.at(id)),
            _ => None,
        }
    }

    /// A class or function, or the one that an object was called from: (module, name).
    pub fn global(self) -> Option<(&'a str, &'a str)> {
        let node = match self.node() {
            Node::Object(object) => self.at(object.callable).node(),
            node => node,
        };
        match node {
            Node::Global(global) => Some((&global.module, &global.name)),
            _ => None,
        }
    }

    /// Whether it is an object, that is, a call that was not made.
    pub fn is_object(self) -> bool {
        matches!(self.node(), Node::Object(_))
    }

    /// The arguments of an object's call.
    pub fn arguments(self) -> Option<Elements<'a>> {
        match self.node() {
            Node::Object(object) => match self.at(object.arguments).node() {
                Node::Tuple(ids) => Some(Elements { pickle: self.pickle, ids }),
                _ => None,
            },
            _ => None,
        }
    }

    /// What a persistent id stands for: torch's description of a storage.
    pub fn persistent(self) -> Option<Value<'a>> {
        match self.node() {
            Node::Persistent(id) => Some(self.at(*id)),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.node() {
            // Not their contents, which may be endless.
            Node::List(ids) | Node::Tuple(ids) => write!(f, "{} of {}", self.kind(), ids.len()),
            Node::Dict(entries) => write!(f, "dict of {}", entries.len()),
            node => write!(f, "{node:?}"),
        }
    }
}

/// A sequence of values.
#[derive(Clone, Copy)]
pub struct Elements<'a> {
    pickle: &'a Pickle,
    ids: &'a [Id],
}

impl<'a> Elements<'a> {
    /// Number of elements.
    pub fn len(self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.ids.is_empty()
    }

    /// An element.
    pub fn get(self, index: usize) -> Option<Value<'a>> {
        self.ids.get(index).map(|&id| Value { pickle: self.pickle, id })
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = Value<'a>> {
        self.ids.iter().map(move |&id| Value { pickle: self.pickle, id })
    }
}

#[cfg(test)]
mod tests;
