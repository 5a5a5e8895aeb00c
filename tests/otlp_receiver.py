"""An OTLP/HTTP receiver, like Phoenix or a collector, that accepts or rejects spans according to a rule."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentlightning.http.server import GracefulServer
from tests.processes import TIMEOUT, free_port

Answer = tuple[int, bytes]
Rule = Callable[[list[Span]], Answer]


class Receiver:
    """A context manager that runs the receiver. `spans` are the accepted ones, in order of arrival."""

    def __init__(self, rule: Rule | None = None, port: int | None = None) -> None:
        self.rule = rule or (lambda spans: accepted())
        self.port = port or free_port()
        self.spans: list[Span] = []
        self.resources: list[Resource] = []
        self.headers: list[dict[str, str]] = []
        self.rejections = 0
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        """The URL without a path, as users write it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def names(self) -> list[str]:
        """The names of the accepted spans."""
        return [span.name for span in self.spans]

    def wait_until(self, condition: Callable[[Receiver], bool]) -> None:
        """Wait until the condition is true; fail after a timeout."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), TIMEOUT), f"the receiver has {self.names}"

    def wait_for(self, count: int) -> None:
        """Wait until `count` spans are accepted."""
        self.wait_until(lambda receiver: len(receiver.spans) >= count)

    def __enter__(self) -> Receiver:
        listener = socket.create_server(("127.0.0.1", self.port))
        self._server = GracefulServer(self._endpoint, drain_seconds=1)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.request_stop()
        self._thread.join()

    async def _endpoint(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        status, answer = self._process(scope["path"], {k.decode(): v.decode() for k, v in scope["headers"]}, body)
        media_type = [(b"content-type", b"application/x-protobuf")]
        await send({"type": "http.response.start", "status": status, "headers": media_type})
        await send({"type": "http.response.body", "body": answer})

    def _process(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if path != "/v1/traces" or headers["content-type"] != "application/x-protobuf":
            return 404, b""
        content = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        groups = ExportTraceServiceRequest.FromString(content).resource_spans
        spans = [span for group in groups for scope in group.scope_spans for span in scope.spans]
        status, answer = self.rule(spans)
        with self._changed:
            self.headers.append(headers)
            if status == 200:
                self.resources.extend(group.resource for group in groups)
                self.spans.extend(spans)
            else:
                self.rejections += 1
            self._changed.notify_all()
        return status, answer


def accepted(rejected: int = 0, reason: str = "") -> Answer:
    """Return the answer to a request whose spans are accepted, except for `rejected` of them."""
    answer = ExportTraceServiceResponse()
    if rejected:
        answer.partial_success.rejected_spans = rejected
        answer.partial_success.error_message = reason
    return 200, answer.SerializeToString()
