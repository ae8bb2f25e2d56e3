//! One record of a segment, and the walk from record to record (FORMAT.md).

use std::{fs::File, io, os::unix::fs::FileExt};

use bytes::Bytes;
use memchr::memmem;
use tapio_proto::{Request, Signal};

/// Bytes before a record's body.
pub(super) const HEADER: usize = 32;
const MAGIC: [u8; 4] = *b"TpQ1";
/// How much is looked at in one go for the next record behind damage.
const LOOK: usize = 64 << 10;

/// Where a record begins. A segment is far smaller than 4 GiB (`SEGMENT_BYTES`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u32,
}

/// What is known of a record before its body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) signal: Signal,
    pub(super) items: u32,
    /// Milliseconds since 1970: when it was written.
    pub(super) written: u64,
    /// At the beginning of the body, a text of this length; only dead letters have one.
    pub(super) note: u16,
    /// Of the whole body, note included.
    pub(super) length: u32,
    crc: u32,
}

/// What is written: the request, and why it is a dead letter.
pub(super) struct Letter<'a> {
    pub(super) request: &'a Request,
    pub(super) note: &'a str,
}

/// What stands at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Record(u32, Header),
    /// From here to there nothing can be read.
    Damage(u64, u64),
    /// From here to there is what a write that did not end has left; nobody was told that it is safe.
    Torn(u64, u64),
}

/// Goes from record to record; reads headers only.
pub(super) struct Walk<'f> {
    file: &'f File,
    segment: u64,
    pub(super) at: u64,
    end: u64,
}

// === impl Header ===

impl Header {
    pub(super) fn new(letter: &Letter<'_>, written: u64) -> io::Result<Self> {
        let Letter { request, note } = letter;
        let too_large = || io::Error::other("the request is larger than a record's 4 GiB");
        let length = u32::try_from(note.len() + request.bytes.len()).map_err(|_| too_large())?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(note.as_bytes()), &request.bytes);
        Ok(Header {
            signal: request.signal,
            items: u32::try_from(request.items).unwrap_or(u32::MAX),
            written,
            note: u16::try_from(note.len()).map_err(|_| too_large())?,
            length,
            crc,
        })
    }

    pub(super) fn encode(&self, at: Position) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0..4].copy_from_slice(&MAGIC);
        out[4] = self.signal as u8;
        out[6..8].copy_from_slice(&self.note.to_le_bytes());
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        out[12..16].copy_from_slice(&self.items.to_le_bytes());
        out[16..24].copy_from_slice(&self.written.to_le_bytes());
        out[24..28].copy_from_slice(&self.crc.to_le_bytes());
        let own = header_crc(at, &out[..28]);
        out[28..].copy_from_slice(&own.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; HEADER], at: Position) -> Option<Self> {
        let (content, own) = bytes.split_at(28);
        let header = Header {
            signal: *Signal::ALL.get(usize::from(content[4]))?,
            note: u16::from_le_bytes(content[6..8].try_into().ok()?),
            length: u32::from_le_bytes(content[8..12].try_into().ok()?),
            items: u32::from_le_bytes(content[12..16].try_into().ok()?),
            written: u64::from_le_bytes(content[16..24].try_into().ok()?),
            crc: u32::from_le_bytes(content[24..28].try_into().ok()?),
        };
        let sound = content[..4] == MAGIC
            && own == header_crc(at, content).to_le_bytes()
            && u32::from(header.note) <= header.length;
        sound.then_some(header)
    }

    /// Header and body.
    pub(super) fn size(&self) -> u64 {
        HEADER as u64 + u64::from(self.length)
    }

    /// The note alone, unchecked.
    pub(super) fn note(&self, file: &File, offset: u32) -> io::Result<String> {
        let mut note = vec![0; usize::from(self.note)];
        file.read_exact_at(&mut note, u64::from(offset) + HEADER as u64)?;
        Ok(String::from_utf8_lossy(&note).into_owned())
    }

    /// Note and request; `None` when the body is not what was written.
    pub(super) fn read(&self, file: &File, offset: u32) -> io::Result<Option<(String, Request)>> {
        let mut body = vec![0; self.length as usize];
        file.read_exact_at(&mut body, u64::from(offset) + HEADER as u64)?;
        if crc32c::crc32c(&body) != self.crc {
            return Ok(None);
        }
        let mut body = Bytes::from(body);
        let note = body.split_to(usize::from(self.note));
        let note = String::from_utf8_lossy(&note).into_owned();
        let request = Request::new(self.signal, body, self.items as usize);
        Ok(Some((note, request)))
    }
}

/// The place goes into the sum: a copy of a record elsewhere, say in somebody's telemetry, is none.
fn header_crc(at: Position, content: &[u8]) -> u32 {
    let place = crc32c::crc32c(&at.segment.to_le_bytes());
    let place = crc32c::crc32c_append(place, &at.offset.to_le_bytes());
    crc32c::crc32c_append(place, content)
}

// === impl Walk ===

impl<'f> Walk<'f> {
    pub(super) fn new(file: &'f File, segment: u64, at: u64, end: u64) -> Self {
        Walk { file, segment, at, end }
    }

    /// The next thing; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        let from = self.at;
        if from >= self.end {
            return Ok(None);
        }
        if let Some((offset, header)) = self.header(from)? {
            if from + header.size() <= self.end {
                self.at = from + header.size();
                return Ok(Some(Found::Record(offset, header)));
            }
            // The header is what was written, so the body was cut off.
            self.at = self.end;
            return Ok(Some(Found::Torn(from, self.end)));
        }
        let behind = self.search(from + 1)?;
        self.at = behind.unwrap_or(self.end);
        // A header that was not written whole, or space that a file was given and never filled.
        let cut = behind.is_none() && self.end - from < HEADER as u64;
        let torn = cut || self.blank(from, self.at)?;
        Ok(Some(if torn { Found::Torn(from, self.at) } else { Found::Damage(from, self.at) }))
    }

    fn header(&self, at: u64) -> io::Result<Option<(u32, Header)>> {
        let Ok(offset) = u32::try_from(at) else { return Ok(None) };
        if self.end - at < HEADER as u64 {
            return Ok(None);
        }
        let mut bytes = [0; HEADER];
        self.file.read_exact_at(&mut bytes, at)?;
        let at = Position { segment: self.segment, offset };
        Ok(Header::decode(&bytes, at).map(|header| (offset, header)))
    }

    /// The first place from here on where a record begins.
    fn search(&self, mut from: u64) -> io::Result<Option<u64>> {
        let mut chunk = vec![0; LOOK];
        while from + HEADER as u64 <= self.end {
            let length = (self.end - from).min(LOOK as u64) as usize;
            self.file.read_exact_at(&mut chunk[..length], from)?;
            for hit in memmem::find_iter(&chunk[..length], &MAGIC) {
                let at = from + hit as u64;
                if self.header(at)?.is_some() {
                    return Ok(Some(at));
                }
            }
            // A magic number may lie across the border of two chunks.
            from += (length - (MAGIC.len() - 1)) as u64;
        }
        Ok(None)
    }

    fn blank(&self, mut from: u64, end: u64) -> io::Result<bool> {
        let mut chunk = vec![0; LOOK];
        while from < end {
            let length = (end - from).min(LOOK as u64) as usize;
            self.file.read_exact_at(&mut chunk[..length], from)?;
            if chunk[..length].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            from += length as u64;
        }
        Ok(true)
    }
}
