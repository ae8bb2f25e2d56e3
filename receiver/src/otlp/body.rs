//! Reading a body whole, within a size, a time and the room there is, with no copy when it comes in
//! one piece.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tapio_proto::{
    Compressed,
    transport::{Compression, DecompressError},
};
use tokio::time::timeout;

use super::intake::{Intake, NoRoom, Room};
use crate::timers::Timer;

/// Of a body that is too large, so much is still taken, and for so long.
const SWALLOWED: usize = 32 << 20;
const SWALLOWING: Duration = Duration::from_secs(1);

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("request body too large: more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("unexpected EOF: the request broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the request body took longer than {0:?} to arrive")]
    Slow(Duration),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

/// A message that has been read.
pub(super) struct Message {
    pub(super) bytes: Bytes,
    /// As it came, if it came compressed.
    pub(super) came: Option<Arc<Compressed>>,
    /// What both take, until the request is answered.
    pub(super) room: Room,
}

/// Why a message could not be decompressed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unpacking {
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    Decompress(#[from] DecompressError),
}

impl Message {
    /// Decompresses it within `limit` bytes. What it grows to is only known afterwards: the most that it may
    /// be is held meanwhile, which is no longer than the decompression runs.
    pub(super) async fn decompressed(
        self,
        compression: Compression,
        limit: usize,
    ) -> Result<Self, Unpacking> {
        let Message { bytes: body, mut room, .. } = self;
        if compression == Compression::None {
            return Ok(Message { bytes: body, came: None, room });
        }
        room.grow(limit).await?;
        let bytes = compression.decompress(body.clone(), limit)?;
        room.shrink(body.len() + bytes.len());
        let came = Compressed { compression, body, message: bytes.clone() };
        // Nothing is nothing, however it came.
        let came = (!bytes.is_empty()).then(|| Arc::new(came));
        Ok(Message { bytes, came, room })
    }

    /// Leaves it as it came.
    pub(super) fn closed(self, compression: Compression) -> Self {
        let came = Compressed { compression, body: self.bytes, message: Bytes::new() };
        Message { bytes: Bytes::new(), came: Some(Arc::new(came)), room: self.room }
    }
}

/// A body that is being read.
pub(super) struct Reader<'a> {
    body: Incoming,
    limit: usize,
    time: Option<(Duration, Timer)>,
    room: Room,
    read: Option<&'a AtomicUsize>,
}

impl<'a> Reader<'a> {
    /// Will read at most `limit` bytes, account them in `intake` as they come, and wait at most
    /// `time` for all of them. `read` counts them for who wants to know.
    pub(super) fn new(
        body: Incoming,
        limit: usize,
        time: Option<Duration>,
        intake: &Intake,
        read: Option<&'a AtomicUsize>,
    ) -> Self {
        let time = time.map(|time| (time, intake.timer(time)));
        Reader { body, limit, time, room: intake.room(), read }
    }

    /// The next piece of data; `None` at the end. Trailers of requests mean nothing to OTLP.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let frame = match &mut self.time {
                None => self.body.frame().await,
                Some((time, timer)) => {
                    timer.limit(self.body.frame()).await.ok_or(BodyError::Slow(*time))?
                }
            };
            match frame {
                None => return Ok(None),
                Some(frame) => match frame?.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        if let Some(read) = self.read {
                            read.fetch_add(data.len(), Ordering::Relaxed);
                        }
                        self.room.grow(data.len()).await?;
                        return Ok(Some(data));
                    }
                    Err(_) => return Ok(None),
                },
            }
        }
    }

    /// Everything that follows `first`, which was read before; `capacity` is the length that the
    /// sender announced, if it did.
    pub(super) async fn rest(
        mut self,
        first: Bytes,
        capacity: usize,
    ) -> Result<Message, BodyError> {
        if first.len() > self.limit {
            swallow(self.body).await;
            return Err(BodyError::TooLarge { limit: self.limit });
        }
        let Some(second) = self.next().await? else {
            return Ok(Message { bytes: first, came: None, room: self.room });
        };
        let mut whole =
            BytesMut::with_capacity(capacity.min(self.limit).max(first.len() + second.len()));
        whole.extend_from_slice(&first);
        let mut piece = Some(second);
        while let Some(data) = piece {
            if whole.len() + data.len() > self.limit {
                drop((whole, self.room));
                swallow(self.body).await;
                return Err(BodyError::TooLarge { limit: self.limit });
            }
            whole.extend_from_slice(&data);
            piece = self.next().await?;
        }
        Ok(Message { bytes: whole.freeze(), came: None, room: self.room })
    }
}

/// Lets a sender finish, within bounds. Most senders write all of a request before they read the
/// answer, and lose it when the connection is closed upon them.
pub(super) async fn swallow(mut body: Incoming) {
    let all = async {
        let mut left = SWALLOWED;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(less) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else {
                return;
            };
            left = less;
        }
    };
    // Whoever is still at it then has to do without the answer.
    let _ = timeout(SWALLOWING, all).await;
}
