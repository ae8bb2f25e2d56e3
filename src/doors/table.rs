//! Answers on the terminal: as an aligned table, JSON or CSV.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use serde_json::{Map, Number, Value};

use super::client::{Answer, Column, Kind};
use crate::error::Result;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people: aligned columns
    Table,
    /// A JSON array with one object per row
    Json,
    /// RFC 4180, with a header
    Csv,
}

/// The answer as text, with a line break at the end.
pub(crate) fn render(answer: &Answer, format: Format) -> String {
    match format {
        Format::Table => table(answer),
        Format::Json => json(answer),
        Format::Csv => csv(answer),
    }
}

/// Writes to standard output; a reader that has gone (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Telemetry on a terminal: control characters are shown, not obeyed. Line breaks stay when `lines`.
pub(crate) fn harmless(text: &str, lines: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !(lines && c == '\n') {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn table(answer: &Answer) -> String {
    let names = answer.columns.iter().map(|column| harmless(&column.name, false)).collect();
    let rows = answer
        .rows
        .iter()
        .map(|row| row.iter().map(|v| harmless(v.as_deref().unwrap_or(""), false)).collect());
    let lines: Vec<Vec<String>> = std::iter::once(names).chain(rows).collect();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> =
        (0..answer.columns.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).zip(&answer.columns).map(|((cell, width), column)| {
            let space = " ".repeat(width - cell.chars().count());
            if column.kind == Kind::Number { space + cell } else { cell.clone() + &space }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
        if index == 0 {
            text.push_str(
                &widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>().join("  "),
            );
            text.push('\n');
        }
    }
    let rows = answer.rows.len();
    let _ = writeln!(text, "({rows} {})", if rows == 1 { "row" } else { "rows" });
    text
}

fn json(answer: &Answer) -> String {
    let object = |row: &Vec<Option<String>>| {
        let members = answer
            .columns
            .iter()
            .zip(row)
            .map(|(column, cell)| (column.name.clone(), value(column, cell)));
        Value::Object(members.collect::<Map<_, _>>()).to_string()
    };
    array(answer.rows.iter().map(object))
}

/// JSON values as an array, one on a line.
pub(crate) fn array(values: impl Iterator<Item = String>) -> String {
    match values.collect::<Vec<_>>().join(",\n ") {
        values if values.is_empty() => "[]\n".to_owned(),
        values => format!("[{values}]\n"),
    }
}

fn value(column: &Column, cell: &Option<String>) -> Value {
    let Some(text) = cell else { return Value::Null };
    let number = || {
        let integer = text.parse::<i64>().ok().map(Number::from);
        integer.or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64))
    };
    match column.kind {
        Kind::Bool => Value::Bool(text == "t"),
        // NaN and the infinities are no JSON numbers.
        Kind::Number => number().map_or_else(|| Value::String(text.clone()), Value::Number),
        Kind::Text => Value::String(text.clone()),
    }
}

fn csv(answer: &Answer) -> String {
    let header =
        answer.columns.iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(",");
    let row = |row: &Vec<Option<String>>| {
        // An empty text is quoted, so that it can be told from NULL.
        let cell = |cell: &Option<String>| cell.as_deref().map_or_else(String::new, quoted);
        row.iter().map(cell).collect::<Vec<_>>().join(",")
    };
    let lines = std::iter::once(header).chain(answer.rows.iter().map(row));
    lines.map(|line| line + "\r\n").collect()
}

fn quoted(text: &str) -> String {
    if text.is_empty() || text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        let column = |name: &str, kind| Column { name: name.to_owned(), kind };
        let row = |cells: [Option<&str>; 3]| cells.map(|cell| cell.map(str::to_owned)).to_vec();
        Answer {
            columns: vec![
                column("name", Kind::Text),
                column("n", Kind::Number),
                column("ok", Kind::Bool),
            ],
            rows: vec![
                row([Some("inventory"), Some("7"), Some("t")]),
                row([Some("a, \"b\"\u{1b}[2J"), Some("-1.5"), None]),
                row([Some(""), Some("NaN"), Some("f")]),
            ],
        }
    }

    #[test]
    fn tables_are_aligned_and_control_characters_are_shown() {
        let text = render(&answer(), Format::Table);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "name                n  ok");
        assert_eq!(lines[1], "---------------  ----  --");
        assert_eq!(lines[2], "inventory           7  t");
        assert_eq!(lines[3], "a, \"b\"\\u{1b}[2J  -1.5");
        assert_eq!(lines[5], "(3 rows)");
    }

    #[test]
    fn json_has_numbers_truth_and_null() {
        let rows: Vec<Value> = serde_json::from_str(&render(&answer(), Format::Json)).unwrap();
        assert_eq!(rows[0], serde_json::json!({"name": "inventory", "n": 7, "ok": true}));
        assert_eq!(
            rows[1],
            serde_json::json!({"name": "a, \"b\"\u{1b}[2J", "n": -1.5, "ok": null})
        );
        assert_eq!(rows[2], serde_json::json!({"name": "", "n": "NaN", "ok": false}));
        assert_eq!(render(&Answer::default(), Format::Json), "[]\n");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(
            render(&answer(), Format::Csv),
            "name,n,ok\r\ninventory,7,t\r\n\"a, \"\"b\"\"\u{1b}[2J\",-1.5,\r\n\"\",NaN,f\r\n"
        );
    }

    #[test]
    fn text_keeps_its_lines_only() {
        assert_eq!(harmless("a\nb\x07", true), "a\nb\\u{7}");
        assert_eq!(harmless("a\nb", false), "a\\nb");
    }
}
