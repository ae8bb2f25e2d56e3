#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{Int64Array, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
    util::pretty::pretty_format_batches,
};
use tapio_proto::model::{Change, Row, Symptom, Time, table};

use super::*;

table! { "params" =>
    /// What a query is told.
    #[derive(Clone, Debug)]
    pub struct Params {
        /// The time of the question.
        pub now: Time,
    }
}

table! { "cells" =>
    /// A reduced table of a user.
    #[derive(Clone, Debug)]
    pub struct Cell {
        /// What is measured.
        pub name: String,
        /// When.
        pub time: Time,
        /// How much.
        pub value: f64,
        /// How often.
        pub count: i64,
        /// Said about it.
        pub note: Option<String>,
    }
}

fn cell(name: &str, second: i64, value: f64) -> Cell {
    Cell {
        name: name.to_owned(),
        time: Time(second * 1_000_000_000),
        value,
        count: second,
        note: None,
    }
}

/// 40 cells of 4 names, that differ with `seed`.
fn cells(seed: i64) -> RecordBatch {
    let cells: Vec<Cell> = (0..40)
        .map(|i| cell(&format!("n{}", (i + seed) % 4), i + seed, ((i * 7 + seed * 13) % 11) as f64))
        .collect();
    Cell::batch(&cells).unwrap()
}

fn store() -> Store {
    Store::new(
        1 << 20,
        [
            TableSpec::replace::<Params>(),
            TableSpec::ring::<Cell>(1),
            TableSpec::replace::<Symptom>(),
        ],
    )
    .unwrap()
}

fn text(batches: &[RecordBatch]) -> String {
    pretty_format_batches(batches).unwrap().to_string()
}

/// Scenario: one set of kept plans over data that changes 20 times.
/// Guarantees: each run answers as a plan made fresh for that data would.
#[tokio::test]
async fn a_kept_plan_answers_as_a_fresh_one() {
    let texts = [
        (
            "join_window",
            "SELECT * FROM (SELECT a.name, a.value, b.value AS other, row_number() OVER (PARTITION BY a.name ORDER BY b.value DESC, b.count, a.count) AS place FROM cells a JOIN cells b ON a.name = b.name AND a.count < b.count) WHERE place <= 3 ORDER BY name, place",
        ),
        (
            "aggregate",
            "SELECT name, count(*) AS n, sum(value) AS total, median(value) AS middle FROM cells GROUP BY name ORDER BY name",
        ),
        ("top", "SELECT name, value, count FROM cells ORDER BY value DESC, count LIMIT 5"),
        (
            "semi",
            "SELECT name, count FROM cells WHERE value IN (SELECT max(value) FROM cells) ORDER BY count",
        ),
        (
            "scalar",
            "SELECT name, value - (SELECT avg(value) FROM cells) AS above FROM cells ORDER BY count",
        ),
        (
            "params",
            "SELECT name, count FROM cells, params WHERE time > params.now - INTERVAL '5 seconds' ORDER BY count",
        ),
        ("union", "SELECT name FROM cells UNION SELECT 'none' ORDER BY name"),
        (
            "outer_join",
            "SELECT c.name, count(s.kind) AS n FROM cells c LEFT JOIN symptoms s ON s.entity_name = c.name GROUP BY c.name ORDER BY 1",
        ),
    ];
    let store = store();
    let kept = Queries::new(&store, &texts).unwrap();
    let mut answers = std::collections::BTreeSet::new();
    for seed in 0..20 {
        store.table("cells").unwrap().append(cells(seed)).unwrap();
        let now = Params::batch(&[Params { now: Time((20 + seed) * 1_000_000_000) }]).unwrap();
        store.table("params").unwrap().replace(vec![now]).unwrap();
        let fresh = Queries::new(&store, &texts).unwrap();
        for (name, _) in texts {
            let answer = text(&kept.run(name).await.unwrap());
            assert_eq!(answer, text(&fresh.run(name).await.unwrap()), "{name}, round {seed}");
            answers.insert(answer);
        }
    }
    assert!(answers.len() > 80, "the data did not change the answers: {}", answers.len());
}

/// Scenario: 50 runs of plans with filters, sorts and limits.
/// Guarantees: a plan that is kept for weeks does not grow.
#[tokio::test]
async fn runs_leave_nothing_behind_in_a_kept_plan() {
    let store = store();
    store.table("cells").unwrap().append(cells(1)).unwrap();
    let texts = [
        ("group", "SELECT name, sum(value) FROM cells WHERE count > 3 GROUP BY name ORDER BY name"),
        ("top", "SELECT * FROM cells ORDER BY value LIMIT 3"),
        ("limit", "SELECT name FROM cells LIMIT 3"),
    ];
    let queries = Queries::new(&store, &texts).unwrap();
    for (name, _) in texts {
        for _ in 0..50 {
            queries.run(name).await.unwrap();
        }
        assert_eq!(queries.metrics(name).await, 0, "{name}");
    }
    let rows = Rows::new(&queries.run("limit").await.unwrap()).unwrap();
    assert_eq!(rows.len(), 3);
}

#[tokio::test]
async fn a_ring_keeps_its_share_and_counts_what_goes() {
    let store =
        Store::new(3 << 20, [TableSpec::ring::<Cell>(2), TableSpec::ring::<Change>(1)]).unwrap();
    let table = store.table("cells").unwrap();
    for second in 0..400 {
        table
            .append(
                Cell::batch(&vec![cell("some name that takes room", second, 1.0); 500]).unwrap(),
            )
            .unwrap();
        let stats = table.stats();
        assert!(stats.bytes <= 2 << 20, "{stats:?}");
        assert_eq!(stats.rows + stats.evicted_rows, (second as u64 + 1) * 500);
    }
    let (stats, held) = (table.stats(), table.snapshot());
    assert!(
        stats.evicted_rows > 0 && stats.evicted_batches > 0 && stats.bytes > 1 << 20,
        "{stats:?}"
    );
    assert_eq!(stats.rows, held.iter().map(|batch| batch.num_rows() as u64).sum::<u64>());
    assert_eq!(
        stats.bytes,
        held.iter().map(|batch| batch.get_array_memory_size() as u64).sum::<u64>()
    );
    let rows = Rows::new(&held).unwrap();
    let seconds: Vec<i64> = rows.iter().map(|row| row.int("count").unwrap()).collect();
    assert!(
        seconds.is_sorted() && seconds.last() == Some(&399) && seconds.first() > Some(&0),
        "the newest stay, in order"
    );
}

#[test]
fn single_rows_are_joined_into_segments() {
    let store = store();
    let table = store.table("cells").unwrap();
    for second in 0..1000 {
        table.append(Cell::batch(&[cell("a", second, 0.0)]).unwrap()).unwrap();
        assert!(table.snapshot().len() <= 13);
    }
    let counts: Vec<i64> =
        Rows::new(&table.snapshot()).unwrap().iter().map(|row| row.int("count").unwrap()).collect();
    assert_eq!(counts, (0..1000).collect::<Vec<_>>());
    let big = Cell::batch(&vec![cell("b", 0, 0.0); 8192]).unwrap();
    assert_eq!(big.num_rows(), 8192);
}

#[test]
fn a_batch_larger_than_the_share_goes_at_once_and_is_counted() {
    let store = Store::new(1000, [TableSpec::ring::<Cell>(1)]).unwrap();
    let table = store.table("cells").unwrap();
    table.append(cells(0)).unwrap();
    assert_eq!(
        table.stats(),
        TableStats { evicted_rows: 40, evicted_batches: 1, ..TableStats::default() }
    );
}

#[test]
fn what_does_not_fit_a_table_is_refused_and_changes_nothing() {
    let store = store();
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("name", DataType::Int64, false)]));
    let wrong = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![1]))]).unwrap();
    let table = store.table("cells").unwrap();
    assert!(table.append(wrong).unwrap_err().to_string().starts_with("table `cells`: "));
    assert_eq!(
        table.replace(vec![]).unwrap_err().to_string(),
        "table `cells` is a ring; replace is not for it"
    );
    assert!(store.table("params").unwrap().append(cells(0)).is_err());
    assert_eq!(table.stats(), TableStats::default());
    assert_eq!(
        store.table("cell").unwrap_err().to_string(),
        "no table `cell` in the store; it has cells, params, symptoms"
    );
    assert!(matches!(
        Store::new(1, [TableSpec::ring::<Cell>(1), TableSpec::replace::<Cell>()]),
        Err(StoreError::Duplicate("cells"))
    ));
}

/// Scenario: a writer appends batches of 40 while a query counts.
/// Guarantees: every run sees whole batches, never fewer than before, and ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_sees_whole_batches_while_others_append() {
    let store = Arc::new(store());
    let queries = Queries::new(&store, &[("n", "SELECT count(*) AS n FROM cells")]).unwrap();
    let writer = {
        let store = store.clone();
        tokio::task::spawn_blocking(move || {
            (0..200).for_each(|seed| store.table("cells").unwrap().append(cells(seed)).unwrap())
        })
    };
    let mut last = 0;
    loop {
        let done = writer.is_finished();
        let n = Rows::new(&queries.run("n").await.unwrap())
            .unwrap()
            .iter()
            .next()
            .unwrap()
            .int("n")
            .unwrap();
        assert!(n >= last && n % 40 == 0, "{n} after {last}");
        last = n;
        if done {
            break;
        }
    }
    writer.await.unwrap();
    assert_eq!(last, 8000);
}

#[tokio::test]
async fn a_query_that_cannot_run_says_which_and_why() {
    let store = store();
    let texts = [
        ("typo", "SELECT nam FROM cells"),
        ("clock", "SELECT now()"),
        ("write", "CREATE TABLE t AS SELECT 1"),
        ("good", "SELECT 1 AS one"),
    ];
    let queries = Queries::new(&store, &texts).unwrap();
    for (name, hint) in
        [("typo", "nam"), ("clock", "now"), ("write", "DDL"), ("absent", "no query of that name")]
    {
        let error = queries.run(name).await.unwrap_err();
        assert_eq!(error.query, name);
        assert!(error.message.contains(hint) && !error.message.contains('\n'), "{error}");
    }
    assert_eq!(queries.check().await.unwrap_err().query, "clock");
    assert!(queries.run("good").await.is_ok());
    assert_eq!(Queries::new(&store, &[("a", ""), ("a", "")]).map(|_| ()).unwrap_err().query, "a");
}

#[tokio::test]
async fn a_query_without_end_is_given_up() {
    let store = store();
    let texts = [
        ("long", "SELECT count(*) FROM generate_series(1, 1000000000) a"),
        (
            "cross",
            "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b",
        ),
        ("deep", "SELECT array_agg(value) FROM generate_series(1, 100000000)"),
        ("wide", "SELECT value FROM generate_series(1, 100000000)"),
    ];
    let limits = Limits { time: Duration::from_millis(200), memory: 16 << 20 };
    let queries = Queries::new(&store, &texts).unwrap().with_limits(limits);
    for name in ["long", "cross"] {
        let begin = std::time::Instant::now();
        assert_eq!(queries.run(name).await.unwrap_err().message, "not done after 200ms, given up");
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{name} did not give way: {:?}",
            begin.elapsed()
        );
    }
    let queries = queries.with_limits(Limits { time: Duration::from_secs(60), ..limits });
    for name in ["deep", "wide"] {
        let error = queries.run(name).await.unwrap_err();
        assert!(error.message.contains("Resources exhausted"), "{error}");
    }
}

#[tokio::test]
async fn results_read_back_as_plain_values() {
    let store = store();
    let noted = Cell { note: Some("loud".to_owned()), ..cell("b", 7, 2.5) };
    store
        .table("cells")
        .unwrap()
        .append(Cell::batch(&[cell("a", 1, 0.5), noted]).unwrap())
        .unwrap();
    let sql = "SELECT name, time, value, count, note, upper(name) AS big, arrow_cast(name, 'Dictionary(Int32, Utf8)') AS word, \
               arrow_cast(count, 'UInt64') AS unsigned, count > 3 AS many, count::int AS small, arrow_cast(value, 'Float32') AS real, \
               time::timestamp AS local, NULL AS nothing FROM cells ORDER BY name";
    let rows =
        Rows::new(&Queries::new(&store, &[("q", sql)]).unwrap().run("q").await.unwrap()).unwrap();
    assert_eq!(rows.len(), 2);
    let row = rows.iter().nth(1).unwrap();
    assert_eq!((row.text("name"), row.text("big"), row.text("word")), (Ok("b"), Ok("B"), Ok("b")));
    assert_eq!((row.text_opt("note"), row.text_opt("nothing")), (Ok(Some("loud")), Ok(None)));
    assert_eq!((row.int("count"), row.int("unsigned"), row.int("small")), (Ok(7), Ok(7), Ok(7)));
    assert_eq!(
        (row.float("value"), row.float("real"), row.float("count")),
        (Ok(2.5), Ok(2.5), Ok(7.0))
    );
    assert_eq!(
        (row.time("time"), row.time("local"), row.time("count")),
        (Ok(Time(7_000_000_000)), Ok(Time(7_000_000_000)), Ok(Time(7)))
    );
    assert_eq!(row.bool("many"), Ok(true));
    assert_eq!(row.text("nothing").unwrap_err().to_string(), "result column `nothing`: is null");
    assert_eq!(
        row.int("name").unwrap_err().to_string(),
        "result column `name`: is Utf8, not an integer"
    );
    assert!(row.int("cont").unwrap_err().problem.contains("count"));
    let empty = Rows::new(&[]).unwrap();
    assert!(empty.is_empty() && empty.iter().next().is_none());
}

#[test]
fn unsigned_values_beyond_an_integer_are_refused() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("n", DataType::UInt64, true),
        Field::new("s", DataType::Utf8, true),
    ]));
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(arrow::array::UInt64Array::from(vec![None, Some(u64::MAX)])),
        Arc::new(StringArray::from(vec!["a", "b"])),
    ];
    let error = Rows::new(&[RecordBatch::try_new(schema, columns).unwrap()]).unwrap_err();
    assert_eq!(error.to_string(), "result column `n`: a value does not fit Int64");
}
