"""For all tests: how thoroughly Hypothesis looks. `pytest --hypothesis-profile=long` looks for an hour or so."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fast",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=200,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("long", settings.get_profile("fast"), derandomize=False, max_examples=20_000)
settings.load_profile("fast")
