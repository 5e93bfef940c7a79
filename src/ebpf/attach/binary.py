"""Programs and libraries by name, and places in them."""

import os
from fnmatch import fnmatchcase

from ebpf.elf import file_offset, function_offsets
from ebpf.errors import NotFoundError, UsageError

_LIBRARIES = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)


def resolve_binary(name: str) -> str:
    """The path of a program or library: a bare name is looked for where the loader and the shell would. Raises NotFoundError."""
    if "/" in name:
        if not os.path.exists(name):
            raise NotFoundError("file", name)
        return name
    if ".so" in name:
        folders = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *_LIBRARIES]
        found = next((path for path in (os.path.join(folder, name) for folder in folders if folder) if os.path.isfile(path)), None)
    else:
        import shutil

        found = shutil.which(name)
    if found is None:
        raise NotFoundError("library" if ".so" in name else "program", name, where="the loader's folders" if ".so" in name else "PATH")
    return found


def place_in(path: str, place: str, program: str = "") -> int:
    """The file offset of `function`, `function+offset` or a number. Raises NotFoundError, UsageError."""
    name, _, offset = place.partition("+")
    at = _number(program, offset)
    return at + (_number(program, name) if name[:1].isdigit() else file_offset(path, name))


def _number(program: str, text: str) -> int:
    try:
        return int(text, 0) if text else 0
    except ValueError:
        raise UsageError(f"program {program!r}: {text!r} is no offset") from None


def places_like(path: str, pattern: str) -> dict[str, int]:
    """The functions of a file whose names match a pattern (`*`, `?`), with their offsets. Raises NotFoundError if none does."""
    found = {name: offset for name, offset in function_offsets(path).items() if fnmatchcase(name, pattern)}
    if not found:
        raise NotFoundError("function", pattern, where=path)
    return found
