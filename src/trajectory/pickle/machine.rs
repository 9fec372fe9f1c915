//! The stack machine that reads a pickle's opcodes.

use std::collections::BTreeMap;

use super::error::PickleError;
use super::node::{Global, Id, Node, Object};

/// What a hostile pickle may not exceed. A real `optimizer.pt` of 10,000 parameters has about 300,000 values.
pub(in crate::trajectory) const MAX_BYTES: usize = 32 << 20;
const MAX_VALUES: usize = 2 << 20;
const MAX_DEPTH: usize = 1 << 10;
pub(super) const MAX_STACK: usize = 1 << 20;
const MAX_TEXT: usize = 1 << 20;

/// Runs a pickle's program up to its `STOP`: all values that it made, and the one that the pickle stands for.
pub(super) fn run(bytes: &[u8]) -> Result<(Vec<Node>, Id), PickleError> {
    if bytes.len() > MAX_BYTES {
        return Err(PickleError::TooLarge { what: "bytes", limit: MAX_BYTES });
    }
    let (nodes, stack, marks, memo) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
    Machine { bytes, at: 0, opcode_at: 0, nodes, stack, marks, memo }.run()
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
    fn run(mut self) -> Result<(Vec<Node>, Id), PickleError> {
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
                    return Ok((self.nodes, root));
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
pub(super) fn long(bytes: &[u8]) -> Option<i64> {
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
