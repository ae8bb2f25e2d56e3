//! Log lines on standard error, in the Collector's shape:
//! `TIME<TAB>level<TAB>target<TAB>message<TAB>{json}`, or one JSON object a line.

use std::{fmt, time::SystemTime};

use serde_json::{Map, Value};
use tapio_proto::model::Time;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::config::telemetry::{Encoding, LogLevel, Logs};

/// Switches logging on for the process; later calls change nothing.
pub(crate) fn init(config: &Logs) {
    let level = match config.level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    // Other people's libraries speak at warn and above, unless somebody is after a bug.
    let others = if config.level == LogLevel::Debug { "debug" } else { "warn" };
    let own = ["tapio", "tapio_proto", "tapio_receiver", "tapio_processor", "tapio_exporter"];
    let filter =
        own.iter().fold(others.to_owned(), |filter, target| format!("{filter},{target}={level}"));
    let filter = tracing_subscriber::EnvFilter::new(filter);
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .event_format(Format(config.encoding));
    // An error means that a subscriber is set already.
    let _ = subscriber.try_init();
}

struct Format(Encoding);

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let millis = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_millis() as u64);
        line(
            self.0,
            &mut out,
            Time::from_unix_nano(millis * 1_000_000),
            *event.metadata().level(),
            event.metadata().target(),
            fields,
        )
    }
}

fn line(
    encoding: Encoding,
    out: &mut dyn fmt::Write,
    time: Time,
    level: Level,
    target: &str,
    fields: Fields,
) -> fmt::Result {
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    };
    match encoding {
        Encoding::Console => {
            write!(out, "{time}\t{level}\t{target}\t{}", fields.message)?;
            if !fields.rest.is_empty() {
                write!(out, "\t{}", Value::Object(fields.rest))?;
            }
            writeln!(out)
        }
        Encoding::Json => {
            let mut object = Map::new();
            object.insert("level".into(), level.into());
            object.insert("ts".into(), time.to_string().into());
            object.insert("caller".into(), target.into());
            object.insert("msg".into(), fields.message.into());
            object.extend(fields.rest);
            writeln!(out, "{}", Value::Object(object))
        }
    }
}

/// The message and the other fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.rest.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.put(field, format!("{value:?}").into()),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            _ => self.put(field, value.into()),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_shape_of_the_collectors() {
        let fields = || Fields {
            message: "Starting \"x\"".into(),
            rest: Map::from_iter([("endpoint".to_owned(), "[::]:1".into())]),
        };
        let shown = |encoding| {
            let mut out = String::new();
            line(encoding, &mut out, Time(1_500_000_000), Level::INFO, "tapio", fields()).unwrap();
            out
        };
        assert_eq!(
            shown(Encoding::Console),
            "1970-01-01T00:00:01.500Z\tinfo\ttapio\tStarting \"x\"\t{\"endpoint\":\"[::]:1\"}\n"
        );
        assert_eq!(
            shown(Encoding::Json),
            "{\"level\":\"info\",\"ts\":\"1970-01-01T00:00:01.500Z\",\"caller\":\"tapio\",\"msg\":\"Starting \\\"x\\\"\",\"endpoint\":\"[::]:1\"}\n"
        );
    }
}
