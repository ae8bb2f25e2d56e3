//! Metrics and their data points.

use super::{Attributes, next_nested, text};
use crate::wire::{Fields, Value, WireError, read_varint, unzigzag};

/// The kind of a metric's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// No data.
    None,
    /// A value now.
    Gauge,
    /// A sum since a start.
    Sum,
    /// Explicit buckets.
    Histogram,
    /// Exponential buckets.
    ExponentialHistogram,
    /// Quantiles (legacy).
    Summary,
}

impl MetricKind {
    /// The name of the field in OTLP: `gauge`, `sum`, `exponential_histogram`...
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::None => "",
            MetricKind::Gauge => "gauge",
            MetricKind::Sum => "sum",
            MetricKind::Histogram => "histogram",
            MetricKind::ExponentialHistogram => "exponential_histogram",
            MetricKind::Summary => "summary",
        }
    }
}

/// A `Metric`: data points under one name.
#[derive(Clone, Copy, Debug)]
pub struct MetricView<'a> {
    /// The name.
    pub name: &'a str,
    /// What it means.
    pub description: &'a str,
    /// UCUM unit.
    pub unit: &'a str,
    /// What the data points are.
    pub kind: MetricKind,
    /// Does the sum never fall?
    pub is_monotonic: bool,
    /// `AggregationTemporality`: 0 unspecified, 1 delta, 2 cumulative.
    pub temporality: i32,
    fields: Fields<'a>,
    data: Fields<'a>,
}

impl<'a> MetricView<'a> {
    pub(crate) fn new(fields: Fields<'a>) -> Result<Self, WireError> {
        let mut metric = MetricView {
            name: "",
            description: "",
            unit: "",
            kind: MetricKind::None,
            is_monotonic: false,
            temporality: 0,
            fields,
            data: Fields::new(&[]),
        };
        let mut rest = fields;
        while let Some(field) = rest.next_field()? {
            let Value::Len(bytes) = field.value else { continue };
            let kind = match field.number {
                1 => {
                    metric.name = text(&field, bytes, "name")?;
                    continue;
                }
                2 => {
                    metric.description = text(&field, bytes, "description")?;
                    continue;
                }
                3 => {
                    metric.unit = text(&field, bytes, "unit")?;
                    continue;
                }
                5 => MetricKind::Gauge,
                7 => MetricKind::Sum,
                9 => MetricKind::Histogram,
                10 => MetricKind::ExponentialHistogram,
                11 => MetricKind::Summary,
                _ => continue,
            };
            (metric.kind, metric.data) = (kind, rest.nested(&field));
        }
        if matches!(
            metric.kind,
            MetricKind::Sum | MetricKind::Histogram | MetricKind::ExponentialHistogram
        ) {
            for field in metric.data {
                let field = field?;
                match (field.number, field.value) {
                    (2, Value::Varint(value)) => metric.temporality = value as i32,
                    (3, Value::Varint(value)) => metric.is_monotonic = value != 0,
                    _ => {}
                }
            }
        }
        Ok(metric)
    }

    /// The data points in their order.
    pub fn points(&self) -> Points<'a> {
        Points { kind: self.kind, fields: self.data }
    }

    /// Attributes of the metric itself.
    pub fn metadata(&self) -> Attributes<'a> {
        Attributes::new(self.fields, 12)
    }
}

/// Iterator over the data points of a metric.
#[derive(Clone, Debug)]
pub struct Points<'a> {
    kind: MetricKind,
    fields: Fields<'a>,
}

impl<'a> Iterator for Points<'a> {
    type Item = Result<PointView<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let kind = self.kind;
        next_nested(&mut self.fields, 1).map(|fields| fields.and_then(|f| PointView::new(kind, f)))
    }
}

/// A data point of any kind. Times are nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct PointView<'a> {
    /// When.
    pub time_unix_nano: u64,
    /// Since when, for sums and histograms; 0 for unknown.
    pub start_time_unix_nano: u64,
    /// Bit 0: no recorded value.
    pub flags: u32,
    /// What was measured.
    pub value: PointValue<'a>,
    attributes: Attributes<'a>,
}

/// What a data point measured.
#[derive(Clone, Copy, Debug)]
pub enum PointValue<'a> {
    /// Nothing.
    None,
    /// `as_int`
    Int(i64),
    /// `as_double`
    Double(f64),
    /// `HistogramDataPoint`
    Histogram(HistogramView<'a>),
    /// `ExponentialHistogramDataPoint`
    ExponentialHistogram(ExponentialHistogramView<'a>),
    /// `SummaryDataPoint`
    Summary(SummaryView<'a>),
}

impl PointValue<'_> {
    /// The number of a gauge or a sum.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            PointValue::Int(value) => Some(value as f64),
            PointValue::Double(value) => Some(value),
            _ => None,
        }
    }
}

/// Explicit buckets.
#[derive(Clone, Copy, Debug, Default)]
pub struct HistogramView<'a> {
    /// Number of values.
    pub count: u64,
    /// Their sum, if the sender told.
    pub sum: Option<f64>,
    /// The least value.
    pub min: Option<f64>,
    /// The largest value.
    pub max: Option<f64>,
    fields: Fields<'a>,
}

impl<'a> HistogramView<'a> {
    /// Values in each bucket; one more than there are bounds, or none.
    pub fn bucket_counts(&self) -> impl Iterator<Item = u64> + use<'a> {
        Numbers::new(self.fields, 6)
    }

    /// Upper bounds of the buckets but the last, inclusive.
    pub fn explicit_bounds(&self) -> impl Iterator<Item = f64> + use<'a> {
        Numbers::new(self.fields, 7).map(f64::from_bits)
    }
}

/// Exponential buckets: base `2^(2^-scale)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExponentialHistogramView<'a> {
    /// Number of values.
    pub count: u64,
    /// Their sum, if the sender told.
    pub sum: Option<f64>,
    /// The least value.
    pub min: Option<f64>,
    /// The largest value.
    pub max: Option<f64>,
    /// The resolution.
    pub scale: i32,
    /// Values that count as zero.
    pub zero_count: u64,
    /// How far from zero they may be.
    pub zero_threshold: f64,
    /// Buckets above zero.
    pub positive: BucketsView<'a>,
    /// Buckets below zero.
    pub negative: BucketsView<'a>,
}

/// A run of exponential buckets.
#[derive(Clone, Copy, Debug, Default)]
pub struct BucketsView<'a> {
    /// Index of the first bucket.
    pub offset: i32,
    fields: Fields<'a>,
}

impl<'a> BucketsView<'a> {
    fn new(fields: Fields<'a>) -> Result<Self, WireError> {
        let mut buckets = BucketsView { offset: 0, fields };
        for field in fields {
            let field = field?;
            if let (1, Value::Varint(offset)) = (field.number, field.value) {
                buckets.offset = unzigzag(offset);
            }
        }
        Ok(buckets)
    }

    /// Values in each bucket.
    pub fn bucket_counts(&self) -> impl Iterator<Item = u64> + use<'a> {
        Numbers::new(self.fields, 2)
    }
}

/// Quantiles computed by the sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct SummaryView<'a> {
    /// Number of values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    fields: Fields<'a>,
}

impl<'a> SummaryView<'a> {
    /// The quantiles.
    pub fn quantiles(&self) -> Quantiles<'a> {
        Quantiles { fields: self.fields }
    }
}

/// A quantile of a summary.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quantile {
    /// 0 to 1.
    pub quantile: f64,
    /// The value at it.
    pub value: f64,
}

/// Iterator over the quantiles of a summary.
#[derive(Clone, Debug)]
pub struct Quantiles<'a> {
    fields: Fields<'a>,
}

impl Iterator for Quantiles<'_> {
    type Item = Result<Quantile, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let fields = match next_nested(&mut self.fields, 6)? {
            Ok(fields) => fields,
            Err(error) => return Some(Err(error)),
        };
        let mut quantile = Quantile::default();
        for field in fields {
            match field {
                Err(error) => return Some(Err(error)),
                Ok(field) => match (field.number, field.value) {
                    (1, Value::Fixed64(bits)) => quantile.quantile = f64::from_bits(bits),
                    (2, Value::Fixed64(bits)) => quantile.value = f64::from_bits(bits),
                    _ => {}
                },
            }
        }
        Some(Ok(quantile))
    }
}

impl<'a> PointView<'a> {
    fn new(kind: MetricKind, fields: Fields<'a>) -> Result<Self, WireError> {
        // The field numbers differ by kind; times are the same in all.
        let (attributes, flags) = match kind {
            MetricKind::Histogram => (9, 10),
            MetricKind::ExponentialHistogram => (1, 10),
            _ => (7, 8),
        };
        let mut point = PointView {
            time_unix_nano: 0,
            start_time_unix_nano: 0,
            flags: 0,
            value: match kind {
                MetricKind::Histogram => {
                    PointValue::Histogram(HistogramView { fields, ..Default::default() })
                }
                MetricKind::ExponentialHistogram => {
                    PointValue::ExponentialHistogram(Default::default())
                }
                MetricKind::Summary => {
                    PointValue::Summary(SummaryView { fields, ..Default::default() })
                }
                _ => PointValue::None,
            },
            attributes: Attributes::new(fields, attributes),
        };
        let mut rest = fields;
        while let Some(field) = rest.next_field()? {
            match (field.number, field.value) {
                (2, Value::Fixed64(time)) => point.start_time_unix_nano = time,
                (3, Value::Fixed64(time)) => point.time_unix_nano = time,
                (number, Value::Varint(value)) if number == flags => point.flags = value as u32,
                (number, value) => match &mut point.value {
                    PointValue::Histogram(histogram) => histogram.take(number, value),
                    PointValue::ExponentialHistogram(histogram) => match (number, value) {
                        (8, Value::Len(_)) => {
                            histogram.positive = BucketsView::new(rest.nested(&field))?
                        }
                        (9, Value::Len(_)) => {
                            histogram.negative = BucketsView::new(rest.nested(&field))?
                        }
                        _ => histogram.take(number, value),
                    },
                    PointValue::Summary(summary) => match (number, value) {
                        (4, Value::Fixed64(count)) => summary.count = count,
                        (5, Value::Fixed64(bits)) => summary.sum = f64::from_bits(bits),
                        _ => {}
                    },
                    number_value => match (number, value) {
                        (4, Value::Fixed64(bits)) => {
                            *number_value = PointValue::Double(f64::from_bits(bits))
                        }
                        (6, Value::Fixed64(bits)) => *number_value = PointValue::Int(bits as i64),
                        _ => {}
                    },
                },
            }
        }
        Ok(point)
    }

    /// The attributes in their order, duplicates included.
    pub fn attributes(&self) -> Attributes<'a> {
        self.attributes
    }
}

impl HistogramView<'_> {
    fn take(&mut self, number: u32, value: Value<'_>) {
        match (number, value) {
            (4, Value::Fixed64(count)) => self.count = count,
            (5, Value::Fixed64(bits)) => self.sum = Some(f64::from_bits(bits)),
            (11, Value::Fixed64(bits)) => self.min = Some(f64::from_bits(bits)),
            (12, Value::Fixed64(bits)) => self.max = Some(f64::from_bits(bits)),
            _ => {}
        }
    }
}

impl ExponentialHistogramView<'_> {
    fn take(&mut self, number: u32, value: Value<'_>) {
        match (number, value) {
            (4, Value::Fixed64(count)) => self.count = count,
            (5, Value::Fixed64(bits)) => self.sum = Some(f64::from_bits(bits)),
            (6, Value::Varint(scale)) => self.scale = unzigzag(scale),
            (7, Value::Fixed64(count)) => self.zero_count = count,
            (12, Value::Fixed64(bits)) => self.min = Some(f64::from_bits(bits)),
            (13, Value::Fixed64(bits)) => self.max = Some(f64::from_bits(bits)),
            (14, Value::Fixed64(bits)) => self.zero_threshold = f64::from_bits(bits),
            _ => {}
        }
    }
}

/// Iterator over a repeated number, packed or not: the bits of 64-bit numbers, or varints.
///
/// It ends where the bytes are broken, which [`check`](crate::check()) excludes.
#[derive(Clone, Debug)]
pub struct Numbers<'a> {
    fields: Fields<'a>,
    number: u32,
    packed: &'a [u8],
    fixed: bool,
}

impl<'a> Numbers<'a> {
    fn new(fields: Fields<'a>, number: u32) -> Self {
        // In OTLP only the buckets of exponential histograms (field 2) are varints.
        Numbers { fields, number, packed: &[], fixed: number != 2 }
    }
}

impl Iterator for Numbers<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        loop {
            if !self.packed.is_empty() {
                if self.fixed {
                    let (bits, rest) = self.packed.split_first_chunk::<8>()?;
                    self.packed = rest;
                    return Some(u64::from_le_bytes(*bits));
                }
                let (value, len) = read_varint(self.packed).ok()?;
                self.packed = &self.packed[len..];
                return Some(value);
            }
            let field = self.fields.next()?.ok()?;
            match field.value {
                _ if field.number != self.number => {}
                Value::Len(packed) => self.packed = packed,
                Value::Fixed64(value) | Value::Varint(value) => return Some(value),
                _ => {}
            }
        }
    }
}
