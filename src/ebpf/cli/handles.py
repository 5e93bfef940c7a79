"""Names for objects on the command line: PROG is `id N | tag HEX | name NAME | pinned FILE`, MAP the same without tag."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from ebpf.cli.jsonw import Json
from ebpf.cli.noun import bpffs
from ebpf.cli.words import Words, is_prefix, number
from ebpf.errors import KernelError, UsageError
from ebpf.sys.calls import FdById, GetMapInfo, GetProgInfo, MapInfo, NextId, ObjGet, ProgInfo
from ebpf.sys.kernel import Kernel
from ebpf.uapi import Cmd

_ENOENT = 2
Info = TypeVar("Info", ProgInfo, MapInfo)


@dataclass(frozen=True, slots=True)
class Found(Generic[Info]):
    """A program or map that a handle named: an open descriptor and what the kernel says of it."""

    fd: int
    info: Info


@dataclass(frozen=True, slots=True)
class Handle:
    """What was typed: how (`id`, `tag`, `name`, `pinned`) and what."""

    how: str
    what: str

    def __str__(self) -> str:
        return f"{self.how} {self.what}"


def take(words: Words, noun: str) -> Handle:
    """Read a handle of a `noun` ("prog" or "map") off the words."""
    kinds = ("id", "tag", "name", "pinned") if noun == "prog" else ("id", "name", "pinned")
    word = words.take(f"{noun}: {'|'.join(kinds)}")
    how = next((kind for kind in kinds if is_prefix(word, kind)), None)
    if how is None:
        listed = "', '".join(kinds[:-1])
        raise UsageError(f"expected '{listed}' or '{kinds[-1]}', got: '{word}'?")
    what = words.take(how)
    if how == "id" and not what.isdigit() and not what.startswith("0x"):
        raise UsageError(f"can't parse {what} as ID")
    if how == "name" and len(what) > 15 and noun == "map":
        raise UsageError(f"can't parse name '{what}': map names have at most 15 characters")
    return Handle(how, what)


@contextmanager
def programs(kernel: Kernel, handle: Handle | None = None, *, images: bool = False) -> Iterator[list[Found[ProgInfo]]]:
    """The programs that a handle names (None: all), open until the block ends."""

    def info(fd: int) -> ProgInfo:
        return kernel.bpf(GetProgInfo(fd, images))

    def wanted(candidate: ProgInfo) -> bool:
        if handle is None:
            return True
        if handle.how == "tag":
            return candidate.tag.hex() == handle.what.lower()
        from ebpf.cli.types import full_name

        return handle.what in (candidate.name, full_name(kernel, candidate))

    with _opened(kernel, handle, "prog", info, wanted) as found:
        yield found


@contextmanager
def maps(kernel: Kernel, handle: Handle | None = None) -> Iterator[list[Found[MapInfo]]]:
    """The maps that a handle names (None: all), open until the block ends."""

    def info(fd: int) -> MapInfo:
        return kernel.bpf(GetMapInfo(fd))

    with _opened(kernel, handle, "map", info, lambda candidate: handle is None or candidate.name == handle.what) as found:
        yield found


def pins(kernel: Kernel, noun: str) -> dict[int, list[str]]:
    """The paths of pinned programs ("prog") or maps ("map"), by id."""
    found: dict[int, list[str]] = {}
    for mount in bpffs(kernel):
        for folder, _, names in os.walk(mount):
            for path in (os.path.join(folder, name) for name in sorted(names)):
                try:
                    fd = kernel.bpf(ObjGet(path))
                except KernelError:
                    continue
                try:
                    id_ = kernel.bpf(GetProgInfo(fd)).id if noun == "prog" else kernel.bpf(GetMapInfo(fd)).id
                    found.setdefault(id_, []).append(path)
                except KernelError:
                    pass
                finally:
                    kernel.close(fd)
    return found


def pinned_row(pins: Mapping[int, list[str]], id_: int) -> dict[str, Json]:
    """The member of a JSON row that lists an object's paths, if it has any."""
    return {"pinned": pins[id_]} if id_ in pins else {}


_COMMANDS = {
    "prog": (Cmd.PROG_GET_NEXT_ID, Cmd.PROG_GET_FD_BY_ID),
    "map": (Cmd.MAP_GET_NEXT_ID, Cmd.MAP_GET_FD_BY_ID),
}


@contextmanager
def _opened(
    kernel: Kernel, handle: Handle | None, noun: str, info: Callable[[int], Info], wanted: Callable[[Info], bool]
) -> Iterator[list[Found[Info]]]:
    next_id, fd_by_id = _COMMANDS[noun]
    found: list[Found[Info]] = []
    try:
        if handle is not None and handle.how == "pinned":
            fd = _pinned(kernel, handle.what)
            found.append(Found(fd, info(fd)))
        elif handle is not None and handle.how == "id":
            one = _open(kernel, fd_by_id, number(handle.what, "id"))
            if one is None:
                raise UsageError(f"get {noun} by id ({handle.what}): No such file or directory")
            found.append(Found(one, info(one)))
        else:
            for id_ in _ids(kernel, next_id):
                one = _open(kernel, fd_by_id, id_)
                if one is None:
                    continue
                found.append(Found(one, info(one)))
                if not wanted(found[-1].info):
                    kernel.close(found.pop().fd)
        yield found
    finally:
        for each in found:
            kernel.close(each.fd)


def _pinned(kernel: Kernel, path: str) -> int:
    try:
        return kernel.bpf(ObjGet(path))
    except KernelError as error:
        if error.errno != _ENOENT:
            raise
        raise UsageError(f"bpf obj get ({path}): No such file or directory") from error


def _ids(kernel: Kernel, cmd: Cmd) -> Iterator[int]:
    last = 0
    while True:
        try:
            last = kernel.bpf(NextId(cmd, last))
        except KernelError as error:
            if error.errno == _ENOENT:
                return
            raise
        yield last


def _open(kernel: Kernel, cmd: Cmd, id_: int) -> int | None:
    """A descriptor of the object with an id; None if it is not there (any more)."""
    try:
        return kernel.bpf(FdById(cmd, id_))
    except KernelError as error:
        if error.errno == _ENOENT:
            return None
        raise


def only(found: list[Found[Info]], handle: Handle, noun: str) -> Found[Info]:
    """The one object that a handle names. Raises UsageError if it names none or several."""
    if not found:
        raise UsageError(f"no {noun} with {handle}; `ebpf {noun} list` shows what there is")
    if len(found) > 1:
        raise UsageError(f"several {noun}s match this handle ({handle}): {', '.join('id ' + str(f.info.id) for f in found)}")
    return found[0]
