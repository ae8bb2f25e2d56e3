//! What a connection writes in one turn leaves in one piece.
//!
//! HTTP/2 hands each frame to the socket by itself and flushes after each, and peers take no frame above
//! 16 KiB unless they say so: a request of 150 KiB is ten calls into the kernel. Here writes only gather;
//! whoever drives the connection writes them after its turn, in one call and, of messages that were told
//! before, without a copy.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Io;

/// Bytes that are kept of what came first.
pub(crate) const FIRST: usize = 5;
/// Bytes that wait at most.
const MOST: usize = 256 << 10;
/// Pieces in one call.
const PIECES: usize = 64;
/// Pieces that are smaller are copied: that is cheaper than to hold them.
const SMALL: usize = 1 << 10;
/// What is copied comes to lie in blocks of this many bytes.
const BLOCK: usize = 16 << 10;

/// A stream whose writes leave after the turn in which they were made, see [`Gathered::drive`].
pub(crate) struct Gathered<S> {
    state: Arc<Mutex<State<S>>>,
    messages: Messages,
}

struct State<S> {
    stream: S,
    /// In the order in which it leaves; behind it comes what was `copied` last.
    waiting: VecDeque<Bytes>,
    copied: BytesMut,
    /// Of both.
    bytes: usize,
    /// Why a write failed after a turn; told at the next one.
    failed: Option<io::ErrorKind>,
    /// Bytes that were read.
    heard: u64,
    /// The first of them: who speaks something else betrays itself by them.
    first: [u8; FIRST],
}

/// Messages that are being sent, with how often each, by where they begin in memory.
#[derive(Clone, Default)]
pub(crate) struct Messages(Arc<Mutex<BTreeMap<usize, (Bytes, usize)>>>);

/// A message that is written without being copied as long as this lives.
pub(crate) struct Held {
    messages: Messages,
    start: usize,
}

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Gathered { state: Arc::clone(&self.state), messages: self.messages.clone() }
    }
}

impl<S: Io> Gathered<S> {
    pub(crate) fn new(stream: S) -> Self {
        let state = State {
            stream,
            waiting: VecDeque::new(),
            copied: BytesMut::with_capacity(BLOCK),
            bytes: 0,
            failed: None,
            heard: 0,
            first: [0; FIRST],
        };
        Gathered { state: Arc::new(Mutex::new(state)), messages: Messages::default() }
    }

    /// Runs what reads and writes a clone of this, and writes after each of its turns what gathered in it.
    pub(crate) async fn drive<F: Future>(self, connection: F) -> F::Output {
        let mut connection = pin!(connection);
        let mut acknowledged = 0;
        poll_fn(|cx| {
            let turn = connection.as_mut().poll(cx);
            let mut state = self.lock();
            if turn.is_ready() {
                return turn;
            }
            let heard = std::mem::replace(&mut acknowledged, state.heard) != state.heard;
            if heard && state.bytes == 0 {
                // Nothing leaves that would carry the acknowledgement; a peer that waits for it before it
                // sends its next answer (Nagle) would wait for up to 40 ms.
                state.stream.acknowledge();
            }
            if let Poll::Ready(Err(error)) = state.write_out(cx) {
                state.failed = Some(error.kind());
                cx.waker().wake_by_ref();
            }
            turn
        })
        .await
    }

    /// Where it is told what will be written. Who has this keeps no connection open.
    pub(crate) fn messages(&self) -> Messages {
        self.messages.clone()
    }

    /// How many bytes have come so far.
    pub(crate) fn heard(&self) -> u64 {
        self.lock().heard
    }

    /// What came first, zeros where nothing has come yet.
    pub(crate) fn first(&self) -> [u8; FIRST] {
        self.lock().first
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Messages {
    /// Tells that this message, or parts of it, will be written.
    pub(crate) fn hold(&self, message: &Bytes) -> Held {
        let start = message.as_ptr() as usize;
        self.lock().entry(start).or_insert_with(|| (message.clone(), 0)).1 += 1;
        Held { messages: self.clone(), start }
    }

    /// The same bytes as a part of the message in which they lie.
    fn part(&self, piece: &[u8]) -> Option<Bytes> {
        let start = piece.as_ptr() as usize;
        let messages = self.lock();
        let (at, (message, _)) = messages.range(..=start).next_back()?;
        (start + piece.len() <= at + message.len()).then(|| message.slice_ref(piece))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, (Bytes, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut messages = self.messages.lock();
        if let Some((_, count)) = messages.get_mut(&self.start) {
            *count -= 1;
            if *count == 0 {
                messages.remove(&self.start);
            }
        }
    }
}

impl<S: Io> State<S> {
    fn open(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Puts what was copied behind what waits.
    fn close_copied(&mut self) {
        if !self.copied.is_empty() {
            self.waiting.push_back(self.copied.split().freeze());
        }
    }

    /// Writes what waits.
    fn write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close_copied();
        while self.bytes > 0 {
            let stream = Pin::new(&mut self.stream);
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let count = self.waiting.len().min(PIECES);
            for (piece, waiting) in pieces.iter_mut().zip(&self.waiting) {
                *piece = IoSlice::new(waiting);
            }
            let mut written = ready!(stream.poll_write_vectored(cx, &pieces[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes -= written;
            while let Some(first) = self.waiting.front_mut().filter(|_| written > 0) {
                let of_it = written.min(first.len());
                first.advance(of_it);
                written -= of_it;
                if first.is_empty() {
                    self.waiting.pop_front();
                }
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: Io> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        state.open()?;
        let before = buf.filled().len();
        let read = Pin::new(&mut state.stream).poll_read(cx, buf);
        let heard = usize::try_from(state.heard).unwrap_or(FIRST).min(FIRST);
        for (first, byte) in state.first[heard..].iter_mut().zip(&buf.filled()[before..]) {
            *first = *byte;
        }
        state.heard += (buf.filled().len() - before) as u64;
        read
    }
}

impl<S: Io> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        state.open()?;
        if state.bytes >= MOST {
            ready!(state.write_out(cx))?;
        }
        let before = state.bytes;
        for buf in bufs {
            let piece = &buf[..buf.len().min(MOST - state.bytes)];
            let vectored = piece.len() >= SMALL && state.stream.is_write_vectored();
            match vectored.then(|| self.messages.part(piece)).flatten() {
                Some(part) => {
                    state.close_copied();
                    state.waiting.push_back(part);
                }
                None => state.copied.extend_from_slice(piece),
            }
            state.bytes += piece.len();
        }
        Poll::Ready(Ok(state.bytes - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What gathered is on its way as soon as this turn is over.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.lock().open())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        state.open()?;
        ready!(state.write_out(cx))?;
        Pin::new(&mut state.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    impl Io for DuplexStream {}

    #[tokio::test]
    async fn all_arrives_in_order_whatever_the_other_side_takes_at_a_time() {
        let (near, mut far) = duplex(1000);
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
        let gathered = Gathered::new(near);
        let mut end = gathered.clone();
        let bytes = Bytes::from(sent.clone());
        let writer = gathered.drive(async move {
            // Of the first million nothing is held, of the last all, and of the one between its middle.
            let mut held = None;
            for (n, piece) in bytes.chunks(10_001).enumerate() {
                match n {
                    100 => held = Some(end.messages.hold(&bytes.slice(1_300_000..1_700_000))),
                    200 => held = Some(end.messages.hold(&bytes)),
                    _ => {}
                }
                end.write_all(piece).await.unwrap();
                end.flush().await.unwrap();
            }
            end.shutdown().await.unwrap();
            drop(held);
            assert!(end.messages.lock().is_empty());
        });
        let mut arrived = Vec::new();
        let (_, read) = tokio::join!(writer, far.read_to_end(&mut arrived));
        read.unwrap();
        assert!(arrived == sent);
    }

    #[tokio::test]
    async fn the_writes_of_one_turn_are_one_write() {
        let (near, mut far) = duplex(1000);
        let gathered = Gathered::new(near);
        let mut end = gathered.clone();
        let turns = gathered.drive(async move {
            for piece in [&b"one, "[..], b"two, ", b"three"] {
                end.write_all(piece).await.unwrap();
                end.flush().await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        let mut arrived = [0; 100];
        tokio::select! {
            biased;
            () = turns => unreachable!(),
            len = far.read(&mut arrived) => assert_eq!(&arrived[..len.unwrap()], b"one, two, three"),
        }
    }

    #[tokio::test]
    async fn a_message_that_is_held_is_not_copied() {
        let (near, _far) = duplex(10);
        let gathered = Gathered::new(near);
        let message = Bytes::from(vec![7; 100_000]);
        let (first, second) =
            (gathered.messages().hold(&message), gathered.messages().hold(&message));
        drop(first);
        let mut end = gathered.clone();
        end.write_all(b"head").await.unwrap();
        end.write_all(&message[10_000..30_000]).await.unwrap();
        drop(second);
        end.write_all(&message[30_000..50_000]).await.unwrap();
        let mut state = gathered.lock();
        state.close_copied();
        let at: Vec<_> = state.waiting.iter().map(|piece| piece.as_ptr()).collect();
        assert_eq!(at.len(), 3);
        assert_eq!(at[1], message[10_000..].as_ptr());
        assert_ne!(at[2], message[30_000..].as_ptr());
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_told() {
        let (near, far) = duplex(1000);
        drop(far);
        let gathered = Gathered::new(near);
        let mut end = gathered.clone();
        end.write_all(b"some").await.unwrap();
        // What fails after a turn is told at the next one.
        let told = gathered.drive(async move {
            tokio::task::yield_now().await;
            end.write_all(b"more").await.unwrap_err()
        });
        assert_eq!(told.await.kind(), io::ErrorKind::BrokenPipe);
    }
}
