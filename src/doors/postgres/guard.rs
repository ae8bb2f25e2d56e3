//! Limits around each query: how many run, how long, and that a cancel request reaches them.

use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use datafusion::error::Result;
use datafusion_postgres::{
    DfSessionService, Parser,
    hooks::{set_show::SetShowHook, transactions::TransactionStatementHook},
    pgwire::{
        api::{
            ClientInfo, ClientPortalStore, ConnectionManager, PgWireServerHandlers,
            auth::{StartupHandler, noop::NoopStartupHandler},
            cancel::{CancelHandler, DefaultCancelHandler},
            portal::Portal,
            query::{ExtendedQueryHandler, SimpleQueryHandler},
            results::Response,
            store::PortalStore,
        },
        error::{ErrorInfo, PgWireError, PgWireResult},
        messages::PgWireBackendMessage,
    },
};
use futures_util::{Sink, Stream, StreamExt, future::join_all, stream};
use tapio_processor::store::Store;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::{hook::ReadOnly, session};

/// Queries at a time.
const QUERIES: usize = 4;
/// Longest wait for a turn.
const WAIT: Duration = Duration::from_secs(5);

/// What pgwire asks for: all handlers of the door.
pub(super) struct Handlers {
    guard: Arc<Guard>,
    connections: Arc<ConnectionManager>,
}

/// No password: the door is on loopback.
struct Startup(Arc<ConnectionManager>);

/// The library's query service, with limits.
pub(super) struct Guard {
    service: DfSessionService,
    turns: Arc<Semaphore>,
    run: Duration,
}

/// The right to run one query, for a time.
#[derive(Clone)]
struct Turn {
    _permit: Arc<OwnedSemaphorePermit>,
    deadline: Instant,
    run: Duration,
}

impl Handlers {
    /// Handlers over the store, whose queries run at most for `run`.
    pub(super) fn new(store: &Store, run: Duration) -> Result<Self> {
        let guard = Guard::new(store, run)?;
        Ok(Handlers { guard: Arc::new(guard), connections: Arc::new(ConnectionManager::new()) })
    }
}

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        self.guard.clone()
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        self.guard.clone()
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::new(Startup(self.connections.clone()))
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::new(DefaultCancelHandler::new(self.connections.clone()))
    }
}

impl NoopStartupHandler for Startup {
    fn connection_manager(&self) -> Option<Arc<ConnectionManager>> {
        Some(self.0.clone())
    }
}

impl Guard {
    fn new(store: &Store, run: Duration) -> Result<Self> {
        let session = Arc::new(session::open(store)?);
        // No cursors: the library plans their queries without asking the hooks.
        let service = DfSessionService::new_with_hooks(
            session,
            vec![Arc::new(ReadOnly), Arc::new(SetShowHook), Arc::new(TransactionStatementHook)],
        );
        Ok(Guard { service, turns: Arc::new(Semaphore::new(QUERIES)), run })
    }

    async fn turn(&self) -> PgWireResult<Turn> {
        match timeout(WAIT, self.turns.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Turn {
                _permit: Arc::new(permit),
                deadline: Instant::now() + self.run,
                run: self.run,
            }),
            _ => Err(error("53300", format!("{QUERIES} queries are running already; try again"))),
        }
    }
}

impl Turn {
    async fn within<T>(&self, work: impl Future<Output = T>) -> PgWireResult<T> {
        let late =
            || error("57014", format!("the query took longer than {:?} and was stopped", self.run));
        if Instant::now() >= self.deadline {
            return Err(late());
        }
        timeout_at(self.deadline, work).await.map_err(|_| late())
    }

    /// The response with its first row worked out, as long as cancel requests are heard, and the
    /// others under the same deadline.
    async fn begin(self, response: Response) -> PgWireResult<Response> {
        let Response::Query(mut query) = response else { return Ok(response) };
        let first = self.within(query.data_rows.next()).await?;
        let rest = self.bounded(query.data_rows);
        query.data_rows = Box::pin(stream::iter(first).chain(rest));
        Ok(Response::Query(query))
    }

    fn bounded<T: Send>(
        self,
        rows: impl Stream<Item = PgWireResult<T>> + Send + Unpin,
    ) -> impl Stream<Item = PgWireResult<T>> + Send {
        stream::unfold(Some((self, rows)), |state| async move {
            let (turn, mut rows) = state?;
            match turn.within(rows.next()).await {
                Ok(row) => Some((row?, Some((turn, rows)))),
                Err(late) => Some((Err(late), None)),
            }
        })
    }
}

#[async_trait]
impl SimpleQueryHandler for Guard {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let turn = self.turn().await?;
        let responses =
            turn.within(SimpleQueryHandler::do_query(&self.service, client, query)).await??;
        let begun =
            join_all(responses.into_iter().map(|response| turn.clone().begin(response))).await;
        begun.into_iter().collect()
    }
}

#[async_trait]
impl ExtendedQueryHandler for Guard {
    type Statement = <DfSessionService as ExtendedQueryHandler>::Statement;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        self.service.query_parser()
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<Self::Statement>,
        max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let turn = self.turn().await?;
        let response = turn
            .within(ExtendedQueryHandler::do_query(&self.service, client, portal, max_rows))
            .await??;
        turn.begin(response).await
    }
}

fn error(code: &str, message: String) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("ERROR".to_owned(), code.to_owned(), message)))
}
