"""The files of a database: one store per file by any name, private permissions, and files that disappear."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentlightning.errors import StoreInUse, StoreUnavailable
from agentlightning.store import LightningStoreServer, SqliteLightningStore
from agentlightning.store.factory import open_for_maintenance
from agentlightning.store.maintenance import backup, check_database
from agentlightning.tracer.disk_buffer import DiskBuffer
from agentlightning.trainer.run_folder import RunLog, new_folder

from ..faults.store_process import StoreProcess
from ..processes import Program
from .raw import Raw

ROOT = Path(__file__).parents[2]
CANNOT_MOUNT = 77

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the lock of the database file itself needs Linux")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store" / "agl.db"


def _symbolic_link(path: Path) -> Path:
    link = path.parent.parent / "link.db"
    link.symlink_to(path)
    return link


def _hard_link(path: Path) -> Path:
    path.touch()
    link = path.with_name("link.db")
    link.hardlink_to(path)
    return link


def _linked_folder(path: Path) -> Path:
    folder = path.parent.parent / "linked"
    folder.symlink_to(path.parent)
    return folder / path.name


LINKS = [_symbolic_link, _linked_folder, pytest.param(_hard_link, marks=on_linux)]


# One store per file


@pytest.mark.parametrize("link_to", LINKS)
async def test_database_cannot_be_opened_twice_by_two_names(path: Path, link_to: Callable[[Path], Path]) -> None:
    link = link_to(path)
    for first, second in ((path, link), (link, path)):
        async with SqliteLightningStore(first) as store:
            with pytest.raises(StoreInUse, match="another store"):
                SqliteLightningStore(second)
            await store.enqueue_rollout("still served")


@pytest.mark.parametrize("link_to", LINKS)
async def test_another_process_holds_the_lock_until_it_is_killed(path: Path, link_to: Callable[[Path], Path]) -> None:
    link = link_to(path)
    async with StoreProcess(path) as process:
        with pytest.raises(StoreInUse):
            SqliteLightningStore(link)
        process.kill()
        await process.wait_until_killed()
    await SqliteLightningStore(link).close()


@on_linux
async def test_maintenance_refuses_a_database_that_is_open_by_another_name(path: Path) -> None:
    link = _hard_link(path)
    async with SqliteLightningStore(path) as store:
        maintain: list[Callable[[], Any]] = [
            lambda: open_for_maintenance(str(link)),
            lambda: check_database(link),
            lambda: backup(link, path.with_name("copy")),
        ]
        for each in maintain:
            with pytest.raises(StoreInUse, match="by another name"):
                each()
        backup(path, path.with_name("copy"))
        await store.enqueue_rollout("still served")
    assert check_database(link) == []
    assert not link.with_name("link.db-owner").exists()


async def test_lock_file_of_an_older_release_is_respected(path: Path) -> None:
    import apsw

    link = _symbolic_link(path)
    for name in (path, link):
        older = apsw.Connection(f"{name}-owner")
        older.execute("PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE").fetchall()
        with pytest.raises(StoreInUse):
            SqliteLightningStore(link)
        older.close()
    await SqliteLightningStore(link).close()


@on_linux
async def test_refused_store_leaves_the_locks_of_the_open_one(path: Path) -> None:
    link = _hard_link(path)

    def locks() -> list[str]:
        inode = f":{path.stat().st_ino} "
        return [line.split(maxsplit=1)[1] for line in Path("/proc/locks").read_text().splitlines() if inode in line]

    async with SqliteLightningStore(path) as store:
        await store.statistics()
        before = locks()
        with pytest.raises(StoreInUse):
            SqliteLightningStore(link)
        assert [line for line in before if "POSIX" in line]
        assert [line for line in before if "OFDLCK" in line]
        assert locks() == before


@on_linux
def test_forked_child_does_not_keep_the_lock_of_a_killed_store(path: Path) -> None:
    script = (
        "import os, sys; from agentlightning.store import SqliteLightningStore\n"
        "store = SqliteLightningStore(sys.argv[1])\n"
        "started, start = os.pipe()\n"
        "if os.fork(): os.read(started, 1); os.kill(os.getpid(), 9)\n"
        "os.write(start, b'x'); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, cwd=ROOT) as parent:
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
        store = SqliteLightningStore(path)  # the child still runs
        asyncio.run(store.close())
        assert parent.stdin
        parent.stdin.close()


@on_linux
async def test_bind_mount_of_an_open_database_is_refused(path: Path, tmp_path: Path) -> None:
    opening = "import sys; from agentlightning.store import SqliteLightningStore; SqliteLightningStore(sys.argv[1])"
    mount = f'touch "$2"; mount --bind "$1" "$2" || exit {CANNOT_MOUNT}; exec "$0" -c "{opening}" "$2"'
    user_namespace = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user_namespace, "--mount", "sh", "-c", mount, sys.executable, path, tmp_path / "mount.db"]
    async with SqliteLightningStore(path):
        refused = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=ROOT)
    if refused.returncode == CANNOT_MOUNT or "unshare" in refused.stderr:
        pytest.skip(f"a file cannot be mounted here: {refused.stderr}")

    assert "StoreInUse: another store has" in refused.stderr


# Permissions


@pytest.fixture(params=[0o022, 0o000], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_created_files_are_private(path: Path, tmp_path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        await store.enqueue_rollout("task")
        backup(path, path.with_name("backup.db"))
        database_files = {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()}
    folder = new_folder("run", tmp_path / "runs")
    folder.start({})
    with RunLog(folder.log):
        pass
    buffer = DiskBuffer(tmp_path / "spool")
    buffer.append(b"line\n")
    spool_files = list((tmp_path / "spool").iterdir())
    buffer.close()

    names = ["agl.db", "agl.db-wal", "agl.db-shm", "agl.db-owner", "backup.db"]
    assert database_files == dict.fromkeys(names, "0o600")
    run_files = [*folder.path.iterdir(), *spool_files]
    assert {file.name for file in run_files} > {"config.json", "log.txt"}
    assert {oct(file.stat().st_mode & 0o777) for file in run_files} == {"0o600"}
    assert {oct(each.stat().st_mode & 0o777) for each in (folder.path, tmp_path / "spool")} == {"0o700"}


def test_existing_files_with_wider_permissions_are_named_once_and_kept(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = path.with_name("agl.db-owner")
    for file, mode in ((path, 0o644), (other, 0o640)):
        file.touch()
        file.chmod(mode)
    for _ in range(2):
        asyncio.run(SqliteLightningStore(path).close())

    [warning] = [each.getMessage() for each in caplog.records if "chmod" in each.getMessage()]
    assert warning.endswith(f"chmod go= {path} {other}")
    assert path.stat().st_mode & 0o777 == 0o644


# Files that disappear


@pytest.mark.parametrize("name", ["agl.db", "agl.db-wal"])
async def test_deleted_or_replaced_file_makes_the_store_unavailable(
    path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = path.with_name(name)
    async with SqliteLightningStore(path) as store:
        server = LightningStoreServer(store, port=0)
        await server.start()
        async with Raw(server.endpoint) as raw:
            await store.enqueue_rollout("before")
            kept = file.rename(file.with_name("kept"))
            deleted = await raw.send("GET", "/ready")
            with pytest.raises(StoreUnavailable, match="deleted or replaced"):
                await store.enqueue_rollout("lost")
            file.write_bytes(kept.read_bytes())
            replaced = await raw.call("enqueue_rollout", {"input": "lost"})
            healthy = await raw.send("GET", "/health")
            kept.replace(file)
            ready = await raw.send("GET", "/ready")
            await store.enqueue_rollout("after")
            rollouts = [each.input for each in await store.query_rollouts()]
        await server.stop()

    assert (deleted.status, replaced.status, healthy.status, ready.status) == (503, 503, 200, 200)
    assert str(file) in deleted.json["detail"]
    assert rollouts == ["before", "after"]
    errors = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert len([each for each in errors if "deleted or replaced" in each]) == 1


# File systems that cannot be written


@pytest.mark.parametrize("state", ["empty", "with a database", "full"])
def test_file_system_without_write_access_gives_one_sentence(tmp_path: Path, state: str) -> None:
    make = "import asyncio; from agentlightning.store import SqliteLightningStore as S; asyncio.run(S('x.db').close())"
    steps = {
        "empty": 'mount -o remount,ro "$0"',
        "with a database": f'cd "$0" && "$1" -c "{make}" && mount -o remount,ro "$0"',
        "full": 'head -c 1m /dev/zero > "$0/full" 2>/dev/null; true',
    }
    mount = f'mount -t tmpfs -o size=256k tmpfs "$0" || exit {CANNOT_MOUNT}; ({steps[state]}) && exec "$@"'
    user_namespace = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    wrapper = ["unshare", *user_namespace, "--mount", "sh", "-c", mount, str(tmp_path)]
    with Program(
        "agentlightning.cli", "store", "--port", "0", "--db", f"{tmp_path}/x.db", cwd=ROOT, wrapper=wrapper
    ) as store:
        code = store.wait()
    if code == CANNOT_MOUNT:
        pytest.skip(f"a tmpfs cannot be mounted here: {store.lines}")

    assert (code, len(store.lines)) == (1, 1), store.lines
    assert store.lines[0].startswith(f"Error: the database {tmp_path}/x.db cannot be opened for writing")
