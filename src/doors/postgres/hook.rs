//! Read-only: what a client may say at the door.

use async_trait::async_trait;
use datafusion::{
    common::ParamValues,
    execution::context::SQLOptions,
    logical_expr::LogicalPlan,
    prelude::SessionContext,
    sql::{
        parser::Statement as PlanStatement,
        sqlparser::ast::{Set, Statement},
    },
};
use datafusion_postgres::{
    QueryHook,
    hooks::HookClient,
    pgwire::{
        api::{
            ClientInfo,
            results::{Response, Tag},
        },
        error::{ErrorInfo, PgWireError, PgWireResult},
    },
};

/// Settings of a connection that the library keeps with the connection.
const SETTINGS: [&str; 7] = [
    "statement_timeout",
    "datestyle",
    "bytea_output",
    "intervalstyle",
    "application_name",
    "extra_float_digits",
    "search_path",
];

/// Plans every statement and lets only queries through. Settings of the engine, which all clients
/// share, cannot be touched; other settings are answered and forgotten, as clients expect.
#[derive(Debug)]
pub(super) struct ReadOnly;

#[async_trait]
impl QueryHook for ReadOnly {
    async fn handle_simple_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        _: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        match statement {
            Statement::Set(set) => setting(set),
            _ => check(statement, context).await.err().map(Err),
        }
    }

    async fn handle_extended_parse_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        _: &(dyn ClientInfo + Send + Sync),
    ) -> Option<PgWireResult<LogicalPlan>> {
        match statement {
            Statement::Set(set) => setting(set)?.err().map(Err),
            _ => check(statement, context).await.err().map(Err),
        }
    }

    async fn handle_extended_query(
        &self,
        statement: &Statement,
        _: &LogicalPlan,
        _: &ParamValues,
        _: &SessionContext,
        _: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        match statement {
            Statement::Set(set) => setting(set),
            _ => None,
        }
    }
}

/// `None` when the next hook may take it.
fn setting(set: &Set) -> Option<PgWireResult<Response>> {
    match set {
        Set::SetTimeZone { local: false, .. } => None,
        Set::SingleAssignment { scope: None, hivevar: false, variable, .. }
            if SETTINGS.contains(&variable.to_string().to_lowercase().as_str()) =>
        {
            None
        }
        _ if set.to_string().to_lowercase().contains("datafusion") => Some(Err(refused(
            "the engine's settings are shared by all clients and cannot be set here",
        ))),
        _ => Some(Ok(Response::Execution(Tag::new("SET")))),
    }
}

async fn check(statement: &Statement, context: &SessionContext) -> PgWireResult<()> {
    // Answered by the library without the engine.
    if matches!(
        statement,
        Statement::ShowVariable { .. }
            | Statement::ShowStatus { .. }
            | Statement::ShowCatalogs { .. }
            | Statement::StartTransaction { .. }
            | Statement::Commit { .. }
            | Statement::Rollback { .. }
    ) {
        return Ok(());
    }
    let statement = PlanStatement::Statement(Box::new(statement.clone()));
    let plan = context
        .state()
        .statement_to_plan(statement)
        .await
        .map_err(|e| PgWireError::ApiError(Box::new(e)))?;
    let queries =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    queries
        .verify_plan(&plan)
        .map_err(|_| refused("only queries are answered here, nothing can be changed"))
}

/// `insufficient_privilege`
fn refused(message: &str) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new(
        "ERROR".to_owned(),
        "42501".to_owned(),
        message.to_owned(),
    )))
}
