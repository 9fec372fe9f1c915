//! A reader of pickles that executes nothing.
//!
//! A pickle is a program for a stack machine whose `REDUCE` calls any importable function. Here a call is a node
//! that remembers what would have been called. The opcodes are those that `torch.save` writes and torch's own
//! restricted reader takes; any other is an error. Values live in one arena and refer to each other by index, so
//! that a list that the memo shares a thousand times exists once, a cycle is harmless, and neither reading nor
//! dropping recurses.
//!
//! # Source
//! FORMATS §6.

use std::collections::BTreeMap;

/// What a hostile pickle may not exceed. A real `optimizer.pt` of 10,000 parameters has about 300,000 values.
const MAX_BYTES: usize = 32 << 20;
const MAX_VALUES: usize = 2 << 20;
const MAX_DEPTH: usize = 1 << 10;
const MAX_STACK: usize = 1 << 20;
const MAX_TEXT: usize = 1 << 20;

/// Why bytes are not a pickle that we read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// The bytes end within an opcode.
    #[error("the pickle ends within the opcode at byte {at}")]
    Truncated {
        /// Where the opcode starts.
        at: usize,
    },
    /// An opcode outside the closed list.
    #[error("the pickle has the opcode {opcode:#04x} at byte {at}, which is not one that torch writes")]
    Opcode {
        /// The opcode.
        opcode: u8,
        /// Where.
        at: usize,
    },
    /// A protocol other than 2.
    #[error("the pickle has protocol {protocol}, expected 2")]
    Protocol {
        /// The protocol.
        protocol: u8,
    },
    /// A size beyond what we take.
    #[error("the pickle has more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// An opcode does not fit the stack, the memo or the value that it changes.
    #[error("the pickle is damaged: {what} at byte {at}")]
    Damaged {
        /// What does not fit.
        what: &'static str,
        /// Where the opcode starts.
        at: usize,
    },
}

/// Index of a value in its [`Pickle`].
type Id = usize;

/// One value.
#[derive(Debug, Clone, PartialEq)]
enum Node {
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
struct Global {
    module: String,
    name: String,
}

/// What a call would have made: never made.
#[derive(Debug, Clone, PartialEq)]
struct Object {
    callable: Id,
    arguments: Id,
    state: Option<Id>,
    /// Entries given after the call, as for an `OrderedDict`.
    items: Vec<(Id, Id)>,
    /// Elements appended after the call.
    elements: Vec<Id>,
}

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
        if bytes.len() > MAX_BYTES {
            return Err(PickleError::TooLarge { what: "bytes", limit: MAX_BYTES });
        }
        Machine {
            bytes,
            at: 0,
            opcode_at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
        }
        .run()
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

    /// Number of entries of a `dict`, or of those given to an object such as an `OrderedDict`.
    pub fn n_entries(self) -> Option<usize> {
        Some(self.entry_ids()?.len())
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

/// The stack machine.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    opcode_at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Stack heights at which a `MARK` stands.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl Machine<'_> {
    fn run(mut self) -> Result<Pickle, PickleError> {
        loop {
            self.opcode_at = self.at;
            let opcode = self.byte()?;
            match opcode {
                0x80 => match self.byte()? {
                    2 => {}
                    protocol => return Err(PickleError::Protocol { protocol }),
                },
                b'.' => {
                    let root = self.pop()?;
                    return Ok(Pickle { nodes: self.nodes, root });
                }
                b'(' if self.marks.len() == MAX_DEPTH => {
                    return Err(PickleError::TooLarge { what: "open containers", limit: MAX_DEPTH });
                }
                b'(' => self.marks.push(self.stack.len()),
                b'N' => self.push(Node::None)?,
                0x88 => self.push(Node::Bool(true))?,
                0x89 => self.push(Node::Bool(false))?,
                b'J' => {
                    let i = i32::from_le_bytes(self.array()?);
                    self.push(Node::Integer(Some(i.into())))?;
                }
                b'K' => {
                    let i = self.byte()?;
                    self.push(Node::Integer(Some(i.into())))?;
                }
                b'M' => {
                    let i = u16::from_le_bytes(self.array()?);
                    self.push(Node::Integer(Some(i.into())))?;
                }
                0x8a => {
                    let n = self.byte()?;
                    let bytes = self.take(n.into())?;
                    let integer = long(bytes);
                    self.push(Node::Integer(integer))?;
                }
                b'G' => {
                    let f = f64::from_be_bytes(self.array()?);
                    self.push(Node::Float(f))?;
                }
                b'X' => {
                    let n = u32::from_le_bytes(self.array()?) as usize;
                    let text = self.text(n)?;
                    self.push(Node::Text(text))?;
                }
                b'U' => {
                    let n = self.byte()?;
                    let text = self.text(n.into())?;
                    self.push(Node::Text(text))?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Node::Global(Box::new(Global { module, name })))?;
                }
                b'}' => self.push(Node::Dict(Vec::new()))?,
                b']' => self.push(Node::List(Vec::new()))?,
                b')' => self.push(Node::Tuple(Vec::new()))?,
                0x8f => self.push(Node::Set)?,
                b't' => {
                    let elements = self.pop_mark()?;
                    self.push(Node::Tuple(elements))?;
                }
                0x85..=0x87 => {
                    let n = usize::from(opcode - 0x84);
                    let elements = self.pop_n(n)?;
                    self.push(Node::Tuple(elements))?;
                }
                b'q' => {
                    let key = self.byte()?.into();
                    self.put(key)?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.put(key)?;
                }
                b'h' => {
                    let key = self.byte()?.into();
                    self.fetch(key)?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.fetch(key)?;
                }
                b'a' => {
                    let element = self.pop()?;
                    self.append(vec![element])?;
                }
                b'e' => {
                    let elements = self.pop_mark()?;
                    self.append(elements)?;
                }
                b's' => {
                    let pair = self.pop_n(2)?;
                    self.set_items(&pair)?;
                }
                b'u' => {
                    let pairs = self.pop_mark()?;
                    self.set_items(&pairs)?;
                }
                b'R' | 0x81 => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    if !matches!(self.nodes[callable], Node::Global(_)) {
                        return Err(self.damaged("a call of something that is not a name"));
                    }
                    if !matches!(self.nodes[arguments], Node::Tuple(_)) {
                        return Err(self.damaged("a call without a tuple of arguments"));
                    }
                    let object = Object { callable, arguments, state: None, items: Vec::new(), elements: Vec::new() };
                    self.push(Node::Object(Box::new(object)))?;
                }
                b'b' => {
                    let state = self.pop()?;
                    let target = self.top()?;
                    match &mut self.nodes[target] {
                        Node::Object(object) => object.state = Some(state),
                        _ => return Err(self.damaged("a state for something that is not an object")),
                    }
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id))?;
                }
                _ => return Err(PickleError::Opcode { opcode, at: self.opcode_at }),
            }
        }
    }

    fn damaged(&self, what: &'static str) -> PickleError {
        PickleError::Damaged { what, at: self.opcode_at }
    }

    fn take(&mut self, n: usize) -> Result<&[u8], PickleError> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(PickleError::Truncated { at: self.opcode_at })?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn text(&mut self, n: usize) -> Result<Box<str>, PickleError> {
        if n > MAX_TEXT {
            return Err(PickleError::TooLarge { what: "bytes in a string", limit: MAX_TEXT });
        }
        let text = std::str::from_utf8(self.take(n)?).map(Box::from);
        text.map_err(|_| self.damaged("a string that is not UTF-8"))
    }

    /// A line of a `GLOBAL`.
    fn line(&mut self) -> Result<String, PickleError> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().take(MAX_TEXT).position(|&byte| byte == b'\n');
        let n = n.ok_or(PickleError::Truncated { at: self.opcode_at })?;
        let line = self.text(n)?.into_string();
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, node: Node) -> Result<(), PickleError> {
        if self.nodes.len() == MAX_VALUES {
            return Err(PickleError::TooLarge { what: "values", limit: MAX_VALUES });
        }
        self.nodes.push(node);
        self.push_id(self.nodes.len() - 1)
    }

    fn push_id(&mut self, id: Id) -> Result<(), PickleError> {
        if self.stack.len() == MAX_STACK {
            return Err(PickleError::TooLarge { what: "values on the stack", limit: MAX_STACK });
        }
        self.stack.push(id);
        Ok(())
    }

    /// The lowest stack height that may be popped without crossing a mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop_n(&mut self, n: usize) -> Result<Vec<Id>, PickleError> {
        if self.stack.len() < self.floor() + n {
            return Err(self.damaged("an empty stack"));
        }
        Ok(self.stack.split_off(self.stack.len() - n))
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        Ok(self.pop_n(1)?[0])
    }

    fn top(&self) -> Result<Id, PickleError> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => Err(self.damaged("an empty stack")),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let height = self.marks.pop().ok_or_else(|| self.damaged("a missing mark"))?;
        Ok(self.stack.split_off(height))
    }

    fn put(&mut self, key: u32) -> Result<(), PickleError> {
        let id = self.top()?;
        if self.memo.len() == MAX_VALUES && !self.memo.contains_key(&key) {
            return Err(PickleError::TooLarge { what: "memo entries", limit: MAX_VALUES });
        }
        self.memo.insert(key, id);
        Ok(())
    }

    fn fetch(&mut self, key: u32) -> Result<(), PickleError> {
        let id = *self.memo.get(&key).ok_or_else(|| self.damaged("a memo entry that was never stored"))?;
        self.push_id(id)
    }

    fn append(&mut self, mut new: Vec<Id>) -> Result<(), PickleError> {
        let target = self.top()?;
        match &mut self.nodes[target] {
            Node::List(elements) => elements.append(&mut new),
            Node::Object(object) => object.elements.append(&mut new),
            _ => return Err(self.damaged("elements for something that is not a list")),
        }
        Ok(())
    }

    fn set_items(&mut self, pairs: &[Id]) -> Result<(), PickleError> {
        let (pairs, rest) = pairs.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.damaged("a key without a value"));
        }
        let target = self.top()?;
        let items = match &mut self.nodes[target] {
            Node::Dict(entries) => entries,
            Node::Object(object) => &mut object.items,
            _ => return Err(self.damaged("entries for something that is not a dict")),
        };
        items.extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }
}

/// A little-endian two's complement integer, if it fits 64 bits.
fn long(bytes: &[u8]) -> Option<i64> {
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let fill = if negative { 0xff } else { 0 };
    let (low, high) = bytes.split_at(bytes.len().min(8));
    if high.iter().any(|&byte| byte != fill) {
        return None;
    }
    let mut array = [fill; 8];
    array[..low.len()].copy_from_slice(low);
    let value = i64::from_le_bytes(array);
    ((value < 0) == negative).then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A small pickle of Python's own, protocol 2: `make_trajectories.py` writes it.
    const SMALL: &[u8] = include_bytes!("../../fixtures/trajectory/small_arguments.pkl");

    #[test]
    fn a_pickle_of_python_is_read_value_by_value() {
        let pickle = Pickle::read(SMALL).unwrap();
        let root = pickle.root();
        assert_eq!(root.global(), Some(("__main__", "SmallArguments")));
        let field = |name: &str| root.attribute(name).unwrap();
        assert_eq!(field("learning_rate").as_f64(), Some(3e-4));
        assert_eq!(field("warmup_steps").as_i64(), Some(10));
        assert_eq!(field("max_steps").as_i64(), Some(-1));
        assert_eq!(field("negative").as_i64(), Some(-70_000));
        assert_eq!(field("small").as_i64(), Some(-(1 << 40)));
        assert_eq!((field("large").kind(), field("large").as_i64()), ("int", None));
        assert_eq!((field("bf16").as_bool(), field("fp16").as_bool()), (Some(true), Some(false)));
        assert!(field("optim_args").is_none());
        assert_eq!(field("text").as_str(), Some("ε"));
        assert_eq!(field("lr_scheduler_type").as_name(), Some("cosine"));
        assert_eq!(field("lr_scheduler_type").global(), Some(("transformers.trainer_utils", "SchedulerType")));
        assert_eq!(field("lr_scheduler_kwargs").get("num_cycles").and_then(Value::as_usize), Some(2));
        assert!(field("empty").elements().unwrap().is_empty());
        // One list under two names, filled after it was first stored.
        assert_eq!(field("shared").id, field("again").id);
        let shared = field("shared").elements().unwrap();
        assert_eq!(shared.get(2).unwrap().elements().unwrap().get(1).unwrap().as_str(), Some("four"));
    }

    #[test]
    fn integers_of_every_length() {
        for (bytes, value) in [
            (&[][..], Some(0)),
            (&[0x7f][..], Some(127)),
            (&[0xff][..], Some(-1)),
            (&[0x00, 0x80][..], Some(-32768)),
            (&[0, 0, 0, 0, 0, 0, 0, 0x80][..], Some(i64::MIN)),
            (&[0, 0, 0, 0, 0, 0, 0, 0x80, 0][..], None),
            (&[1, 0, 0, 0, 0, 0, 0, 0, 0][..], Some(1)),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 1][..], None),
            (&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], Some(-2)),
        ] {
            assert_eq!(long(bytes), value, "{bytes:?}");
        }
    }

    /// Every level holds the level before ten times: 10^60 elements if copied, 60 lists here.
    #[test]
    fn sharing_is_not_copying() {
        let mut bytes = b"\x80\x02]q\x00".to_vec();
        for level in 1..=60u8 {
            bytes.extend(b"](");
            bytes.extend([b'h', level - 1].repeat(10));
            bytes.extend([b'e', b'q', level]);
        }
        bytes.push(b'.');
        let pickle = Pickle::read(&bytes).unwrap();
        assert_eq!(pickle.nodes.len(), 61);
        assert_eq!(pickle.root().elements().unwrap().len(), 10);
        assert_eq!(format!("{:?}", pickle.root()), "list of 10");
    }

    #[test]
    fn a_list_may_contain_itself() {
        let pickle = Pickle::read(b"\x80\x02]q\x00h\x00a.").unwrap();
        assert_eq!(pickle.root().elements().unwrap().get(0).unwrap().id, pickle.root().id);
    }

    /// What a hostile pickle does: its call is a node, and nothing more.
    #[test]
    fn calls_are_not_made() {
        let pickle = Pickle::read(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.").unwrap();
        assert_eq!(pickle.root().global(), Some(("os", "system")));
        assert_eq!(pickle.root().arguments().unwrap().get(0).unwrap().as_str(), Some("id"));
    }

    #[test]
    fn broken_programs_are_errors() {
        let error = |bytes: &[u8]| Pickle::read(bytes).unwrap_err().to_string();
        assert_eq!(error(b""), "the pickle ends within the opcode at byte 0");
        assert_eq!(error(b"\x80\x04."), "the pickle has protocol 4, expected 2");
        assert_eq!(error(b"\x80\x02."), "the pickle is damaged: an empty stack at byte 2");
        assert_eq!(error(b"\x80\x02(."), "the pickle is damaged: an empty stack at byte 3");
        assert_eq!(error(b"\x80\x02t."), "the pickle is damaged: a missing mark at byte 2");
        assert_eq!(error(b"\x80\x02h\x07."), "the pickle is damaged: a memo entry that was never stored at byte 2");
        assert_eq!(error(b"\x80\x02}N(Nu."), "the pickle is damaged: a key without a value at byte 6");
        assert_eq!(
            error(b"\x80\x02NNa."),
            "the pickle is damaged: elements for something that is not a list at byte 4"
        );
        assert_eq!(error(b"\x80\x02N)R."), "the pickle is damaged: a call of something that is not a name at byte 4");
        assert_eq!(error(b"\x80\x02i"), "the pickle has the opcode 0x69 at byte 2, which is not one that torch writes");
        assert_eq!(error(b"\x80\x02X\xff\xff\xff\xff"), "the pickle has more than 1048576 bytes in a string");
        assert_eq!(
            error(&[b"\x80\x02".as_slice(), &b"(".repeat(2000)].concat()),
            "the pickle has more than 1024 open containers"
        );
        assert_eq!(
            error(b"\x80\x02X\x01\x00\x00\x00\xff."),
            "the pickle is damaged: a string that is not UTF-8 at byte 2"
        );
        assert_eq!(
            error(&[b"\x80\x02Nq\x00".as_slice(), &b"h\x00".repeat(MAX_STACK)].concat()),
            "the pickle has more than 1048576 values on the stack"
        );
    }

    /// Memory is bounded by the input: every opcode makes at most one value, of a fixed size.
    #[test]
    fn values_are_small() {
        assert!(std::mem::size_of::<Node>() <= 32);
    }

    proptest! {
        #[test]
        fn random_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(pickle) = Pickle::read(&bytes) {
                prop_assert!(pickle.nodes.len() <= bytes.len());
            }
        }

        /// Random programs over the known opcodes reach deeper than random bytes.
        #[test]
        fn random_programs_are_read_or_refused(
            body in prop::collection::vec(prop::sample::select(b"(.}])tNqhaesubRQK\x85\x86\x87\x81\x8f\x00\x01\x02".to_vec()), 0..300)
        ) {
            let bytes = [b"\x80\x02cm\nn\n".as_slice(), &body].concat();
            if let Ok(pickle) = Pickle::read(&bytes) {
                let root = pickle.root();
                let _ = (root.get("a"), root.attribute("b"), root.as_name(), root.entries().count(), format!("{root:?}"));
                prop_assert!(pickle.nodes.len() <= bytes.len());
            }
        }

        #[test]
        fn truncations_are_errors(n in 0..SMALL.len()) {
            prop_assert!(Pickle::read(&SMALL[..n]).is_err());
        }

        #[test]
        fn bit_flips_are_read_or_refused(flips in prop::collection::vec((0..SMALL.len(), 0..8u32), 1..6)) {
            let mut bytes = SMALL.to_vec();
            for (at, bit) in flips {
                bytes[at] ^= 1 << bit;
            }
            if let Ok(pickle) = Pickle::read(&bytes) {
                prop_assert!(pickle.nodes.len() <= bytes.len());
            }
        }
    }
}
