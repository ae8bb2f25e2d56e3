//! One table: batches in the order they came, bounded in bytes.

use std::{
    collections::VecDeque,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow::{compute::concat_batches, datatypes::SchemaRef, record_batch::RecordBatch};
use tapio_proto::model::Row;

use super::StoreError;

/// Small batches are joined up to this many rows: DataFusion's own batch size, so that a scan
/// neither splits nor waits.
const SEGMENT_ROWS: usize = 8192;

/// What a table is called, what it holds and how long.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// Its name in SQL.
    pub name: &'static str,
    /// Its columns.
    pub schema: SchemaRef,
    /// How it is kept.
    pub keep: Keep,
}

/// How a table is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Rows are appended; the oldest go when the table's share of the store is full.
    Ring {
        /// Share of the store, against the other rings' weights.
        weight: u16,
    },
    /// The rows are replaced whole; who writes them keeps them few.
    Replace,
}

/// What is in a table, and what has gone from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Rows held.
    pub rows: u64,
    /// Bytes held, buffers as allocated. A dictionary that several batches share is counted with
    /// each, so this errs on the safe side.
    pub bytes: u64,
    /// Rows that went because the table's share was full, since the start.
    pub evicted_rows: u64,
    /// Batches in which they went.
    pub evicted_batches: u64,
}

/// A table of the store. All methods may be called from any thread.
#[derive(Debug)]
pub struct Table {
    spec: TableSpec,
    limit: AtomicUsize,
    held: RwLock<Held>,
}

#[derive(Debug, Default)]
struct Held {
    batches: VecDeque<RecordBatch>,
    stats: TableStats,
}

impl Keep {
    pub(super) fn weight(self) -> usize {
        match self {
            Keep::Ring { weight } => weight.into(),
            Keep::Replace => 0,
        }
    }
}

impl TableSpec {
    /// A ring of the model's rows.
    pub fn ring<R: Row>(weight: u16) -> Self {
        TableSpec { name: R::TABLE, schema: R::schema(), keep: Keep::Ring { weight } }
    }

    /// A table of the model's rows that is replaced whole.
    pub fn replace<R: Row>() -> Self {
        TableSpec { name: R::TABLE, schema: R::schema(), keep: Keep::Replace }
    }
}

impl Table {
    /// An empty table; `limit` is in bytes and binds rings only.
    pub(super) fn new(spec: TableSpec, limit: usize) -> Self {
        Table { spec, limit: limit.into(), held: RwLock::default() }
    }

    /// Its name in SQL.
    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// Its columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.spec.schema
    }

    /// Adds rows to a ring; the oldest go when it is full.
    pub fn append(&self, batch: RecordBatch) -> Result<(), StoreError> {
        if self.spec.keep == Keep::Replace {
            return Err(self.kind("replaced whole", "append"));
        }
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = self.checked(batch)?;
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.push(batch);
        held.join_newest().map_err(|source| self.schema_error(source))?;
        held.evict(self.limit.load(Ordering::Relaxed));
        Ok(())
    }

    /// Halves the limit, and lets go at once what is over it.
    pub(super) fn shrink(&self) {
        let limit = self.limit.load(Ordering::Relaxed) / 2;
        self.limit.store(limit, Ordering::Relaxed);
        if self.spec.keep != Keep::Replace {
            self.held.write().unwrap_or_else(PoisonError::into_inner).evict(limit);
        }
    }

    /// Puts these rows in the place of all others.
    pub fn replace(&self, batches: Vec<RecordBatch>) -> Result<(), StoreError> {
        if self.spec.keep != Keep::Replace {
            return Err(self.kind("a ring", "replace"));
        }
        let batches =
            batches.into_iter().map(|batch| self.checked(batch)).collect::<Result<Vec<_>, _>>()?;
        let mut fresh = Held::default();
        batches.into_iter().for_each(|batch| fresh.push(batch));
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// The rows as they are now, oldest first; the buffers are shared, not copied.
    pub fn snapshot(&self) -> Vec<RecordBatch> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).batches.iter().cloned().collect()
    }

    /// What is in it now, and what has gone.
    pub fn stats(&self) -> TableStats {
        self.held.read().unwrap_or_else(PoisonError::into_inner).stats
    }

    /// The batch with the table's own schema: one `Arc` for all, and nothing but its columns.
    fn checked(&self, batch: RecordBatch) -> Result<RecordBatch, StoreError> {
        batch.with_schema(self.spec.schema.clone()).map_err(|source| self.schema_error(source))
    }

    fn schema_error(&self, source: arrow::error::ArrowError) -> StoreError {
        StoreError::Schema { table: self.spec.name, source }
    }

    fn kind(&self, is: &'static str, asked: &'static str) -> StoreError {
        StoreError::Kind { table: self.spec.name, is, asked }
    }
}

impl Held {
    fn push(&mut self, batch: RecordBatch) {
        self.stats.rows += batch.num_rows() as u64;
        self.stats.bytes += batch.get_array_memory_size() as u64;
        self.batches.push_back(batch);
    }

    /// Joins the two newest batches while the newer is at least half the older and both fit one
    /// segment. Each row is so copied at most log2(8192) times, and a table of single-row appends
    /// holds at most that many batches beside its full segments.
    fn join_newest(&mut self) -> Result<(), arrow::error::ArrowError> {
        while let [.., older, newer] = self.batches.make_contiguous() {
            let (old_rows, new_rows) = (older.num_rows(), newer.num_rows());
            if new_rows * 2 < old_rows || old_rows + new_rows > SEGMENT_ROWS {
                break;
            }
            let joined = concat_batches(older.schema_ref(), [&*older, &*newer])?;
            let apart = older.get_array_memory_size() + newer.get_array_memory_size();
            self.stats.bytes =
                self.stats.bytes + joined.get_array_memory_size() as u64 - apart as u64;
            self.batches.truncate(self.batches.len() - 2);
            self.batches.push_back(joined);
        }
        Ok(())
    }

    fn evict(&mut self, limit: usize) {
        while self.stats.bytes > limit as u64 {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.stats.bytes -= oldest.get_array_memory_size() as u64;
            self.stats.rows -= oldest.num_rows() as u64;
            self.stats.evicted_rows += oldest.num_rows() as u64;
            self.stats.evicted_batches += 1;
        }
    }
}
