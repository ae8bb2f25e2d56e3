//! Kubernetes facts out of OTLP.
