"""Run `agl` as `python -m agentlightning.cli`."""

from . import main

main(prog_name="agl")
