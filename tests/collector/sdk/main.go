// A sender made with the OpenTelemetry SDK for Go: 50 spans, 50 log records and a counter, once.
// Usage: sdk grpc|http HOST:PORT gzip|none
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otellog "go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const items = 50

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3] == "gzip"); err != nil {
		log.Fatal(err)
	}
}

func run(protocol, endpoint string, gzip bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	spans, metrics, logs, err := exporters(ctx, protocol, endpoint, gzip)
	if err != nil {
		return err
	}
	res := resource.NewSchemaless(attribute.String("service.name", "sdk-go"))
	tracing := sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans), sdktrace.WithResource(res))
	metering := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewPeriodicReader(metrics)), sdkmetric.WithResource(res))
	logging := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewBatchProcessor(logs)), sdklog.WithResource(res))
	counter, err := metering.Meter("sdk").Int64Counter("sdk.counter")
	if err != nil {
		return err
	}
	for i := range items {
		name := fmt.Sprintf("sdk-span-%02d", i)
		_, span := tracing.Tracer("sdk").Start(ctx, name)
		span.SetAttributes(attribute.Int("number", i), attribute.StringSlice("list", []string{"a", "b"}))
		span.AddEvent("event")
		span.End()
		var record otellog.Record
		record.SetTimestamp(time.Now())
		record.SetSeverity(otellog.SeverityWarn)
		record.SetBody(otellog.StringValue(fmt.Sprintf("sdk-log-%02d", i)))
		logging.Logger("sdk").Emit(ctx, record)
		counter.Add(ctx, 1)
	}
	return errors.Join(tracing.Shutdown(ctx), metering.Shutdown(ctx), logging.Shutdown(ctx))
}

func exporters(ctx context.Context, protocol, endpoint string, gzip bool) (spans sdktrace.SpanExporter, metrics sdkmetric.Exporter, logs sdklog.Exporter, err error) {
	var errs [3]error
	if protocol == "grpc" {
		to := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(endpoint), otlptracegrpc.WithInsecure()}
		me := []otlpmetricgrpc.Option{otlpmetricgrpc.WithEndpoint(endpoint), otlpmetricgrpc.WithInsecure()}
		lo := []otlploggrpc.Option{otlploggrpc.WithEndpoint(endpoint), otlploggrpc.WithInsecure()}
		if gzip {
			to = append(to, otlptracegrpc.WithCompressor("gzip"))
			me = append(me, otlpmetricgrpc.WithCompressor("gzip"))
			lo = append(lo, otlploggrpc.WithCompressor("gzip"))
		}
		spans, errs[0] = otlptracegrpc.New(ctx, to...)
		metrics, errs[1] = otlpmetricgrpc.New(ctx, me...)
		logs, errs[2] = otlploggrpc.New(ctx, lo...)
	} else {
		to := []otlptracehttp.Option{otlptracehttp.WithEndpoint(endpoint), otlptracehttp.WithInsecure()}
		me := []otlpmetrichttp.Option{otlpmetrichttp.WithEndpoint(endpoint), otlpmetrichttp.WithInsecure()}
		lo := []otlploghttp.Option{otlploghttp.WithEndpoint(endpoint), otlploghttp.WithInsecure()}
		if gzip {
			to = append(to, otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
			me = append(me, otlpmetrichttp.WithCompression(otlpmetrichttp.GzipCompression))
			lo = append(lo, otlploghttp.WithCompression(otlploghttp.GzipCompression))
		}
		spans, errs[0] = otlptracehttp.New(ctx, to...)
		metrics, errs[1] = otlpmetrichttp.New(ctx, me...)
		logs, errs[2] = otlploghttp.New(ctx, lo...)
	}
	return spans, metrics, logs, errors.Join(errs[:]...)
}
