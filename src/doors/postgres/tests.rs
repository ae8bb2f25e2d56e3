#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{
        ArrayRef, DictionaryArray, FixedSizeBinaryArray, ListBuilder, StringBuilder,
        TimestampNanosecondArray, UInt64Array,
    },
    datatypes::{DataType, Field, Int32Type, Schema, TimeUnit},
    record_batch::RecordBatch,
};
use serde_json::{Value, json};
use tapio_processor::{
    Engine, Patterns,
    store::{Keep, Store, TableSpec},
};
use tapio_proto::{Request, Signal, json::to_proto};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, error::SqlState};

use super::{DoorError, DoorHandle, open, start};

const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A table with every column type that clients cannot read as it is.
fn store() -> Arc<Store> {
    let utc = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    let schema = Arc::new(Schema::new(vec![
        Field::new("trace_id", DataType::FixedSizeBinary(4), true),
        Field::new("time", utc, false),
        Field::new(
            "name",
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            true,
        ),
        Field::new("n", DataType::UInt64, false),
        Field::new(
            "tags",
            DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))),
            false,
        ),
    ]));
    let ids = FixedSizeBinaryArray::try_from_sparse_iter_with_size(
        [Some([0xde, 0xad, 0xbe, 0xef]), None].into_iter(),
        4,
    )
    .unwrap();
    let times =
        TimestampNanosecondArray::from(vec![1_700_000_000_123_000_000, 1_700_000_001_000_000_000])
            .with_timezone("UTC");
    let names: DictionaryArray<Int32Type> = vec![Some("cart"), None].into_iter().collect();
    let mut tags = ListBuilder::new(StringBuilder::new());
    tags.append_value([Some("a"), Some("b")]);
    tags.append_value(Vec::<Option<&str>>::new());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids),
        Arc::new(times),
        Arc::new(names),
        Arc::new(UInt64Array::from(vec![7, 8])),
        Arc::new(tags.finish()),
    ];
    let store = Store::new(
        1 << 20,
        [TableSpec { name: "spans", schema: schema.clone(), keep: Keep::Ring { weight: 1 } }],
    )
    .unwrap();
    store.table("spans").unwrap().append(RecordBatch::try_new(schema, columns).unwrap()).unwrap();
    Arc::new(store)
}

async fn connect(door: &DoorHandle) -> Client {
    let mut config = Config::new();
    config.host("127.0.0.1").port(door.address().port()).user("someone").dbname("tapio");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn rows(
    client: &Client,
    sql: &str,
) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

async fn one(client: &Client, sql: &str) -> String {
    rows(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))[0][0]
        .clone()
        .unwrap_or_default()
}

/// Guarantees: `select *` works whatever the columns are inside, over both protocols.
#[tokio::test]
async fn tables_are_readable_as_they_are() {
    let door = start(store(), LOOPBACK).unwrap();
    let client = connect(&door).await;
    let all = rows(&client, "SELECT * FROM spans ORDER BY n").await.unwrap();
    let first: Vec<&str> = all[0].iter().map(|cell| cell.as_deref().unwrap_or("NULL")).collect();
    assert_eq!(first[0], "deadbeef");
    assert!(first[1].starts_with("2023-11-14 22:13:20.123"), "{first:?}");
    assert_eq!(first[2..], ["cart", "7", "{a,b}"]);
    assert_eq!(all[1][0], None);

    let statement =
        client.prepare("SELECT trace_id, n, time FROM spans WHERE n = $1").await.unwrap();
    let types: Vec<&str> = statement.columns().iter().map(|column| column.type_().name()).collect();
    assert_eq!(types[1..], ["int8", "timestamptz"]);
    let row = client.query_one(&statement, &[&7_i64]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1)), ("deadbeef", 7));
    assert_eq!(
        row.get::<_, std::time::SystemTime>(2),
        std::time::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
    );
}

#[tokio::test]
async fn new_rows_are_seen_by_the_next_query() {
    let store = store();
    let door = start(store.clone(), LOOPBACK).unwrap();
    let client = connect(&door).await;
    assert_eq!(one(&client, "SELECT count(*) FROM spans").await, "2");
    let table = store.table("spans").unwrap();
    table.append(table.snapshot().remove(0)).unwrap();
    assert_eq!(
        one(&client, "SELECT count(*) FROM spans WHERE time > '2023-11-14 22:00:00'").await,
        "4"
    );
}

/// What psql and Grafana ask before and between queries.
#[tokio::test]
async fn clients_find_their_way() {
    let door = start(store(), LOOPBACK).unwrap();
    let client = connect(&door).await;
    client.batch_execute("SET client_encoding = 'UTF8'; SET statement_timeout = 1000; SET TIME ZONE 'UTC'; BEGIN").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(one(&client, "SELECT current_database()").await, "tapio");
    assert_eq!(
        one(
            &client,
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        )
        .await,
        "spans"
    );
    assert_eq!(
        one(
            &client,
            "SELECT relname FROM pg_catalog.pg_class WHERE relkind = 'r' AND relname = 'spans'"
        )
        .await,
        "spans"
    );
    assert!(
        rows(&client, "SHOW TABLES")
            .await
            .unwrap()
            .iter()
            .flatten()
            .any(|cell| cell.as_deref() == Some("spans"))
    );
    assert!(!rows(&client, "EXPLAIN SELECT * FROM spans").await.unwrap().is_empty());
}

/// Guarantees: nothing that a client says changes anything, over both protocols.
#[tokio::test]
async fn only_queries_are_answered() {
    let door = start(store(), LOOPBACK).unwrap();
    let client = connect(&door).await;
    let refused = [
        "INSERT INTO spans SELECT * FROM spans",
        "DELETE FROM spans",
        "UPDATE spans SET n = 1",
        "DROP TABLE spans",
        "DROP VIEW spans",
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1 AS a INTO t",
        "CREATE VIEW v AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "COPY spans TO 'out.csv'",
        "COPY (SELECT 1) TO 'out.csv'",
        "EXPLAIN ANALYZE INSERT INTO spans SELECT * FROM spans",
        "PREPARE p AS SELECT 1",
        "DECLARE c CURSOR FOR SELECT 1 AS a INTO t",
        "SET datafusion.execution.batch_size = 1",
        "SET datafusion.runtime.memory_limit = '10G'",
        "SET \"datafusion\".\"execution\".batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "SELECT * FROM '/etc/passwd'",
    ];
    for sql in refused {
        assert!(client.simple_query(sql).await.is_err(), "{sql}");
        let extended = match client.prepare(sql).await {
            Ok(statement) => client.query(&statement, &[]).await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(extended.is_err(), "{sql}");
    }
    let denied = client.simple_query("DROP TABLE spans").await.unwrap_err();
    assert_eq!(denied.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    assert_eq!(one(&client, "SELECT count(*) FROM spans").await, "2");
    assert!(
        rows(&client, "SELECT * FROM t").await.is_err()
            && rows(&client, "SELECT * FROM v").await.is_err()
    );
    assert_eq!(one(&client, "SELECT value FROM information_schema.df_settings WHERE name = 'datafusion.execution.batch_size'").await, "8192");
}

const LONG: &str =
    "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";

/// Guarantees: a query that never ends is stopped at the limit, whether it is silent or sends rows.
#[tokio::test]
async fn long_queries_are_stopped() {
    let door = open(store(), LOOPBACK, Duration::from_millis(300)).unwrap();
    let client = connect(&door).await;
    for sql in
        [LONG, "SELECT a.value FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b"]
    {
        let error = rows(&client, sql).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error:?}");
        let error = client.query(sql, &[]).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error:?}");
    }
    assert_eq!(one(&client, "SELECT 1").await, "1");
}

#[tokio::test]
async fn memory_is_bounded() {
    let door = start(store(), LOOPBACK).unwrap();
    let client = connect(&door).await;
    let error = rows(&client, "SELECT array_agg(a.value) FROM generate_series(1, 500000000) a")
        .await
        .unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("Resources exhausted"), "{error:?}");
}

/// Guarantees: a cancel request (psql's Ctrl-C) ends the query, and the connection goes on.
#[tokio::test]
async fn a_query_can_be_cancelled() {
    let door = start(store(), LOOPBACK).unwrap();
    let client = connect(&door).await;
    let token = client.cancel_token();
    // A request that comes before its query is lost, as with PostgreSQL: so ask until it is heard.
    let cancel = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            token.cancel_query(NoTls).await.unwrap();
        }
    };
    let begin = Instant::now();
    tokio::select! {
        answer = rows(&client, LONG) => assert_eq!(answer.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED)),
        () = cancel => {}
    }
    assert!(begin.elapsed() < super::RUN / 2, "the limit ended it, not the request");
    assert_eq!(one(&client, "SELECT 1").await, "1");
}

/// Scenario: four clients take all turns with queries that do not end, and go away.
/// Guarantees: their queries end with them, and the next client is answered.
#[tokio::test]
async fn a_query_ends_with_its_client() {
    let door = start(store(), LOOPBACK).unwrap();
    let client = connect(&door).await;
    let mut gone = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut config = Config::new();
        config.host("127.0.0.1").port(door.address().port()).user("someone").dbname("tapio");
        let (busy, connection) = config.connect(NoTls).await.unwrap();
        gone.spawn(async move {
            let _ = tokio::time::timeout(Duration::from_millis(300), async {
                tokio::join!(connection, busy.simple_query(LONG))
            })
            .await;
        });
    }
    while gone.join_next().await.is_some() {}
    let begin = Instant::now();
    assert_eq!(one(&client, "SELECT 1").await, "1");
    assert!(begin.elapsed() < Duration::from_secs(5), "the turns were not given back");
}

#[tokio::test]
async fn the_door_opens_on_loopback_only_and_closes() {
    let error = start(store(), "0.0.0.0:0".parse().unwrap()).unwrap_err();
    assert!(
        matches!(error, DoorError::Exposed(_))
            && error.to_string().contains("0.0.0.0:0 is not a loopback address")
    );
    let door = start(store(), LOOPBACK).unwrap();
    let taken = start(store(), door.address()).unwrap_err();
    assert!(matches!(taken, DoorError::Listen { .. }), "{taken}");
    let client = connect(&door).await;
    assert_eq!(one(&client, "SELECT 1").await, "1");
    drop(door);
    assert!(rows(&client, LONG).await.is_err());
}

/// As the Collector writes an object into a log record's body.
fn body(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let values: Vec<Value> =
                fields.iter().map(|(k, v)| json!({"key": k, "value": body(v)})).collect();
            json!({"kvlistValue": {"values": values}})
        }
        Value::Array(values) => {
            json!({"arrayValue": {"values": values.iter().map(body).collect::<Vec<_>>()}})
        }
        Value::String(value) => json!({"stringValue": value}),
        _ => json!({}),
    }
}

/// Guarantees: what hung together at a time gone by is a query.
#[tokio::test]
async fn the_topology_is_readable_as_it_was() {
    let store = Engine::store(8 << 20).unwrap();
    let patterns = Arc::new(Patterns::builtin().unwrap());
    let mut engine = Engine::new(store.clone(), patterns).unwrap();
    // 2026-11-22T03:00:00Z
    let first = 1_795_316_400_u64;
    let mut sees = |minute: u64, verb: &str, config: &str, version: &str| {
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "cart", "namespace": "shop", "uid": "d-1", "resourceVersion": version,
                "creationTimestamp": "2026-11-01T00:00:00Z"},
            "spec": {"selector": {"matchLabels": {"app": "cart"}}, "template": {
                "metadata": {"labels": {"app": "cart"}},
                "spec": {"containers": [{"name": "cart", "image": "cart"}],
                    "volumes": [{"name": "v", "configMap": {"name": config}}]}}}});
        let time = ((first + minute * 60) * 1_000_000_000).to_string();
        let record = json!({"timeUnixNano": time, "observedTimeUnixNano": time,
            "attributes": [{"key": "k8s.resource.name", "value": {"stringValue": "deployments"}}],
            "body": body(&json!({"type": verb, "object": deployment}))});
        let request = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]});
        let bytes = to_proto(Signal::Logs, request.to_string().as_bytes()).unwrap();
        engine.ingest(&Request::new(Signal::Logs, bytes, 1));
    };
    sees(0, "ADDED", "before", "1");
    sees(10, "MODIFIED", "after", "2");
    sees(20, "DELETED", "after", "3");
    engine.finish();
    assert_eq!(engine.failures, (0, None));

    let door = start(store, LOOPBACK).unwrap();
    let client = connect(&door).await;
    let used = async |at: &str| {
        let sql = format!(
            "SELECT from_name FROM topology WHERE relation = 'uses_config' AND to_kind = 'Deployment' AND to_name = 'cart' \
             AND valid_from <= '{at}' AND (valid_to IS NULL OR valid_to > '{at}')"
        );
        let rows = rows(&client, &sql).await.unwrap();
        rows.into_iter().flatten().flatten().collect::<Vec<String>>()
    };
    assert_eq!(used("2026-11-22T03:05:00Z").await, ["before"]);
    assert_eq!(used("2026-11-22T03:12:00Z").await, ["after"]);
    assert_eq!(used("2026-11-22T03:25:00Z").await, [""; 0]);
}
