"""Footprint of the base install: size, dependencies, CPU of an import and of `agl --help`, memory of an idle store.

    python -m benchmarks.footprint

Installs the checkout with its base dependencies into a new environment. Writes benchmarks/results/footprint.json.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from .results import ROOT, write_result

TRIES = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        python = install(Path(folder))
        result = {
            "direct_dependencies": len(direct_dependencies()),
            "site_packages_MB": round(installed_bytes(Path(folder), with_bytecode=False) / 1e6, 1),
            "site_packages_with_bytecode_MB": round(installed_bytes(Path(folder), with_bytecode=True) / 1e6, 1),
            "import_cpu_seconds": least_cpu_seconds(python, "-c", "import agentlightning"),
            "help_cpu_seconds": least_cpu_seconds(python, "-m", "agentlightning.cli", "--help"),
            "idle_store_MB": idle_store_memory(python, Path(folder)),
        }
    print(json.dumps(result, indent=2))
    write_result("footprint", result)


def install(folder: Path) -> str:
    """Create an environment with the base install; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True)
    return python


def direct_dependencies() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def installed_bytes(folder: Path, *, with_bytecode: bool) -> int:
    """Return the size of the installed packages, without pip and setuptools, which belong to the environment."""
    packages = next((folder / "venv" / "lib").glob("python*/site-packages"))
    return sum(
        file.stat().st_size
        for file in packages.rglob("*")
        if file.is_file()
        and (with_bytecode or file.suffix != ".pyc")
        and not file.relative_to(packages).parts[0].startswith(("pip", "setuptools", "pkg_resources", "_distutils"))
    )


def least_cpu_seconds(*command: str) -> float:
    """Return the least CPU time of several tries, including the start of Python."""
    return round(min(cpu_seconds(command) for _ in range(TRIES)), 3)


def cpu_seconds(command: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def idle_store_memory(python: str, folder: Path) -> float:
    """Return the resident memory of an idle store, in MB."""
    command = [python, "-m", "agentlightning.cli", "store", "--port", "0", "--db", str(folder / "idle.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as store:
        assert store.stdout is not None
        try:
            next(line for line in store.stdout if "http://" in line)
            status = Path(f"/proc/{store.pid}/status").read_text()
            return round(int(status.partition("VmRSS:")[2].split()[0]) / 1024, 1)
        finally:
            store.terminate()


if __name__ == "__main__":
    main()
