//! A queue on disk, as its log sees it.

use std::sync::Arc;

use tapio_proto::{Request, Signal};

use super::{
    Observer,
    queue::{Load, Queue},
};
use crate::storage::{Backlog, Position, Window};

/// The part of a queue that is in memory, and whom to tell.
pub(super) struct Disk {
    pub(super) queue: Arc<Queue>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) signal: Signal,
}

impl From<Backlog> for Load {
    fn from(backlog: Backlog) -> Self {
        let Backlog { requests, items, bytes } = backlog;
        Load { requests, items, bytes }
    }
}

impl Window for Disk {
    fn has_room(&self, bytes: usize, fresh: bool) -> bool {
        self.queue.has_room(bytes, fresh)
    }

    fn put(&self, request: Request, at: Position, fresh: bool) {
        self.queue.put(request, at, fresh);
    }

    fn left_on_disk(&self, bytes: usize) {
        self.queue.left_on_disk(bytes);
    }

    fn room_on_disk(&self) {
        self.queue.left_on_disk(0);
    }

    fn refused(&self, request: &Request) {
        self.queue.cancel(Load::of(request));
    }

    fn more_on_disk(&self, more: bool) {
        self.queue.more_on_disk(more);
    }

    fn replayed(&self, items: usize) {
        self.observer.replayed(self.signal, items);
    }

    fn corrupt(&self, load: Option<Backlog>) {
        self.observer.corrupt(self.signal);
        if let Some(load) = load {
            self.queue.forget(load.into());
        }
    }
}
