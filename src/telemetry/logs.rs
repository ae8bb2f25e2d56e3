//! Log lines on standard error, in the Collector's shape:
//! `TIME<TAB>level<TAB>target<TAB>message<TAB>{json}`, or one JSON object a line.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Write},
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::{Instant, SystemTime},
};

use serde_json::{Map, Value};
use tapio_exporter::DEBUG_TARGET;
use tapio_proto::model::Time;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer},
    registry::LookupSpan,
};

use super::sampling::Sampler;
use crate::config::telemetry::{Encoding, LogLevel, Logs};

/// What the configuration says of the lines; a reload exchanges it.
struct Shape {
    encoding: Encoding,
    caller: bool,
    initial: BTreeMap<String, String>,
    sampler: Option<Sampler>,
    outputs: Vec<Output>,
}

enum Output {
    Stderr,
    Stdout,
    File(File),
}

/// The logging of the process, once it is switched on.
struct Running {
    shape: Shared,
    filter: Box<dyn Fn(EnvFilter) + Send + Sync>,
}

type Shared = Arc<RwLock<Shape>>;

static RUNNING: OnceLock<Running> = OnceLock::new();

/// Switches logging on for the process, or changes how it is done.
pub(crate) fn init(config: &Logs) -> Result<(), String> {
    let shape = Shape::new(config)?;
    if let Some(running) = RUNNING.get() {
        *running.shape.write().unwrap_or_else(PoisonError::into_inner) = shape;
        (running.filter)(filter(config.level));
        return Ok(());
    }
    let shape = Arc::new(RwLock::new(shape));
    let subscriber = tracing_subscriber::fmt()
        .with_writer(Outputs(Arc::clone(&shape)))
        .with_env_filter(filter(config.level))
        .event_format(Format(Arc::clone(&shape)))
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    // An error means that somebody else's subscriber is set already.
    if subscriber.try_init().is_ok() {
        let filter = Box::new(move |filter| {
            // It is gone only when the process is.
            let _ = handle.reload(filter);
        });
        let _ = RUNNING.set(Running { shape, filter });
    }
    Ok(())
}

fn filter(level: LogLevel) -> EnvFilter {
    // Other people's libraries speak at warn and above, unless somebody is after a bug.
    let others = if level == LogLevel::Debug { "debug" } else { "warn" };
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let own = ["tapio", "tapio_proto", "tapio_receiver", "tapio_processor", "tapio_exporter"];
    let filter =
        own.iter().fold(others.to_owned(), |filter, target| format!("{filter},{target}={level}"));
    EnvFilter::new(filter)
}

impl Shape {
    fn new(config: &Logs) -> Result<Self, String> {
        let output = |path: &String| {
            match path.as_str() {
            "stderr" => Ok(Output::Stderr),
            "stdout" => Ok(Output::Stdout),
            path => File::options()
                .create(true)
                .append(true)
                .open(path.strip_prefix("file://").unwrap_or(path))
                .map(Output::File)
                .map_err(|error| format!("service::telemetry::logs::output_paths: {path}: {error}; use stderr, stdout or a file that can be written")),
        }
        };
        Ok(Shape {
            encoding: config.encoding,
            caller: !config.disable_caller,
            initial: config.initial_fields.clone(),
            sampler: config.sampling.as_ref().filter(|sampling| sampling.enabled).map(Sampler::new),
            outputs: config.output_paths.iter().map(output).collect::<Result<_, _>>()?,
        })
    }
}

/// Writes each line to all outputs. One that cannot be written must not stop the others, nor the hop.
struct Outputs(Shared);

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = &'a Outputs;

    fn make_writer(&'a self) -> &'a Outputs {
        self
    }
}

impl Write for &Outputs {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for output in &self.0.read().unwrap_or_else(PoisonError::into_inner).outputs {
            let _ = match output {
                Output::Stderr => io::stderr().write_all(line),
                Output::Stdout => io::stdout().write_all(line),
                Output::File(file) => (&*file).write_all(line),
            };
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Format(Shared);

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
        let shape = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let place = std::ptr::from_ref(event.metadata()) as usize;
        // Lines that each name another thing are not the same again; what the `debug` exporter prints is sampled
        // there.
        let counted =
            ![DEBUG_TARGET, tapio_exporter::SET_ASIDE].contains(&event.metadata().target());
        let sampler = shape.sampler.as_ref().filter(|_| counted);
        if sampler.is_some_and(|sampler| !sampler.takes(place, Instant::now())) {
            return Ok(());
        }
        let mut fields = Fields::default();
        for (name, value) in &shape.initial {
            fields.rest.insert(name.clone(), value.as_str().into());
        }
        event.record(&mut fields);
        let millis = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_millis() as u64);
        line(
            shape.encoding,
            &mut out,
            Time::from_unix_nano(millis * 1_000_000),
            *event.metadata().level(),
            shape.caller.then(|| event.metadata().target()),
            fields,
        )
    }
}

fn line(
    encoding: Encoding,
    out: &mut dyn fmt::Write,
    time: Time,
    level: Level,
    target: Option<&str>,
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
            write!(out, "{time}\t{level}\t")?;
            if let Some(target) = target {
                write!(out, "{target}\t")?;
            }
            out.write_str(&fields.message)?;
            if !fields.rest.is_empty() {
                write!(out, "\t{}", Value::Object(fields.rest))?;
            }
            writeln!(out)
        }
        Encoding::Json => {
            let mut object = Map::new();
            object.insert("level".into(), level.into());
            object.insert("ts".into(), time.to_string().into());
            if let Some(target) = target {
                object.insert("caller".into(), target.into());
            }
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
            line(encoding, &mut out, Time(1_500_000_000), Level::INFO, Some("tapio"), fields())
                .unwrap();
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
