//! Borrowed views over the bytes of a request: resource, scope, record. Nothing is decoded into
//! structs that own anything; attributes are read when they are asked for.
//!
//! ```
//! use tapio_proto::{Signal, view::{Record, RequestView}};
//! # fn main() -> Result<(), tapio_proto::WireError> {
//! # let bytes = [];
//! for resource in RequestView::new(Signal::Traces, &bytes).resources() {
//!     let resource = resource?;
//!     for scope in resource.scopes() {
//!         for record in scope?.records() {
//!             if let Record::Span(span) = record? {
//!                 println!("{}", span.name);
//!             }
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Iterators end after an error. In bytes that passed [`check`](crate::check()) there is none, so
//! `flatten()` loses nothing. Of a scalar that comes twice the last one counts, as protobuf says; of a
//! resource or a scope that comes twice in one group (nobody sends that) the first.

mod log;
mod metric;
mod span;
mod value;

pub use log::LogView;
pub use metric::{
    BucketsView, ExponentialHistogramView, HistogramView, MetricKind, MetricView, Numbers,
    PointValue, PointView, Points, Quantile, Quantiles, SummaryView,
};
pub use span::{EventView, Events, LinkView, Links, SpanView};
pub(crate) use value::raw;
pub use value::{AnyValue, ArrayView, Attributes, KeyValue, Values};

use crate::{
    signal::Signal,
    wire::{Fault, Field, Fields, Value, WireError},
};

/// A whole request.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    signal: Signal,
    fields: Fields<'a>,
}

impl<'a> RequestView<'a> {
    /// Views `bytes`, an `Export<Signal>ServiceRequest`.
    pub fn new(signal: Signal, bytes: &'a [u8]) -> Self {
        RequestView { signal, fields: Fields::new(bytes) }
    }

    /// The `Resource<Signal>` groups in their order; none of profiles, which are opaque.
    pub fn resources(&self) -> Groups<'a> {
        let fields = if self.signal == Signal::Profiles { Fields::default() } else { self.fields };
        Groups { signal: self.signal, fields }
    }
}

/// Iterator over the resource groups of a request.
#[derive(Clone, Debug)]
pub struct Groups<'a> {
    signal: Signal,
    fields: Fields<'a>,
}

impl<'a> Iterator for Groups<'a> {
    type Item = Result<ResourceGroup<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        next_nested(&mut self.fields, 1)
            .map(|fields| fields.and_then(|fields| ResourceGroup::new(self.signal, fields)))
    }
}

/// `ResourceSpans`, `ResourceMetrics`, `ResourceLogs`: a resource and what came from it.
#[derive(Clone, Copy, Debug)]
pub struct ResourceGroup<'a> {
    signal: Signal,
    fields: Fields<'a>,
    resource: ResourceView<'a>,
}

impl<'a> ResourceGroup<'a> {
    pub(crate) fn new(signal: Signal, fields: Fields<'a>) -> Result<Self, WireError> {
        let resource = ResourceView { fields: first_nested(fields, 1)? };
        Ok(ResourceGroup { signal, fields, resource })
    }

    /// The resource; one without attributes if the group has none.
    pub fn resource(&self) -> ResourceView<'a> {
        self.resource
    }

    /// The `Scope<Signal>` groups in their order.
    pub fn scopes(&self) -> Scopes<'a> {
        Scopes { signal: self.signal, fields: self.fields }
    }

    /// The schema URL of the resource.
    pub fn schema_url(&self) -> Result<&'a str, WireError> {
        last_text(self.fields, 3, "schemaUrl")
    }
}

/// Where telemetry comes from.
#[derive(Clone, Copy, Debug)]
pub struct ResourceView<'a> {
    fields: Fields<'a>,
}

impl<'a> ResourceView<'a> {
    /// The attributes in their order, duplicates included.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.fields, 1)
    }

    /// The first attribute with this key.
    pub fn attribute(&self, key: &str) -> Option<AnyValue<'a>> {
        self.attributes().flatten().find(|attribute| attribute.key == key).map(|a| a.value)
    }

    /// How many attributes the sender left out.
    pub fn dropped_attributes_count(&self) -> u32 {
        last_varint(self.fields, 2) as u32
    }

    /// The serialized `Resource`: equal bytes are the same resource.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.fields.rest()
    }
}

/// Iterator over the scope groups of a resource.
#[derive(Clone, Debug)]
pub struct Scopes<'a> {
    signal: Signal,
    fields: Fields<'a>,
}

impl<'a> Iterator for Scopes<'a> {
    type Item = Result<ScopeGroup<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        next_nested(&mut self.fields, 2)
            .map(|fields| fields.and_then(|fields| ScopeGroup::new(self.signal, fields)))
    }
}

/// `ScopeSpans`, `ScopeMetrics`, `ScopeLogs`: an instrumentation scope and its records.
#[derive(Clone, Copy, Debug)]
pub struct ScopeGroup<'a> {
    signal: Signal,
    fields: Fields<'a>,
    scope: Fields<'a>,
    name: &'a str,
    version: &'a str,
}

impl<'a> ScopeGroup<'a> {
    pub(crate) fn new(signal: Signal, fields: Fields<'a>) -> Result<Self, WireError> {
        let scope = first_nested(fields, 1)?;
        let name = last_text(scope, 1, "name")?;
        let version = last_text(scope, 2, "version")?;
        Ok(ScopeGroup { signal, fields, scope, name, version })
    }

    /// The name of the scope; empty if there is no scope.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The version of the scope.
    pub fn version(&self) -> &'a str {
        self.version
    }

    /// The attributes of the scope.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.scope, 3)
    }

    /// The schema URL of the records.
    pub fn schema_url(&self) -> Result<&'a str, WireError> {
        last_text(self.fields, 3, "schemaUrl")
    }

    /// The spans, log records or metrics in their order; nothing for profiles.
    pub fn records(&self) -> Records<'a> {
        Records { signal: self.signal, fields: self.fields }
    }
}

/// Iterator over the records of a scope.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    signal: Signal,
    fields: Fields<'a>,
}

/// A span, a log record or a metric.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// `Span`
    Span(SpanView<'a>),
    /// `LogRecord`
    Log(LogView<'a>),
    /// `Metric`
    Metric(MetricView<'a>),
}

impl<'a> Record<'a> {
    /// Views the message in `fields`; `None` for profiles.
    #[inline(always)]
    pub(crate) fn new(signal: Signal, fields: Fields<'a>) -> Result<Option<Self>, WireError> {
        Ok(Some(match signal {
            Signal::Traces => Record::Span(SpanView::new(fields)?),
            Signal::Logs => Record::Log(LogView::new(fields)?),
            Signal::Metrics => Record::Metric(MetricView::new(fields)?),
            Signal::Profiles => return Ok(None),
        }))
    }
}

impl<'a> Records<'a> {
    /// The next span that can be read, of a trace that is wanted; of the others no more than the trace id is
    /// looked at. `None` at the end, and where the records are no spans.
    #[inline]
    pub fn next_span(&mut self, mut wanted: impl FnMut(&[u8]) -> bool) -> Option<SpanView<'a>> {
        while self.signal == Signal::Traces {
            let Ok(fields) = next_nested(&mut self.fields, 2)? else { continue };
            // As every SDK writes it: the trace id first.
            let trace_id = match fields.rest() {
                [0x0a, 16, rest @ ..] => rest.get(..16),
                _ => None,
            };
            if trace_id.is_some_and(|trace_id| !wanted(trace_id)) {
                continue;
            }
            let Ok(span) = SpanView::new(fields) else { continue };
            if trace_id.is_some() || wanted(span.trace_id) {
                return Some(span);
            }
        }
        None
    }
}

impl Records<'_> {
    /// Passes the next log record over if its severity number is told, where every SDK tells it, and is below
    /// `least`; whether it was. Nothing else of it is looked at.
    #[inline]
    pub fn pass_below(&mut self, least: u8) -> bool {
        let mut fields = self.fields;
        let Some(Ok(record)) = next_nested(&mut fields, 2) else { return false };
        let told = match record.rest() {
            [0x09, rest @ ..] => rest.get(8..10),
            _ => None,
        };
        let passes = self.signal == Signal::Logs
            && matches!(told, Some([0x10, severity]) if (1..least.min(0x80)).contains(severity));
        if passes {
            self.fields = fields;
        }
        passes
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, WireError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let record = next_nested(&mut self.fields, 2)?;
        record.and_then(|fields| Record::new(self.signal, fields)).transpose()
    }
}

/// The next message in the field `number`.
#[inline(always)]
fn next_nested<'a>(fields: &mut Fields<'a>, number: u32) -> Option<Result<Fields<'a>, WireError>> {
    loop {
        match fields.next_field() {
            Ok(Some(field)) if field.number == number && matches!(field.value, Value::Len(_)) => {
                return Some(Ok(fields.nested(&field)));
            }
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(error) => return Some(Err(error)),
        }
    }
}

/// The first message in the field `number`, or an empty one.
fn first_nested<'a>(mut fields: Fields<'a>, number: u32) -> Result<Fields<'a>, WireError> {
    next_nested(&mut fields, number).unwrap_or(Ok(Fields::new(&[])))
}

fn last_text<'a>(
    fields: Fields<'a>,
    number: u32,
    name: &'static str,
) -> Result<&'a str, WireError> {
    let mut last = "";
    for field in fields {
        let field = field?;
        if let (true, Value::Len(bytes)) = (field.number == number, field.value) {
            last = text(&field, bytes, name)?;
        }
    }
    Ok(last)
}

fn last_varint(fields: Fields<'_>, number: u32) -> u64 {
    let varints = fields.flatten().filter(|field| field.number == number);
    varints
        .filter_map(|field| if let Value::Varint(v) = field.value { Some(v) } else { None })
        .last()
        .unwrap_or(0)
}

#[inline]
fn text<'a>(field: &Field<'a>, bytes: &'a [u8], name: &'static str) -> Result<&'a str, WireError> {
    std::str::from_utf8(bytes)
        .map_err(|_| WireError { offset: field.body, what: Fault::Utf8(name) })
}
