//! The values of a pickle, which lie in one arena and refer to each other by index.

/// Index of a value in its [`Pickle`](super::Pickle).
pub(super) type Id = usize;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    None,
    Bool(bool),
    /// Integers beyond 64 bits keep no value: seeds, which nobody asks for.
    Integer(Option<i64>),
    Float(f64),
    Text(Box<str>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Set,
    Dict(Vec<(Id, Id)>),
    Global(Box<Global>),
    Object(Box<Object>),
    Persistent(Id),
}

/// A class or function by name, never looked up.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Global {
    pub module: String,
    pub name: String,
}

/// What a call would have made: never made.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object {
    pub callable: Id,
    pub arguments: Id,
    pub state: Option<Id>,
    /// Entries given after the call, as for an `OrderedDict`.
    pub items: Vec<(Id, Id)>,
    /// Elements appended after the call.
    pub elements: Vec<Id>,
}
