//! The commands' way to a store: the SQL door of a running hop, or one opened for the moment over
//! replayed recordings. Both answer the same questions in the same way.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tapio_processor::store::Store;
use tokio::{runtime::Runtime, time::timeout};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, types::Type};

use super::postgres::{self, DEFAULT_ADDRESS, DoorHandle};
use crate::{
    commands::replay,
    error::{Error, Result},
};

/// A door on this machine answers at once or not at all.
const CONNECT: Duration = Duration::from_secs(3);
/// Longer than the door lets any query run.
const ANSWER: Duration = Duration::from_secs(60);

/// Which store a command asks.
#[derive(clap::Args)]
pub(crate) struct Source {
    /// The SQL door of the running hop
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT_ADDRESS)]
    door: SocketAddr,
    /// Replay these recordings (OTLP JSON lines, files or folders) and ask their store instead
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "door")]
    replay: Vec<PathBuf>,
    /// Folders with patterns (*.yaml) beside the built-in ones, for --replay
    #[arg(long, value_name = "FOLDER", requires = "replay")]
    patterns: Vec<PathBuf>,
}

/// An open way to a store.
pub(crate) struct Session {
    runtime: Runtime,
    client: Client,
    _door: Option<DoorHandle>,
}

/// The answer to a question.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    /// The columns in their order.
    pub(crate) columns: Vec<Column>,
    /// The values as PostgreSQL writes them, `None` for NULL; as many as columns.
    pub(crate) rows: Vec<Vec<Option<String>>>,
}

/// A column of an answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Column {
    /// Its name.
    pub(crate) name: String,
    /// What its values are.
    pub(crate) kind: Kind,
}

/// What a value is, as far as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Integer or float.
    Number,
    /// `t` or `f`.
    Bool,
    /// Anything else.
    Text,
}

impl Source {
    /// Goes there.
    pub(crate) fn open(&self) -> Result<Session> {
        match self.replay.as_slice() {
            [] => Session::at(self.door, None),
            paths => Session::over(replay::load(paths, &self.patterns)?),
        }
    }
}

impl Session {
    /// Opens a door over the store, for this session alone.
    pub(crate) fn over(store: Arc<Store>) -> Result<Self> {
        let door = postgres::start(store, SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Session::at(door.address(), Some(door))
    }

    fn at(address: SocketAddr, door: Option<DoorHandle>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(connect(address))?;
        Ok(Session { runtime, client, _door: door })
    }

    /// Asks one question.
    pub(crate) fn query(&self, sql: &str) -> Result<Answer> {
        let answer = async { timeout(ANSWER, query(&self.client, sql)).await };
        self.runtime.block_on(answer).unwrap_or_else(|_| {
            Err(Error::new(format!("no answer from the SQL door within {ANSWER:?}")))
        })
    }
}

async fn connect(address: SocketAddr) -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(address.ip().to_string())
        .port(address.port())
        .user("tapio")
        .dbname("tapio")
        .application_name("tapio");
    let absent = |why: String| {
        Error::new(format!(
            "no running hop answers at {address} ({why}): start one with `tapio`, name its door with --door, or ask recordings with --replay PATH"
        ))
    };
    let (client, connection) = match timeout(CONNECT, config.connect(NoTls)).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return Err(absent(reason(&error))),
        Err(_) => return Err(absent(format!("silent for {CONNECT:?}"))),
    };
    tokio::spawn(connection);
    Ok(client)
}

async fn query(client: &Client, sql: &str) -> Result<Answer> {
    // The values come as text, whatever they are; what they are is asked for first.
    let prepared = client.prepare(sql).await.map_err(|error| Error::new(reason(&error)))?;
    let columns = prepared.columns().iter();
    let columns =
        columns.map(|c| Column { name: c.name().to_owned(), kind: kind(c.type_()) }).collect();
    let mut answer = Answer { columns, rows: Vec::new() };
    let mut results = 0;
    for message in client.simple_query(sql).await.map_err(|error| Error::new(reason(&error)))? {
        match message {
            SimpleQueryMessage::RowDescription(_) => results += 1,
            SimpleQueryMessage::Row(row) => {
                answer.rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
            }
            _ => {}
        }
        if results > 1 {
            return Err(Error::new(
                "one query at a time, please: the text has several, separated by `;`",
            ));
        }
    }
    Ok(answer)
}

fn kind(postgres: &Type) -> Kind {
    match *postgres {
        Type::INT2 | Type::INT4 | Type::INT8 | Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC => {
            Kind::Number
        }
        Type::BOOL => Kind::Bool,
        _ => Kind::Text,
    }
}

/// The server's own words, or the system's, in one line.
fn reason(error: &tokio_postgres::Error) -> String {
    let text = match error.as_db_error() {
        Some(error) => error.message().to_owned(),
        None => {
            std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
        }
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
