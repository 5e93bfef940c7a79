"""The folder that compiled things are kept in: private to its user, and never trusted when it is not."""

import os
import stat
import tempfile
from functools import lru_cache
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """A folder below $XDG_CACHE_HOME/ebpf (mode 0700, ours alone); a private temporary one where that cannot be had."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    facts = (base, "", parts) if base.startswith(os.sep) else ("", os.environ.get("HOME", ""), parts)
    folder = _made(*facts)
    if not os.path.isdir(folder):
        # Somebody has cleaned up since.
        _made.cache_clear()
        folder = _made(*facts)
    return folder


@lru_cache(maxsize=16)
def _made(base: str, home: str, parts: tuple[str, ...]) -> Path:
    """Find the folder, or make it. What is ours alone stays so: it is looked at once."""
    del home
    root = Path(base) if base else Path(os.path.expanduser("~")) / ".cache"
    # A home that does not exist (nobody's) is not ours to make.
    homes = [root / "ebpf"] if base or root.parent.is_dir() else []
    for candidate in (*homes, Path(tempfile.gettempdir()) / f"ebpf-{_uid()}"):
        try:
            folder = _private(candidate)
            for part in parts:
                folder = folder / part
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            continue
        return folder
    return Path(tempfile.mkdtemp(prefix="ebpf-"))


def _uid() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _private(folder: Path) -> Path:
    """Make `folder` if need be. Raises OSError if it is not a folder that only we can write to."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        raise PermissionError(f"{folder} is not ours")
    if hasattr(os, "getuid") and status.st_mode & 0o077:
        folder.chmod(0o700)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written")
    return folder


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or none."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
