//! Compression of request bodies. Decompression takes a cap, always: this is the one place where
//! bytes from outside grow, so a decompressor is never used without it.

use std::io::{self, Read, Write};

use bytes::Bytes;
use serde::Deserialize;

/// A body encoding that OTLP or the Collector knows and Tapio speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As is.
    #[default]
    #[serde(alias = "")]
    None,
    /// RFC 1952; the Collector's default on the way out.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// RFC 1950; also what HTTP calls `deflate`.
    #[serde(alias = "deflate")]
    Zlib,
    /// A single block; what HTTP calls `snappy`.
    Snappy,
    /// Snappy's framing format; what gRPC calls `snappy`.
    #[serde(rename = "x-snappy-framed")]
    SnappyFramed,
    /// LZ4's frame format.
    Lz4,
}

/// Why a body could not be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// The content is larger than the cap; reading stopped there.
    #[error("request body too large: more than {limit} bytes after decompression")]
    TooLarge {
        /// The cap, in bytes.
        limit: usize,
    },
    /// The bytes are not what the header says.
    #[error("{name}: {source}")]
    Corrupt {
        /// Name of the encoding.
        name: &'static str,
        /// The decompressor's own words.
        source: io::Error,
    },
}

// Memory that a zstd frame may ask for as its window: 2^25 = 32 MiB, the largest that the
// encoders of the Collector's exporters use; zstd's own default would grant 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;
/// How a gzip member begins: its magic number and the only method there is.
const GZIP_BEGINS: [u8; 3] = [0x1f, 0x8b, 0x08];
/// How many times its size deflate can make a body, at most.
const DEFLATE_MOST: usize = 1032;

// Telemetry repeats itself; level 3 keeps most of the ratio at about half of level 6's time.
const GZIP_LEVEL: u32 = 3;

impl Compression {
    /// From `content-encoding` or `grpc-encoding`; `None` if it is not one that Tapio speaks.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" | "none" => Some(Compression::None),
            "gzip" => Some(Compression::Gzip),
            "zstd" => Some(Compression::Zstd),
            "zlib" | "deflate" => Some(Compression::Zlib),
            "snappy" => Some(Compression::Snappy),
            "x-snappy-framed" => Some(Compression::SnappyFramed),
            "lz4" => Some(Compression::Lz4),
            _ => None,
        }
    }

    /// From `grpc-encoding`, of which the Collector knows fewer; its `snappy` is the framed one.
    pub fn from_grpc_name(name: &str) -> Option<Self> {
        match Self::from_name(name)? {
            Compression::Snappy => Some(Compression::SnappyFramed),
            Compression::Zlib | Compression::SnappyFramed | Compression::Lz4 => None,
            other => Some(other),
        }
    }

    /// The name in `grpc-encoding`.
    pub fn grpc_name(self) -> &'static str {
        match self {
            Compression::SnappyFramed => "snappy",
            other => other.name(),
        }
    }

    /// The name in `content-encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "identity",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Zlib => "deflate",
            Compression::Snappy => "snappy",
            Compression::SnappyFramed => "x-snappy-framed",
            Compression::Lz4 => "lz4",
        }
    }

    /// Decompresses at most `limit` bytes; more is an error, and is not read.
    pub fn decompress(self, body: Bytes, limit: usize) -> Result<Bytes, DecompressError> {
        let corrupt = |source| DecompressError::Corrupt { name: self.name(), source };
        match self {
            Compression::None if body.len() > limit => Err(DecompressError::TooLarge { limit }),
            Compression::None => Ok(body),
            Compression::Gzip => match single_gzip(&body, limit) {
                Some(whole) => Ok(whole),
                None => {
                    self.read(flate2::bufread::MultiGzDecoder::new(&body[..]), body.len(), limit)
                }
            },
            Compression::Zlib => {
                self.read(flate2::bufread::ZlibDecoder::new(&body[..]), body.len(), limit)
            }
            Compression::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(&body[..]).map_err(corrupt)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(corrupt)?;
                self.read(decoder, body.len(), limit)
            }
            Compression::Snappy => {
                // A block says its length at the front: it is looked at before it is believed.
                let snappy = |error: snap::Error| corrupt(io::Error::from(error));
                if snap::raw::decompress_len(&body).map_err(snappy)? > limit {
                    return Err(DecompressError::TooLarge { limit });
                }
                Ok(snap::raw::Decoder::new().decompress_vec(&body).map_err(snappy)?.into())
            }
            Compression::SnappyFramed => {
                // To this reader nothing at all is a good stream.
                if body.is_empty() {
                    return Err(corrupt(io::ErrorKind::UnexpectedEof.into()));
                }
                self.read(snap::read::FrameDecoder::new(&body[..]), body.len(), limit)
            }
            Compression::Lz4 => {
                // The decoder takes the end of the body for the end of the frame.
                if !ends_lz4_frame(&body) {
                    return Err(corrupt(io::ErrorKind::UnexpectedEof.into()));
                }
                self.read(lz4_flex::frame::FrameDecoder::new(&body[..]), body.len(), limit)
            }
        }
    }

    /// Compresses a body. `level` is the encoding's own scale; without it a fast one is taken.
    pub fn compress(self, body: &Bytes, level: Option<i32>) -> io::Result<Bytes> {
        let gzip = || {
            flate2::Compression::new(
                level.and_then(|l| u32::try_from(l).ok()).map_or(GZIP_LEVEL, |l| l.min(9)),
            )
        };
        let room = || Vec::with_capacity(body.len() / 4 + 64);
        Ok(match self {
            Compression::None => body.clone(),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(room(), gzip());
                encoder.write_all(body)?;
                encoder.finish()?.into()
            }
            Compression::Zlib => {
                let mut encoder = flate2::write::ZlibEncoder::new(room(), gzip());
                encoder.write_all(body)?;
                encoder.finish()?.into()
            }
            Compression::Zstd => zstd::bulk::compress(body, level.unwrap_or(1))?.into(),
            Compression::Snappy => snap::raw::Encoder::new().compress_vec(body)?.into(),
            Compression::SnappyFramed => {
                let mut encoder = snap::write::FrameEncoder::new(room());
                encoder.write_all(body)?;
                encoder.into_inner().map_err(|error| error.into_error())?.into()
            }
            Compression::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(room());
                encoder.write_all(body)?;
                encoder.finish()?.into()
            }
        })
    }

    fn read(
        self,
        mut reader: impl Read,
        compressed: usize,
        limit: usize,
    ) -> Result<Bytes, DecompressError> {
        // Grown here and not by `read_to_end`, which would double it past the cap.
        let most = limit.saturating_add(1);
        let mut out = Vec::with_capacity(compressed.saturating_mul(4).clamp(64, most.max(64)));
        loop {
            let room = out.capacity() - out.len();
            let read = reader
                .by_ref()
                .take(room as u64)
                .read_to_end(&mut out)
                .map_err(|source| DecompressError::Corrupt { name: self.name(), source })?;
            if out.len() > limit {
                return Err(DecompressError::TooLarge { limit });
            }
            if read < room {
                return Ok(out.into());
            }
            out.reserve_exact(out.len().min(most - out.len()));
        }
    }
}

/// A gzip body of one member, decompressed at once: three times as fast as in steps. `None` where it is no such
/// body, or does not say its size truly, or has more than `limit` bytes: steps find out what is wrong with it.
fn single_gzip(body: &[u8], limit: usize) -> Option<Bytes> {
    // The size stands at the end (RFC 1952); nothing is larger than deflate can make it.
    let size = u32::from_le_bytes(*body.last_chunk::<4>()?) as usize;
    let possible = size > 0 && size <= limit && size <= body.len().saturating_mul(DEFLATE_MOST);
    // Another member would begin like this; if it is chance, nothing is lost but time.
    if !possible || memchr::memmem::find(body.get(1..)?, &GZIP_BEGINS).is_some() {
        return None;
    }
    let mut out = vec![0; size];
    let written = libdeflater::Decompressor::new().gzip_decompress(body, &mut out).ok()?;
    (written == size).then(|| out.into())
}

/// Does an LZ4 frame end with its mark of four zeros, behind which a checksum may stand if the frame's
/// flags say so?
fn ends_lz4_frame(body: &[u8]) -> bool {
    let checksum = body.get(4).is_some_and(|flags| flags & 0x04 != 0);
    let end = if checksum { body.len().saturating_sub(4) } else { body.len() };
    body[..end].ends_with(&[0; 4])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ALL: [Compression; 7] = [
        Compression::None,
        Compression::Gzip,
        Compression::Zstd,
        Compression::Zlib,
        Compression::Snappy,
        Compression::SnappyFramed,
        Compression::Lz4,
    ];

    #[test]
    fn what_goes_in_comes_out() {
        let body = Bytes::from("telemetry repeats itself ".repeat(1000));
        for compression in ALL {
            let packed = compression.compress(&body, None).unwrap();
            assert_eq!(
                compression.decompress(packed, body.len()).unwrap(),
                body,
                "{compression:?}"
            );
            assert_eq!(Compression::from_name(compression.name()), Some(compression));
        }
        assert_eq!(Compression::from_name("brotli"), None);
        assert_eq!(Compression::from_grpc_name("snappy"), Some(Compression::SnappyFramed));
        assert_eq!(Compression::from_grpc_name("lz4"), None);
    }

    #[test]
    fn gzip_of_one_member_or_of_several_is_read_whole() {
        let text = Bytes::from("telemetry repeats itself ".repeat(1000));
        let one = Compression::Gzip.compress(&text, None).unwrap();
        assert_eq!(single_gzip(&one, text.len()).unwrap(), text);
        assert_eq!(single_gzip(&one, text.len() - 1), None, "steps say that it is too large");
        let two = Bytes::from([&one[..], &one[..]].concat());
        assert_eq!(single_gzip(&two, 1 << 20), None);
        let both = Compression::Gzip.decompress(two, 1 << 20).unwrap();
        assert_eq!(both, [&text[..], &text[..]].concat());
        let mut lies = one.to_vec();
        let end = lies.len();
        for size in [0, 1, u32::MAX] {
            lies[end - 4..].copy_from_slice(&size.to_le_bytes());
            assert!(Compression::Gzip.decompress(lies.clone().into(), 1 << 20).is_err(), "{size}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_cap() {
        let bomb = Bytes::from(vec![0u8; 8 << 20]);
        for compression in ALL {
            let packed = compression.compress(&bomb, None).unwrap();
            let error = compression.decompress(packed, 1000).unwrap_err();
            assert!(
                matches!(error, DecompressError::TooLarge { limit: 1000 }),
                "{compression:?}: {error}"
            );
        }
    }

    #[test]
    fn garbage_and_truncation_are_errors() {
        let body = Bytes::from("telemetry repeats itself ".repeat(1000));
        for compression in &ALL[1..] {
            let packed = compression.compress(&body, None).unwrap();
            for cut in [1, packed.len() / 2, packed.len() - 1] {
                assert!(
                    compression.decompress(packed.slice(..cut), 1 << 20).is_err(),
                    "{compression:?} cut at {cut}"
                );
            }
            let error = compression
                .decompress(Bytes::from_static(b"hello, this is text"), 1 << 20)
                .unwrap_err();
            assert!(error.to_string().starts_with(compression.name()), "{error}");
        }
    }
}
