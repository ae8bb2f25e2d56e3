//! What a connection writes in one turn leaves in one piece.
//!
//! HTTP/2 hands each frame to the socket by itself and flushes after each, and peers take no frame above
//! 16 KiB unless they say so: a request of 150 KiB is ten calls into the kernel, which cost more than
//! copying it once. Here writes only gather; a task that runs after the connection's turn writes them.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf, split},
    task::JoinHandle,
};

/// Bytes that wait at most; twice this is held while as many are being written.
const MOST: usize = 256 << 10;

/// A stream whose writes leave after the turn in which they were made.
pub(crate) struct Gathered<S> {
    read: ReadHalf<S>,
    queue: Arc<Queue>,
    writer: JoinHandle<()>,
}

#[derive(Default)]
struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Nothing more is coming.
    closing: bool,
    /// All has been written, or nothing more can be.
    ended: Option<Result<(), io::ErrorKind>>,
    /// Who waits for something to write, and who for room or the end.
    writer: Option<Waker>,
    connection: Option<Waker>,
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Gathered<S> {
    pub(crate) fn new(stream: S) -> Self {
        let (read, write) = split(stream);
        let queue = Arc::new(Queue::default());
        let writer = tokio::spawn(write_out(write, Arc::clone(&queue)));
        Gathered { read, queue, writer }
    }
}

impl<S> Drop for Gathered<S> {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// Writes what gathers until nothing more is coming.
async fn write_out<S: AsyncWrite>(mut stream: WriteHalf<S>, queue: Arc<Queue>) {
    let mut batch = Vec::new();
    let ended = loop {
        if !poll_fn(|cx| queue.take(&mut batch, cx)).await {
            break stream.shutdown().await;
        }
        let written = async {
            stream.write_all(&batch).await?;
            stream.flush().await
        };
        if let Err(error) = written.await {
            break Err(error);
        }
        batch.clear();
    };
    let mut state = queue.lock();
    state.ended = Some(ended.map_err(|error| error.kind()));
    wake(&mut state.connection);
}

impl Queue {
    /// Exchanges the empty `batch` for what waits; `false` when nothing does and nothing will.
    fn take(&self, batch: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.lock();
        if !state.waiting.is_empty() {
            mem::swap(&mut state.waiting, batch);
            wake(&mut state.connection);
            return Poll::Ready(true);
        }
        if state.closing {
            return Poll::Ready(false);
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// An error once writing has ended, for good or ill.
    fn open(&self) -> io::Result<()> {
        match self.ended {
            None => Ok(()),
            Some(Ok(())) => Err(io::ErrorKind::BrokenPipe.into()),
            Some(Err(kind)) => Err(kind.into()),
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl<S: AsyncRead> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl<S> AsyncWrite for Gathered<S> {
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
        let mut state = self.queue.lock();
        state.open()?;
        let before = state.waiting.len();
        if before >= MOST {
            state.connection = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for buf in bufs {
            let room = MOST - state.waiting.len();
            state.waiting.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        wake(&mut state.writer);
        Poll::Ready(Ok(state.waiting.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What gathered is on its way as soon as this turn is over.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.queue.lock().open())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.queue.lock();
        state.closing = true;
        wake(&mut state.writer);
        match state.ended {
            Some(ended) => Poll::Ready(ended.map_err(io::Error::from)),
            None => {
                state.connection = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    #[tokio::test]
    async fn all_arrives_in_order_whatever_the_other_side_takes_at_a_time() {
        let (near, mut far) = duplex(1000);
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
        let mut gathered = Gathered::new(near);
        let bytes = sent.clone();
        let writer = async move {
            for piece in bytes.chunks(10_001) {
                gathered.write_all(piece).await.unwrap();
                gathered.flush().await.unwrap();
            }
            gathered.shutdown().await.unwrap();
        };
        let mut arrived = Vec::new();
        let (_, read) = tokio::join!(writer, far.read_to_end(&mut arrived));
        read.unwrap();
        assert!(arrived == sent);
    }

    #[tokio::test]
    async fn the_writes_of_one_turn_are_one_write() {
        let (near, mut far) = duplex(1000);
        let mut gathered = Gathered::new(near);
        for piece in [&b"one, "[..], b"two, ", b"three"] {
            gathered.write_all(piece).await.unwrap();
            gathered.flush().await.unwrap();
        }
        let mut arrived = [0; 100];
        let len = far.read(&mut arrived).await.unwrap();
        assert_eq!(&arrived[..len], b"one, two, three");
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_told() {
        let (near, far) = duplex(1000);
        drop(far);
        let mut gathered = Gathered::new(near);
        gathered.write_all(b"some").await.unwrap();
        let told = gathered.shutdown().await.unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::BrokenPipe);
        assert!(gathered.write_all(b"more").await.is_err());
    }
}
