"""OpenTelemetry's OTLP/HTTP: receive spans, and export them to other backends."""
