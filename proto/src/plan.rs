//! The changes to a request, gathered in one walk and carried out in one copy.

use std::ops::Range;

use bytes::Bytes;

use crate::wire::{Field, WireError, put_len_field, put_varint, varint_len};

/// The changes to a request in the order of their positions.
pub(crate) struct Plan<'b, 'e> {
    bytes: &'b [u8],
    edits: Vec<Edit<'e>>,
    /// How much longer the request gets by them.
    grown: isize,
    /// What [`What::Replace`] writes.
    new: Vec<u8>,
}

/// A change at a position of the request.
struct Edit<'e> {
    at: usize,
    what: What<'e>,
}

enum What<'e> {
    /// Another length instead of the one that takes `old` bytes here.
    Length { old: usize, new: usize },
    /// These bytes before what is here.
    Insert(&'e [u8]),
    /// A field 1 with these bytes before what is here.
    InsertField(&'e [u8]),
    /// Bytes of [`Plan::new`] instead of the next `old` ones.
    Replace { old: usize, new: Range<usize> },
}

/// A message whose inside is being planned.
pub(crate) struct Open {
    slot: usize,
    before: isize,
    len: usize,
    old: usize,
}

impl<'b, 'e> Plan<'b, 'e> {
    /// Nothing to change yet.
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Plan { bytes, edits: Vec::new(), grown: 0, new: Vec::new() }
    }

    /// Plans `extra` at the end of the message in `field`.
    #[inline]
    pub(crate) fn append(&mut self, field: &Field<'_>, extra: &'e [u8]) {
        if extra.is_empty() {
            return;
        }
        let message = self.open(field);
        self.edits.push(Edit { at: field.end, what: What::Insert(extra) });
        self.grown += extra.len() as isize;
        self.close(message);
    }

    /// Plans a field 1 with `body` at `at`; none for an empty one.
    pub(crate) fn insert_field(&mut self, at: usize, body: &'e [u8]) {
        if !body.is_empty() {
            self.edits.push(Edit { at, what: What::InsertField(body) });
            self.grown += (1 + varint_len(body.len() as u64) + body.len()) as isize;
        }
    }

    /// Plans what `write` appends instead of the bytes of `range`; it may look at the request's bytes.
    pub(crate) fn replace(&mut self, range: Range<usize>, write: impl FnOnce(&mut Vec<u8>, &[u8])) {
        let start = self.new.len();
        write(&mut self.new, self.bytes);
        let new = start..self.new.len();
        if range.is_empty() && new.is_empty() {
            return;
        }
        self.grown += new.len() as isize - range.len() as isize;
        self.edits.push(Edit { at: range.start, what: What::Replace { old: range.len(), new } });
    }

    /// Plans what `inner` plans inside the message in `field`, and before that its new length.
    pub(crate) fn message(
        &mut self,
        field: &Field<'_>,
        inner: impl FnOnce(&mut Self) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        let message = self.open(field);
        inner(self)?;
        self.close(message);
        Ok(())
    }

    /// What is planned until [`Plan::close`] lies inside the message in `field`.
    #[inline]
    pub(crate) fn open(&mut self, field: &Field<'_>) -> Open {
        let at = self.length_at(field);
        let open = Open {
            slot: self.edits.len(),
            before: self.grown,
            len: field.end - field.body,
            old: field.body - at,
        };
        self.edits.push(Edit { at, what: What::Length { old: open.old, new: 0 } });
        open
    }

    /// Ends what [`Plan::open`] began: the message gets its new length if anything changes in it.
    #[inline]
    pub(crate) fn close(&mut self, open: Open) {
        let Open { slot, before, len, old } = open;
        if self.edits.len() == slot + 1 {
            self.edits.truncate(slot);
            return;
        }
        let new = len.saturating_add_signed(self.grown - before);
        self.grown += varint_len(new as u64) as isize - old as isize;
        self.edits[slot].what = What::Length { old, new };
    }

    /// Where the length of a message stands: behind the tag, which a sender may have written longer
    /// than need be.
    #[inline]
    fn length_at(&self, field: &Field<'_>) -> usize {
        let tag = self.bytes[field.start..field.body].iter().position(|byte| *byte < 0x80);
        field.start + tag.map_or(0, |last| last + 1)
    }

    /// Copies the request with the changes; `whole` itself where there are none.
    pub(crate) fn carry_out(self, whole: &Bytes) -> Bytes {
        if self.edits.is_empty() {
            return whole.clone();
        }
        let mut out = Vec::with_capacity(self.bytes.len().saturating_add_signed(self.grown));
        let mut from = 0;
        for edit in self.edits {
            out.extend_from_slice(&self.bytes[from..edit.at]);
            from = edit.at;
            match edit.what {
                What::Length { old, new } => {
                    put_varint(&mut out, new as u64);
                    from += old;
                }
                What::Insert(extra) => out.extend_from_slice(extra),
                What::InsertField(extra) => put_len_field(&mut out, 1, extra),
                What::Replace { old, new } => {
                    out.extend_from_slice(&self.new[new]);
                    from += old;
                }
            }
        }
        out.extend_from_slice(&self.bytes[from..]);
        out.into()
    }
}
