"""An OTLP/HTTP receiver on a port of its own, as Phoenix or a collector is one: takes spans, or refuses as told."""

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
    """Started and stopped with `with`; `spans` are those that it answered with 200, in the order they came."""

    def __init__(self, rule: Rule | None = None, port: int | None = None) -> None:
        self.rule = rule or (lambda spans: taken())
        self.port = port or free_port()
        self.spans: list[Span] = []
        self.resources: list[Resource] = []
        self.headers: list[dict[str, str]] = []
        self.refusals = 0
        self._more = threading.Condition()

    @property
    def url(self) -> str:
        """Without a path, as users know it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def names(self) -> list[str]:
        """Of the spans taken."""
        return [span.name for span in self.spans]

    def wait_until(self, is_so: Callable[[Receiver], bool]) -> None:
        """Return when it is; fail when it never is."""
        with self._more:
            assert self._more.wait_for(lambda: is_so(self), TIMEOUT), f"it has {self.names}"

    def wait_for(self, count: int) -> None:
        """Return when so many spans were taken."""
        self.wait_until(lambda receiver: len(receiver.spans) >= count)

    def __enter__(self) -> Receiver:
        listening = socket.create_server(("127.0.0.1", self.port))
        self._server = GracefulServer(self._take, drain_seconds=1)
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.request_stop()
        self._thread.join()

    async def _take(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        status, answer = self._judge(scope["path"], {k.decode(): v.decode() for k, v in scope["headers"]}, body)
        kind = [(b"content-type", b"application/x-protobuf")]
        await send({"type": "http.response.start", "status": status, "headers": kind})
        await send({"type": "http.response.body", "body": answer})

    def _judge(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if path != "/v1/traces" or headers["content-type"] != "application/x-protobuf":
            return 404, b""
        unpacked = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        groups = ExportTraceServiceRequest.FromString(unpacked).resource_spans
        spans = [span for group in groups for scope in group.scope_spans for span in scope.spans]
        status, answer = self.rule(spans)
        with self._more:
            self.headers.append(headers)
            if status == 200:
                self.resources.extend(group.resource for group in groups)
                self.spans.extend(spans)
            else:
                self.refusals += 1
            self._more.notify_all()
        return status, answer


def taken(rejected: int = 0, why: str = "") -> Answer:
    """The answer to a request whose spans were taken, but for some."""
    answer = ExportTraceServiceResponse()
    if rejected:
        answer.partial_success.rejected_spans = rejected
        answer.partial_success.error_message = why
    return 200, answer.SerializeToString()
