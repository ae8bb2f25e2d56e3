//! The session behind the door: the store's tables as PostgreSQL clients can read them.

use std::{borrow::Cow, sync::Arc};

use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    error::{DataFusionError, Result},
    functions::expr_fn::encode,
    logical_expr::{LogicalPlan, TableType},
    physical_plan::ExecutionPlan,
    prelude::{Expr, SessionContext, cast, ident, lit},
};
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::{
    context::EmptyContextProvider, setup_pg_catalog,
};
use tapio_processor::store::{Store, provider, session};

/// The database's name for clients that ask.
const CATALOG: &str = "tapio";
/// Memory of all queries of the door together, in bytes.
const MEMORY: usize = 256 << 20;

/// A table of the store, whatever it is made of: clients list tables (`\dt`) and views apart.
#[derive(Debug)]
struct Listed(Arc<dyn TableProvider>);

#[async_trait]
impl TableProvider for Listed {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        self.0.get_logical_plan()
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.scan(state, projection, filters, limit).await
    }
}

/// A session of its own, apart from the engine's, over the same tables.
pub(super) fn open(store: &Store) -> Result<SessionContext> {
    let context = session(CATALOG, MEMORY)?;
    for table in store.tables() {
        let listed = Listed(view(&context, provider(table)?)?);
        context.register_table(table.name(), Arc::new(listed))?;
    }
    setup_pg_catalog(&context, CATALOG, EmptyContextProvider)
        .map_err(|error| DataFusionError::External(error))?;
    Ok(context)
}

/// The table itself, or a view of it where it has columns that clients cannot read.
fn view(context: &SessionContext, table: Arc<dyn TableProvider>) -> Result<Arc<dyn TableProvider>> {
    let schema = table.schema();
    let columns: Vec<Option<Expr>> = schema.fields().iter().map(|field| readable(field)).collect();
    if columns.iter().all(Option::is_none) {
        return Ok(table);
    }
    let columns = columns.into_iter().zip(schema.fields()).map(|(column, field)| match column {
        Some(column) => column.alias(field.name()),
        None => ident(field.name()),
    });
    Ok(context.read_table(table)?.select(columns.collect::<Vec<_>>())?.into_view())
}

/// The column as a type that PostgreSQL has: ids as hex text, integers as bigint, texts as text,
/// times with a zone. `None` when it is one already.
fn readable(field: &Field) -> Option<Expr> {
    let column = ident(field.name());
    match field.data_type() {
        DataType::FixedSizeBinary(_)
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView => Some(encode(column, lit("hex"))),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            Some(cast(column, DataType::Int64))
        }
        DataType::Dictionary(_, values) => Some(cast(column, values.as_ref().clone())),
        DataType::Timestamp(_, None) => {
            Some(cast(column, DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))))
        }
        _ => None,
    }
}
