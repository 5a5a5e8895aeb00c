"""What the base install costs: size on disk, direct dependencies, CPU of an import and of `agl --help`, an idle store.

    python benchmarks/footprint.py

Installs the checkout into an environment of its own, with nothing but the base dependencies, and writes
`benchmarks/results/footprint.json`.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HOUSE = Path(__file__).parent.parent
RESULTS = HOUSE / "benchmarks" / "results" / "footprint.json"
TRIES = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        python = install(Path(folder))
        result = {
            "machine": {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()},
            "direct_dependencies": len(direct_dependencies()),
            "site_packages_MB": round(size(Path(folder), with_bytecode=False) / 1e6, 1),
            "site_packages_with_bytecode_MB": round(size(Path(folder), with_bytecode=True) / 1e6, 1),
            "import_cpu_seconds": least(python, "-c", "import agentlightning"),
            "help_cpu_seconds": least(python, "-m", "agentlightning.cli", "--help"),
            "idle_store_MB": idle_store(python, Path(folder)),
        }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def install(folder: Path) -> str:
    """An environment with the base install, and its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(HOUSE)], check=True)
    return python


def direct_dependencies() -> list[str]:
    return tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["dependencies"]


def size(folder: Path, *, with_bytecode: bool) -> int:
    """Bytes of all that the install brought; pip and setuptools came with the environment."""
    packages = next((folder / "venv" / "lib").glob("python*/site-packages"))
    return sum(
        file.stat().st_size
        for file in packages.rglob("*")
        if file.is_file()
        and (with_bytecode or file.suffix != ".pyc")
        and not file.relative_to(packages).parts[0].startswith(("pip", "setuptools", "pkg_resources", "_distutils"))
    )


def least(*command: str) -> float:
    """Seconds of CPU in the best of some tries, the start of Python included."""
    return round(min(cpu_seconds(command) for _ in range(TRIES)), 3)


def cpu_seconds(command: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def idle_store(python: str, folder: Path) -> float:
    """Resident memory of a store that has nothing to do, in MB."""
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
