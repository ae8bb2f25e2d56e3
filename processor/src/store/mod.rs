//! The store: Arrow tables in memory, bounded in bytes, and the queries that run over them.
//!
//! What passed through goes into ring tables, whose oldest rows make room for new ones; what was
//! reduced from it (windows, symptoms, stories) goes into tables that are replaced whole.

mod queries;
mod rows;
mod source;
mod table;

use std::{collections::BTreeMap, sync::Arc};

pub use queries::{Limits, Queries, QueryError};
pub use rows::{ColumnError, RowRef, Rows};
pub use source::{provider, session};
pub use table::{Keep, Table, TableSpec, TableStats};

/// What the store refused, and why.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No table of that name.
    #[error("no table `{name}` in the store; it has {known}")]
    UnknownTable {
        /// The name asked for.
        name: String,
        /// The names there are, comma separated.
        known: String,
    },
    /// Two tables of one name.
    #[error("table `{0}` is declared twice")]
    Duplicate(&'static str),
    /// A batch whose columns are not the table's.
    #[error("table `{table}`: {source}")]
    Schema {
        /// The table.
        table: &'static str,
        /// What differs.
        source: arrow::error::ArrowError,
    },
    /// Rows appended to a table that is replaced whole, or the other way round.
    #[error("table `{table}` is {is}; {asked} is not for it")]
    Kind {
        /// The table.
        table: &'static str,
        /// What the table is.
        is: &'static str,
        /// What was asked of it.
        asked: &'static str,
    },
}

/// All tables, by name. Shared: writers and readers hold the same store.
#[derive(Debug)]
pub struct Store {
    tables: BTreeMap<&'static str, Arc<Table>>,
}

impl Store {
    /// A store whose ring tables together hold at most `limit` bytes, shared out by their weights.
    pub fn new(
        limit: usize,
        specs: impl IntoIterator<Item = TableSpec>,
    ) -> Result<Self, StoreError> {
        let specs: Vec<TableSpec> = specs.into_iter().collect();
        let weights: usize = specs.iter().map(|spec| spec.keep.weight()).sum();
        let mut tables = BTreeMap::new();
        for spec in specs {
            let name = spec.name;
            let share = limit as u128 * spec.keep.weight() as u128 / weights.max(1) as u128;
            let table = Table::new(spec, usize::try_from(share).unwrap_or(limit));
            if tables.insert(name, Arc::new(table)).is_some() {
                return Err(StoreError::Duplicate(name));
            }
        }
        Ok(Store { tables })
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Result<&Arc<Table>, StoreError> {
        self.tables.get(name).ok_or_else(|| StoreError::UnknownTable {
            name: name.to_owned(),
            known: self.tables.keys().copied().collect::<Vec<_>>().join(", "),
        })
    }

    /// Halves what the ring tables may hold, and lets the oldest rows go at once.
    pub fn shrink(&self) {
        self.tables.values().for_each(|table| table.shrink());
    }

    /// All tables, by name in order.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.tables.values()
    }
}

#[cfg(test)]
mod tests;
