"""What a program that is an agent finds in its environment, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..semconv import ATTEMPT_ID, ROLLOUT_ID
from ..tracer.scope import current_scope
from ..types import LLM, AttemptedRollout, NamedResources, ProxyLLM

PASSED_ON: Final = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "NODE_EXTRA_CA_CERTS",
    "NODE_PATH",
    "PATH",
    "PYTHONPATH",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
)
"""Variables of ours that every program gets."""


def environment_for(
    rollout: AttemptedRollout, resources: NamedResources, more: Iterable[str] | Mapping[str, str] = ()
) -> dict[str, str]:
    """The whole environment of a program that carries out this attempt."""
    trace = _trace()
    return {
        **_of_ours(PASSED_ON),
        "PATH": f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{Path(sys.executable).parent}",
        **_model(rollout, resources, trace.get("TRACEPARENT")),
        **trace,
        **_store(rollout),
        "AGL_ROLLOUT_ID": rollout.rollout_id,
        "AGL_ATTEMPT_ID": rollout.attempt.attempt_id,
        **(more if isinstance(more, Mapping) else _of_ours(more)),
    }


def _of_ours(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _model(rollout: AttemptedRollout, resources: NamedResources, traceparent: str | None) -> dict[str, str]:
    """Where the first model among the resources is: behind a proxy, at this attempt's own address.

    The address says within which span the program runs, since few programs send that along.
    """
    llm = next((resource for resource in resources.values() if isinstance(resource, LLM)), None)
    if llm is None:
        return {}
    if isinstance(llm, ProxyLLM):
        llm = llm.with_attempted_rollout(rollout, traceparent)
    key = llm.api_key or "none"  # the SDKs refuse to begin without one
    return {
        "OPENAI_BASE_URL": llm.endpoint,
        "OPENAI_API_KEY": key,
        # Anthropic's SDKs add /v1 themselves.
        "ANTHROPIC_BASE_URL": llm.endpoint.rstrip("/").removesuffix("/v1"),
        "ANTHROPIC_API_KEY": key,
        "AGL_MODEL": llm.model,
    }


def _trace() -> dict[str, str]:
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    W3CBaggagePropagator().inject(carrier)
    return {name.upper(): value for name, value in carrier.items()}


def _store(rollout: AttemptedRollout) -> dict[str, str]:
    """Where spans and the store are, where they can be reached from another process."""
    scope = current_scope()
    store: Any = scope.store if scope else None
    traces = store.otlp_traces_endpoint() if store else None
    if traces is None:
        return {}
    url = traces.removesuffix("/v1/traces")
    ids = {ROLLOUT_ID: rollout.rollout_id, ATTEMPT_ID: rollout.attempt.attempt_id}
    return {
        "AGL_STORE_URL": url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{name}={quote(value, safe='')}" for name, value in ids.items()),
        **_token(_attempt_token(store, rollout)),
    }


def _attempt_token(store: Any, rollout: AttemptedRollout) -> str | None:
    make = getattr(store, "attempt_token", None)
    return make(rollout.rollout_id, rollout.attempt.attempt_id) if make else None


def _token(token: str | None) -> dict[str, str]:
    if token is None:
        return {}
    return {"AGL_TOKEN": token, "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{token}"}
