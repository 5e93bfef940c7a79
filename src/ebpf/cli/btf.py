"""`ebpf btf`: list type information and print it, raw or as C, in bpftool's grammar."""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.noun import Verb, dispatch, help_verb, later
from ebpf.cli.words import Words, number
from ebpf.errors import KernelError, UsageError
from ebpf.sys.calls import BtfInfo, FdById, GetBtfInfo, NextId
from ebpf.sys.kernel import Kernel
from ebpf.uapi import Cmd


def run(context: Context, argv: list[str]) -> int:
    """Carry out one `btf` command."""
    return dispatch(context, argv, "btf", _VERBS)


def show(context: Context, words: Words) -> int:
    """Print every BTF object, or one, with the programs and maps that have it."""
    wanted = None
    if words:
        word = words.take("id")
        if not "id".startswith(word):
            raise UsageError(f"expected 'id', got: '{word}'?")
        wanted = id_of(words.take("ID"))
    words.end()
    kernel = context.kernel()
    with handles.programs(kernel) as programs, handles.maps(kernel) as maps:
        users = [_by_btf((p.info.btf_id, p.info.id) for p in programs), _by_btf((m.info.btf_id, m.info.id) for m in maps)]
        if wanted is not None:
            with opened(kernel, wanted, whole=False) as one:
                infos = [one]
                _show(context, infos, users, one=True)
        else:
            infos = []
            for id_ in _ids(kernel):
                with opened(kernel, id_, whole=False) as info:
                    infos.append(info)
            _show(context, infos, users, one=False)
    return 0


def _by_btf(pairs: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for btf_id, id_ in pairs:
        # Newest first.
        out.setdefault(btf_id, []).insert(0, id_)
    return out


def _show(context: Context, infos: Sequence[BtfInfo], users: Sequence[dict[int, list[int]]], *, one: bool) -> None:
    rows: list[Json] = []
    for info in infos:
        programs, maps = (table.get(info.id, []) for table in users)
        row: dict[str, Json] = {"id": info.id, "size": info.size, "prog_ids": programs, "map_ids": maps, "kernel": info.kernel_btf}
        rows.append(row | ({"name": info.name} if info.name else {}))
        if not context.json:
            name = f"[{info.name}]" if info.kernel_btf else info.name or "<anon>"
            line = f"{info.id}: name {name}  size {info.size}B"
            for what, ids in (("prog_ids", programs), ("map_ids", maps)):
                line += f"  {what} {','.join(map(str, ids))}" if ids else ""
            context.write(line)
    if context.json:
        context.write(dumps(rows[0] if one else rows, pretty=context.pretty))


def id_of(word: str) -> int:
    """The id that a word is. Raises UsageError."""
    try:
        return number(word, "id")
    except UsageError:
        raise UsageError(f"can't parse {word} as ID") from None


def _ids(kernel: Kernel) -> Iterator[int]:
    last = 0
    while True:
        try:
            last = kernel.bpf(NextId(Cmd.BTF_GET_NEXT_ID, last))
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        yield last


@contextmanager
def opened(kernel: Kernel, id_: int, *, whole: bool = True) -> Iterator[BtfInfo]:
    """The BTF object with an id, open until the block ends. Raises UsageError where there is none."""
    try:
        fd = kernel.bpf(FdById(Cmd.BTF_GET_FD_BY_ID, id_))
    except KernelError as error:
        raise UsageError(f"can't get BTF object by id ({id_}): {os.strerror(error.errno)}") from error
    try:
        yield kernel.bpf(GetBtfInfo(fd, whole))
    finally:
        kernel.close(fd)


_VERBS: dict[str, Verb] = {"show": show, "list": show, "help": help_verb("btf"), "dump": later("ebpf.cli.btfdump", "dump")}
