"""A sender made with the OpenTelemetry SDK for Python: 50 spans, 50 log records and a counter, once.

Usage: send.py grpc|http HOST:PORT gzip|none
"""

import logging
import sys

from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

protocol, endpoint, compression = sys.argv[1:]
if protocol == "grpc":
    from grpc import Compression
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    how = Compression.Gzip if compression == "gzip" else Compression.NoCompression
    made = [
        exporter(endpoint=endpoint, insecure=True, compression=how)
        for exporter in (OTLPSpanExporter, OTLPMetricExporter, OTLPLogExporter)
    ]
else:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    how = Compression.Gzip if compression == "gzip" else Compression.NoCompression
    made = [
        exporter(endpoint=f"http://{endpoint}/v1/{signal}", compression=how)
        for exporter, signal in (
            (OTLPSpanExporter, "traces"),
            (OTLPMetricExporter, "metrics"),
            (OTLPLogExporter, "logs"),
        )
    ]

spans, metrics, logs = made
resource = Resource.create({"service.name": "sdk-python"})
tracing = TracerProvider(resource=resource)
tracing.add_span_processor(BatchSpanProcessor(spans))
metering = MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(metrics)])
logs_provider = LoggerProvider(resource=resource)
logs_provider.add_log_record_processor(BatchLogRecordProcessor(logs))
logger = logging.getLogger("sdk")
logger.addHandler(LoggingHandler(logger_provider=logs_provider))
logger.propagate = False

tracer = tracing.get_tracer("sdk")
counter = metering.get_meter("sdk").create_counter("sdk.counter")
for number in range(50):
    with tracer.start_as_current_span(f"sdk-span-{number:02}") as span:
        span.set_attribute("number", number)
        span.set_attribute("list", ["a", "b"])
        span.add_event("event")
        logger.warning("sdk-log-%02d", number)
    counter.add(1)

for provider in (tracing, metering, logs_provider):
    provider.force_flush()
    provider.shutdown()
