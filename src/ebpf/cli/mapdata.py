"""What a map holds: `ebpf map dump`, `lookup`, `update` and their like."""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.elements import PER_CPU, Walk, element, formatted, hex_text, plain, value_bytes
from ebpf.cli.jsonw import Json, dumps, hex_bytes
from ebpf.cli.map import text, type_name
from ebpf.cli.noun import Failure, Misuse, done
from ebpf.cli.typed import read_element
from ebpf.cli.types import MapTypes, scalar
from ebpf.cli.words import Words
from ebpf.errors import KernelError
from ebpf.sys.calls import MapDelete, MapInfo, MapLookup, MapLookupAndDelete, MapNextKey, MapUpdate
from ebpf.uapi import UpdateFlag


def dump(context: Context, words: Words) -> int:
    """Print all that a map holds; of several maps of one name, each with what it is."""
    if len(words.rest) != 2:
        raise Misuse("map")
    handle = handles.take(words, "map")
    kernel = context.kernel()
    status = 0
    with handles.maps(kernel, handle) as found:
        if not found:
            handles.only(found, handle, "map")
        several = len(found) > 1
        documents: list[Json] = []
        typed = False
        for each in found:
            types = MapTypes.of(kernel, each.info)
            walk = Walk.over(kernel, each.fd, each.info)
            status = walk.errno or status
            if context.json:
                rows = [element(each.info, types, k, v) for k, v in walk.elements]
                documents.append({**_head(each.info), "elements": rows} if several else rows)
            elif types is not None:
                rows = [formatted(each.info, types, k, v) for k, v in walk.elements if isinstance(v, bytes)]
                typed = True
                documents.append({**_head(each.info), "elements": rows} if several else rows)
            else:
                if several:
                    context.write(text(each.info).splitlines()[0])
                for k, v in walk.elements:
                    context.write(plain(each.info, k, v))
                there = sum(isinstance(v, bytes) for _, v in walk.elements)
                context.write(f"Found {there} element{'' if there == 1 else 's'}" + ("\n" if several else ""))
        if documents:
            document: Json = documents if several else documents[0]
            context.write(dumps(document, pretty=context.pretty or typed, **({} if context.json else {"scalar": scalar})))
        return -status & 0xFF


def _head(info: MapInfo) -> dict[str, Json]:
    """What heads a map's dump where there are several."""
    return {"id": info.id, "type": type_name(info.type), "name": info.name, "flags": info.map_flags}


@contextmanager
def _one(context: Context, words: Words) -> Iterator[tuple[handles.Found[MapInfo], ExitStack]]:
    """The one map that is named, open until the block ends, as is what the stack is given."""
    if len(words.rest) < 2:
        raise Misuse("map")
    handle = handles.take(words, "map")
    with handles.maps(context.kernel(), handle) as found, ExitStack() as stack:
        yield handles.only(found, handle, "map"), stack


def lookup(context: Context, words: Words) -> int:
    """Print the value under one key; a queue's, stack's or bloom filter's without one."""
    with _one(context, words) as (each, stack):
        kernel = context.kernel()
        key = read_element(context, words, each, stack).key or b""
        try:
            value = kernel.bpf(MapLookup(each.fd, key, value_bytes(kernel, each.info)))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise Failure("lookup failed", error.errno) from error
            context.write("null" if context.json else f"key:\n{hex_text(key)}\n\nNot found")
            return -errno.ENOENT & 0xFF
        _show(context, each.info, key, value)
    return 0


def _show(context: Context, info: MapInfo, key: bytes, value: bytes) -> None:
    """Print one element."""
    kernel = context.kernel()
    types = MapTypes.of(kernel, info)
    if context.json:
        context.write(dumps(element(info, types, key, value), pretty=context.pretty))
    elif types is not None:
        context.write(dumps(formatted(info, types, key, value), pretty=True, scalar=scalar))
    else:
        context.write(plain(info, key, value))


def getnext(context: Context, words: Words) -> int:
    """Print the key after one, or the first."""
    with _one(context, words) as (each, stack):
        kernel = context.kernel()
        key = read_element(context, words, each, stack).key if words else None
        try:
            following = kernel.bpf(MapNextKey(each.fd, key, each.info.key_size))
        except KernelError as error:
            raise Failure("can't get next key", error.errno) from error
        if context.json:
            row: dict[str, Json] = {"key": hex_bytes(key) if key is not None else None, "next_key": hex_bytes(following)}
            context.write(dumps(row, pretty=context.pretty))
        else:
            context.write(("key: None" if key is None else f"key:\n{hex_text(key)}") + f"\nnext key:\n{hex_text(following)}")
    return 0


def update(context: Context, words: Words) -> int:
    """Write a value under a key, or into a queue or stack; a per-CPU map gets it on every CPU."""
    with _one(context, words) as (each, stack):
        kernel = context.kernel()
        typed = read_element(context, words, each, stack, value=True, flags=True)
        value = typed.value or b""
        if each.info.type in PER_CPU:
            value = value.ljust((len(value) + 7) // 8 * 8, b"\0") * kernel.possible_cpus
        try:
            kernel.bpf(MapUpdate(each.fd, typed.key or b"", value, int(typed.flags or UpdateFlag.ANY)))
        except KernelError as error:
            raise Failure("update failed", error.errno) from error
    done(context)
    return 0


def delete(context: Context, words: Words) -> int:
    """Remove a key."""
    with _one(context, words) as (each, stack):
        kernel = context.kernel()
        key = read_element(context, words, each, stack).key or b""
        try:
            kernel.bpf(MapDelete(each.fd, key))
        except KernelError as error:
            raise Failure("delete failed", error.errno) from error
    done(context)
    return 0


def pop(context: Context, words: Words) -> int:
    """Take a value out of a queue or stack and print it."""
    with _one(context, words) as (each, _):
        kernel = context.kernel()
        words.end()
        try:
            value = kernel.bpf(MapLookupAndDelete(each.fd, bytes(each.info.key_size), value_bytes(kernel, each.info)))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise Failure("pop failed", error.errno) from error
            context.write("null" if context.json else "Error: empty map")
            return -errno.ENOENT & 0xFF
        _show(context, each.info, b"", value)
    return 0
