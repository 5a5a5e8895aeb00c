"""Entry point of `python -m agentlightning.cli`, which is equivalent to `agl`."""

from . import main

main(prog_name="agl")
