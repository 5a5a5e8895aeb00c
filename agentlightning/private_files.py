"""Creation of files that may contain secrets, with permissions for their owner only.

Files that already exist keep their permissions, but a warning names those that other users can access.
"""

from __future__ import annotations

import logging
import os
import shlex
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

FOLDER_MODE: Final = 0o700
"""Mode of a folder for such files: only its owner can access it."""
_FILE_MODE: Final = 0o600
_OTHER_USERS: Final = stat.S_IRWXG | stat.S_IRWXO
_checked: set[Path] = set()


def create_private_file(path: Path) -> None:
    """Create an empty file that only its owner can read and write, unless the file already exists."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _FILE_MODE))


def warn_if_readable_by_others(paths: Iterable[Path]) -> None:
    """Log one warning that lists the files that other users can access, and the command that prevents this.

    Each path is checked only once per process.
    """
    new = [path for path in paths if path not in _checked]
    _checked.update(new)
    if sys.platform == "win32":
        return
    if exposed := [path for path in new if _is_exposed(path)]:
        logger.warning(
            "Other users of this machine can access %s, which may contain secrets. To prevent this: chmod go= %s",
            ", ".join(map(str, exposed)),
            shlex.join(map(str, exposed)),
        )


def _is_exposed(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & _OTHER_USERS)
    except OSError:  # the file does not exist
        return False
