"""Folders for unsent spans: a user without a home directory has one too, and can run everything."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.processes import Program

USER = 54321
"""A user id that is not in the password database."""

SCRIPT = """
import os, sys
import agentlightning as agl
from agentlightning.tracer.disk_buffer import DiskBuffer, buffer_folder

agl.setup_logging("WARNING")
folder = buffer_folder(agl.LightningStoreClient("http://store:4747"))
DiskBuffer(folder).append(b"a line")
print("Buffered in", folder, flush=True)
if "fit" in sys.argv:
    print(agl.Trainer(run_dir="run", progress=False).fit(lambda task: 0.5, [1]).counts)
"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become a user without a home"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which every user can create files."""
    tmp_path.chmod(0o1777)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def run_as_user(folder: Path, *arguments: str, home: str | None) -> Program:
    """Run the script as a user who can read every file, and can write only what every user can."""
    identity = f"setpriv --reuid {USER} --regid {USER} --clear-groups".split()
    capability = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    variables = ["-u", "AGL_SPOOL_DIR", "-u", "XDG_STATE_HOME", "-u", "HOME", f"TMPDIR={folder}"]
    wrapper = [*identity, *capability, "env", *variables, *([f"HOME={home}"] if home else [])]
    with Program(folder / "script.py", *arguments, cwd=folder, wrapper=wrapper) as program:
        assert program.wait() == 0, program.output
    return program


@pytest.mark.parametrize(
    ("home", "reason"), [(None, "the user has no home directory"), ("/nonexistent", "/ is not writable")]
)
def test_user_without_home_gets_private_temporary_folder(folder: Path, home: str | None, reason: str) -> None:
    program = run_as_user(folder, home=home)

    private = folder / f"agentlightning-{USER}"
    program.wait_for_line(f"^Buffered in {private}/http-store-4747-")
    warning = f"Unsent spans are buffered in {private}, because {reason}. To choose another folder, set AGL_SPOOL_DIR."
    program.wait_for_line(warning)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_temporary_folder_of_another_user_is_not_used(folder: Path) -> None:
    (folder / f"agentlightning-{USER}").mkdir(mode=0o777)

    program = run_as_user(folder, home=None)

    program.wait_for_line("^Buffered in None")
    program.wait_for_line("buffered in a temporary file, which is lost if this process is killed, because")


def test_user_without_home_runs_a_trainer(folder: Path) -> None:
    program = run_as_user(folder, "fit", home=None)

    program.wait_for_line(r"^\{'succeeded': 1\}")
