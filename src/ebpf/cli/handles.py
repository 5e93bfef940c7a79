"""Names for objects on the command line: PROG is `id N | tag HEX | name NAME | pinned FILE`, MAP and LINK have fewer ways."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Generic, TypeVar

from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json
from ebpf.cli.noun import Missing, Verb, Worded, done, pin_object, status
from ebpf.cli.words import Words, is_prefix, number
from ebpf.errors import KernelError, UsageError
from ebpf.records import record
from ebpf.sys.calls import FdById, GetLinkInfo, GetMapInfo, GetProgInfo, LinkInfo, MapInfo, NextId, ObjGet, ProgInfo
from ebpf.sys.kernel import Kernel
from ebpf.uapi import PROGRAM_TYPES, Cmd, ProgType

_ENOENT = 2
_WAYS = {"prog": ("id", "tag", "name", "pinned"), "map": ("id", "name", "pinned"), "link": ("id", "pinned")}
_BY_ID = {"prog": "get by id ({})", "map": "get map by id ({})", "link": "failed to get link with ID {}"}
Info = TypeVar("Info", ProgInfo, MapInfo, LinkInfo)


@record
class Found(Generic[Info]):
    """A program, map or link that a handle named: an open descriptor and what the kernel says of it."""

    fd: int
    info: Info


@record
class Handle:
    """What was typed: how (`id`, `tag`, `name`, `pinned`) and what."""

    how: str
    what: str

    def __str__(self) -> str:
        return f"{self.how} {self.what}"


def program_type(number: int) -> str:
    """A program type as bpftool prints it."""
    try:
        return PROGRAM_TYPES[ProgType(number)].name
    except (ValueError, KeyError):
        return f"type {number}"


def take(words: Words, noun: str) -> Handle:
    """Read a handle of a `noun` ("prog", "map", "link") off the words."""
    kinds = _WAYS[noun]
    word = words.take(f"{noun}: {'|'.join(kinds)}")
    how = next((kind for kind in kinds if is_prefix(word, kind)), None)
    if how is None:
        listed = "', '".join(kinds[:-1])
        before = f"expected '{listed}' or '{kinds[-1]}'" if len(kinds) > 2 else f"expected '{kinds[0]}' or '{kinds[1]}'"
        raise UsageError(f"{before}, got: '{word}'?")
    what = words.take(how)
    if how == "id" and not what.isdigit() and not what.startswith("0x"):
        raise UsageError(f"can't parse {what} as ID")
    if how == "name" and len(what) > 15 and noun == "map":
        theirs = "can't parse name"
        raise Worded(f"{theirs} '{what}': map names have at most 15 characters", theirs)
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


@contextmanager
def links(kernel: Kernel, handle: Handle | None = None) -> Iterator[list[Found[LinkInfo]]]:
    """The link that a handle names (None: all of them), open until the block ends."""

    def info(fd: int) -> LinkInfo:
        return kernel.bpf(GetLinkInfo(fd))

    with _opened(kernel, handle, "link", info, lambda candidate: handle is None) as found:
        yield found


def pins(kernel: Kernel, noun: str) -> dict[int, list[str]]:
    """The paths of pinned programs ("prog"), maps ("map") or links ("link"), by id."""
    found: dict[int, list[str]] = {}
    for path in kernel.pinned():
        try:
            fd = kernel.bpf(ObjGet(path))
        except KernelError:
            continue
        try:
            found.setdefault(kernel.bpf(_QUESTIONS[noun](fd)).id, []).append(path)
        except KernelError:
            pass
        finally:
            kernel.close(fd)
    return found


def pinned_row(pins: Mapping[int, list[str]], id_: int) -> dict[str, Json]:
    """The member of a JSON row that lists an object's paths, if it has any."""
    return {"pinned": pins[id_]} if id_ in pins else {}


_QUESTIONS: dict[str, Callable[[int], Any]] = {"prog": GetProgInfo, "map": GetMapInfo, "link": GetLinkInfo}
_COMMANDS = {
    "link": (Cmd.LINK_GET_NEXT_ID, Cmd.LINK_GET_FD_BY_ID),
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
                raise UsageError(f"{_BY_ID[noun].format(handle.what)}: No such file or directory")
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


def only(found: list[Found[Info]], handle: Handle, noun: str, *, status: int = 255) -> Found[Info]:
    """The one object that a handle names. Raises UsageError if it names none (which ends with `status`) or several."""
    if not found:
        raise Missing(f"no {noun} with {handle}; `ebpf {noun} list` shows what there is", status)
    if len(found) > 1:
        raise UsageError(f"several {'programs' if noun == 'prog' else 'maps'} match this handle")
    return found[0]


def pin_verb(noun: str) -> Verb:
    """The verb that gives an object of a `noun` ("prog", "map", "link") a path."""

    def pin(context: Context, words: Words) -> int:
        with status(_EINVAL):
            words.need(3, "pin")
        handle = take(words, noun)
        path = words.take("FILE")
        words.end()
        opened: AbstractContextManager[Sequence[Found[Any]]] = _OPENERS[noun](context.kernel(), handle)
        with opened as found:
            pin_object(context, path, only(list(found), handle, noun).fd)
        done(context)
        return 0

    return pin


_EINVAL = 234
_OPENERS: dict[str, Callable[[Kernel, Handle], AbstractContextManager[Sequence[Found[Any]]]]] = {
    "prog": programs,
    "map": maps,
    "link": links,
}
