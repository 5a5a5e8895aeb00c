"""OTLP/HTTP, an OpenTelemetry protocol: receive spans, and export them to other backends."""

PATH = "/v1/traces"
JSON = "application/json"
PROTOBUF = "application/x-protobuf"
