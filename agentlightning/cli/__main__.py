"""`python -m agentlightning.cli` is `agl`."""

from . import main

main(prog_name="agl")
