//! Cutting a request into pieces without decoding it.
//!
//! Each piece repeats what stands around its items: the resource, the scope, the name and kind of a metric,
//! schema URLs, fields that nobody knows. That comes first in its message, then the items in their order;
//! every byte of both is copied as it came, and only the lengths of the messages around are new.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    signal::Signal,
    wire::{Field, Fields, Value, WireError, put_tag, put_varint, varint_len},
};

/// The most that a piece may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Most {
    /// Spans, data points, log records.
    Items(usize),
    /// Bytes of the serialized request.
    Bytes(usize),
}

impl Most {
    pub(crate) fn allows(self, items: usize, bytes: usize) -> bool {
        match self {
            Most::Items(most) => items <= most,
            Most::Bytes(most) => bytes <= most,
        }
    }
}

/// A request that is a part of another.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The serialized message.
    pub bytes: Bytes,
    /// Spans, data points or log records in it.
    pub items: usize,
}

/// Cuts a request into pieces, one at a time. A clone of it goes on from the same place.
#[derive(Clone, Debug, Default)]
pub struct Splitter {
    bytes: Bytes,
    /// How many messages are around an item, the request included.
    depth: usize,
    /// The messages around the next item, from the request inwards; none when nothing is left.
    open: Vec<Level>,
    items: usize,
    /// What the pieces may still take together.
    allowance: usize,
}

/// A message of which a part is left.
#[derive(Clone, Debug)]
struct Level {
    /// Its field in the message around it; 0 of the request, which has no tag and no length.
    number: u32,
    /// Where its next field begins.
    at: usize,
    end: usize,
    /// The fields that are repeated in each piece.
    around: Bytes,
}

/// A field in which there may be items.
struct Child {
    number: u32,
    whole: Range<usize>,
    body: usize,
}

/// What stands around the items is repeated in each piece: pieces with few items below a large resource
/// may be any number of times the request. From here on the rest of it is one piece, too large or not.
const ALLOWED: (usize, usize) = (64, 64 << 20);

impl Splitter {
    /// Errors where the bytes are not well-formed; bytes that passed [`check`](crate::check()) are. There
    /// are no pieces of profiles, which share a dictionary.
    pub fn new(signal: Signal, bytes: &Bytes) -> Result<Self, WireError> {
        let depth = match signal {
            Signal::Traces | Signal::Logs => 3,
            Signal::Metrics => 5,
            Signal::Profiles => return Ok(Splitter::default()),
        };
        let items = count(Fields::new(bytes), 0, depth)?;
        let open = vec![Level::new(bytes, 0, 0, 0..bytes.len())];
        let allowance = bytes.len().saturating_mul(ALLOWED.0).saturating_add(ALLOWED.1);
        Ok(Splitter { bytes: bytes.clone(), depth, open, items, allowance })
    }

    /// Items that are left.
    pub fn items(&self) -> usize {
        self.items
    }

    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// The next piece, as large as it may be; larger only when it is a single item, or something without
    /// items that cannot be cut. `None` when nothing is left.
    pub fn next(&mut self, most: Most) -> Option<Piece> {
        let most = if self.allowance == 0 { Most::Items(usize::MAX) } else { most };
        let mut draft = Draft::default();
        while let Some(depth) = self.open.len().checked_sub(1) {
            let Some(child) = self.child(depth) else {
                draft.close(depth);
                self.open.pop();
                continue;
            };
            let inner = Fields::within(&self.bytes, child.body, child.whole.end);
            let items = count(inner, depth + 1, self.depth).unwrap_or(0);
            let fits = most.allows(
                draft.items.saturating_add(items),
                draft.len_with(&self.open, child.whole.len()),
            );
            let divisible = items > 0 && depth + 1 < self.depth;
            if fits || (!divisible && draft.levels.is_empty()) {
                self.pass(depth, child.whole.end);
                draft.take(&self.open, child.whole, items);
            } else if divisible {
                self.pass(depth, child.whole.end);
                let level =
                    Level::new(&self.bytes, child.number, depth + 1, child.body..child.whole.end);
                self.open.push(level);
            } else {
                break;
            }
        }
        let piece = draft.write(&self.bytes)?;
        self.items = self.items.saturating_sub(piece.items);
        self.allowance = self.allowance.saturating_sub(piece.bytes.len());
        Some(piece)
    }

    /// The next field of the innermost message that may hold items.
    fn child(&self, depth: usize) -> Option<Child> {
        let level = self.open.last()?;
        let mut fields = Fields::within(&self.bytes, level.at, level.end);
        loop {
            // Well-formed: it was counted.
            let field = fields.next_field().ok()??;
            if is_child(&field, depth) {
                let Field { number, start, body, end, .. } = field;
                return Some(Child { number, whole: start..end, body });
            }
        }
    }

    fn pass(&mut self, depth: usize, to: usize) {
        if let Some(level) = self.open.get_mut(depth) {
            level.at = to;
        }
    }
}

impl Level {
    fn new(bytes: &[u8], number: u32, depth: usize, body: Range<usize>) -> Self {
        let mut around = Vec::new();
        for field in Fields::within(bytes, body.start, body.end).flatten() {
            if !is_child(&field, depth) {
                around.extend_from_slice(&bytes[field.start..field.end]);
            }
        }
        Level { number, at: body.start, end: body.end, around: around.into() }
    }
}

/// Does this field of a message with so many others around it hold items, or is it one?
fn is_child(field: &Field<'_>, depth: usize) -> bool {
    let here = match depth {
        // Request to group, data to data point.
        0 | 4 => field.number == 1,
        // Group to scope to span, log record or metric.
        1 | 2 => field.number == 2,
        // Gauge, sum, histogram, exponential histogram, summary.
        _ => matches!(field.number, 5 | 7 | 9 | 10 | 11),
    };
    here && matches!(field.value, Value::Len(_))
}

/// The items in a message with so many others around it.
fn count(fields: Fields<'_>, depth: usize, item: usize) -> Result<usize, WireError> {
    if depth == item {
        return Ok(1);
    }
    let (mut items, mut rest) = (0, fields);
    while let Some(field) = rest.next_field()? {
        if is_child(&field, depth) {
            items += count(rest.nested(&field), depth + 1, item)?;
        }
    }
    Ok(items)
}

/// A piece that is put together: what to write, in its order.
#[derive(Default)]
struct Draft {
    steps: Vec<Step>,
    /// The messages that are begun and not ended, from the request inwards.
    levels: Vec<Begun>,
    items: usize,
    /// The length of the whole, once the request is ended.
    len: usize,
}

struct Begun {
    /// Its step.
    step: usize,
    /// How long it is so far.
    len: usize,
}

enum Step {
    /// The tag and the length of a message, and the fields around its items.
    Message { number: u32, len: usize, around: Bytes },
    /// Bytes of the request.
    Copy(Range<usize>),
}

impl Draft {
    /// Puts in a field of the innermost of the open messages.
    fn take(&mut self, open: &[Level], field: Range<usize>, items: usize) {
        for level in &open[self.levels.len()..] {
            self.levels.push(Begun { step: self.steps.len(), len: level.around.len() });
            let around = level.around.clone();
            self.steps.push(Step::Message { number: level.number, len: 0, around });
        }
        if let Some(innermost) = self.levels.last_mut() {
            innermost.len += field.len();
        }
        self.items += items;
        match self.steps.last_mut() {
            Some(Step::Copy(last)) if last.end == field.start => last.end = field.end,
            _ => self.steps.push(Step::Copy(field)),
        }
    }

    /// Ends the message with so many others around it, if it was begun.
    fn close(&mut self, depth: usize) {
        if self.levels.len() != depth + 1 {
            return;
        }
        let Some(Begun { step, len: length }) = self.levels.pop() else { return };
        if let Some(Step::Message { len, .. }) = self.steps.get_mut(step) {
            *len = length;
        }
        match self.levels.last_mut() {
            Some(around) => around.len += nested_len(length),
            None => self.len = length,
        }
    }

    /// How long the whole would be with so many bytes more in the innermost of the open messages.
    fn len_with(&self, open: &[Level], more: usize) -> usize {
        let mut len = more;
        for (depth, level) in open.iter().enumerate().rev() {
            len += self.levels.get(depth).map_or(level.around.len(), |begun| begun.len);
            if depth > 0 {
                len = nested_len(len);
            }
        }
        len
    }

    fn write(mut self, bytes: &[u8]) -> Option<Piece> {
        (0..self.levels.len()).rev().for_each(|depth| self.close(depth));
        let mut out = Vec::with_capacity(self.len);
        for step in &self.steps {
            match step {
                Step::Message { number, len, around } => {
                    if *number > 0 {
                        put_tag(&mut out, *number, 2);
                        put_varint(&mut out, *len as u64);
                    }
                    out.extend_from_slice(around);
                }
                Step::Copy(range) => out.extend_from_slice(&bytes[range.clone()]),
            }
        }
        (!self.steps.is_empty()).then(|| Piece { bytes: out.into(), items: self.items })
    }
}

/// A message of this length with its length and its tag, which takes one byte.
fn nested_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}
