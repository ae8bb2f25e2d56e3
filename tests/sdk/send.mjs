// A sender made with the OpenTelemetry SDK for JavaScript, whose HTTP exporters speak JSON: 50 spans, 50 log records
// and a counter, once. Usage: send.mjs grpc|http HOST:PORT gzip|none, with the modules of package.json beside it.
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BatchLogRecordProcessor, LoggerProvider } from '@opentelemetry/sdk-logs';
import { MeterProvider, PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics';
import { BasicTracerProvider, BatchSpanProcessor } from '@opentelemetry/sdk-trace-base';

const [protocol, endpoint, compression] = process.argv.slice(2);
const { OTLPTraceExporter } = await import(`@opentelemetry/exporter-trace-otlp-${protocol}`);
const { OTLPMetricExporter } = await import(`@opentelemetry/exporter-metrics-otlp-${protocol}`);
const { OTLPLogExporter } = await import(`@opentelemetry/exporter-logs-otlp-${protocol}`);

const to = signal => ({
  url: `http://${endpoint}` + (protocol === 'http' ? `/v1/${signal}` : ''),
  compression,
});
const resource = resourceFromAttributes({ 'service.name': 'sdk-js' });
const tracing = new BasicTracerProvider({
  resource,
  spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter(to('traces')))],
});
const metering = new MeterProvider({
  resource,
  readers: [new PeriodicExportingMetricReader({ exporter: new OTLPMetricExporter(to('metrics')) })],
});
const logging = new LoggerProvider({
  resource,
  processors: [new BatchLogRecordProcessor(new OTLPLogExporter(to('logs')))],
});

const counter = metering.getMeter('sdk').createCounter('sdk.counter');
for (let number = 0; number < 50; number += 1) {
  const two = String(number).padStart(2, '0');
  const span = tracing.getTracer('sdk').startSpan(`sdk-span-${two}`);
  span.setAttributes({ number, list: ['a', 'b'] });
  span.addEvent('event');
  span.end();
  logging.getLogger('sdk').emit({ severityNumber: 13, body: `sdk-log-${two}` });
  counter.add(1);
}
for (const provider of [tracing, metering, logging]) {
  await provider.forceFlush();
  await provider.shutdown();
}
