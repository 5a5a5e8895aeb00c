"""OpenTelemetry's OTLP/HTTP: receive spans, and export them to other backends."""

PATH = "/v1/traces"
JSON = "application/json"
PROTOBUF = "application/x-protobuf"
