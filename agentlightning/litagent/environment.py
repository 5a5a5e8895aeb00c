"""Environment variables of a program that runs as an agent. It gets these and no others."""

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

INHERITED: Final = (
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
"""Variables of the runner that every program inherits."""


def environment_for(
    rollout: AttemptedRollout, resources: NamedResources, additional: Iterable[str] | Mapping[str, str] = ()
) -> dict[str, str]:
    """Return the complete environment of a program that runs this attempt.

    `additional` holds names of variables to inherit, or variables with their values.
    """
    trace = _trace_variables()
    return {
        **_inherit(INHERITED),
        "PATH": f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{Path(sys.executable).parent}",
        **_model_variables(rollout, resources, trace.get("TRACEPARENT")),
        **trace,
        **_store_variables(rollout),
        "AGL_ROLLOUT_ID": rollout.rollout_id,
        "AGL_ATTEMPT_ID": rollout.attempt.attempt_id,
        **(additional if isinstance(additional, Mapping) else _inherit(additional)),
    }


def _inherit(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _model_variables(rollout: AttemptedRollout, resources: NamedResources, traceparent: str | None) -> dict[str, str]:
    """Return the variables for the first model among the resources.

    Behind a proxy its URL names the attempt, and the span within which the program runs: few programs send a
    traceparent themselves.
    """
    llm = next((resource for resource in resources.values() if isinstance(resource, LLM)), None)
    if llm is None:
        return {}
    if isinstance(llm, ProxyLLM):
        llm = llm.with_attempted_rollout(rollout, traceparent)
    key = llm.api_key or "none"  # the SDKs require a key
    return {
        "OPENAI_BASE_URL": llm.endpoint,
        "OPENAI_API_KEY": key,
        # Anthropic's SDKs append /v1 themselves.
        "ANTHROPIC_BASE_URL": llm.endpoint.rstrip("/").removesuffix("/v1"),
        "ANTHROPIC_API_KEY": key,
        "AGL_MODEL": llm.model,
    }


def _trace_variables() -> dict[str, str]:
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    W3CBaggagePropagator().inject(headers)
    return {name.upper(): value for name, value in headers.items()}


def _store_variables(rollout: AttemptedRollout) -> dict[str, str]:
    """Return the variables for the store and its OTLP receiver, if another process can reach it."""
    scope = current_scope()
    store: Any = scope.store if scope else None
    traces_url = store.otlp_traces_endpoint() if store else None
    if traces_url is None:
        return {}
    url = traces_url.removesuffix("/v1/traces")
    ids = {ROLLOUT_ID: rollout.rollout_id, ATTEMPT_ID: rollout.attempt.attempt_id}
    variables = {
        "AGL_STORE_URL": url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{name}={quote(value, safe='')}" for name, value in ids.items()),
    }
    make_token = getattr(store, "attempt_token", None)
    token = make_token(rollout.rollout_id, rollout.attempt.attempt_id) if make_token else None
    if token is None:
        return variables
    return variables | {"AGL_TOKEN": token, "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{token}"}
