"""Typed calls to `union bpf_attr` and back: one function for each, in a table by type.

Layouts: linux/bpf.h. Every buffer begins zeroed, because the kernel reads what it does not know of as well.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from typing import Any

from ebpf.errors import KernelError
from ebpf.kernels.linux.syscall import bpf, failure
from ebpf.sys import calls
from ebpf.sys.calls import Call
from ebpf.uapi import Cmd

_INFO_BTF, _INFO_PROG, _INFO_MAP = 32, 232, 104
# BPF_F_VTYPE_BTF_OBJ_FD
_OF_MODULE = 1 << 15
# BPF_F_TOKEN_FD
_BY_TOKEN = 1 << 16
_EMPTY = ctypes.create_string_buffer(1)


def attr(layout: str, *values: int | bytes, size: int = 0) -> "ctypes.Array[ctypes.c_char]":
    """A zeroed attribute buffer with `values` at its beginning."""
    raw = struct.pack("=" + layout, *values)
    return ctypes.create_string_buffer(raw.ljust(size, b"\0"), max(size, len(raw)))


def where(buffer: Any) -> int:
    """The address of a buffer (0 for None)."""
    return ctypes.addressof(buffer) if buffer is not None else 0


def as_buffer(data: bytes) -> "ctypes.Array[ctypes.c_char]":
    """A buffer with these bytes; it has to live until the call is over."""
    return ctypes.create_string_buffer(data, max(len(data), 1))


def _key(data: bytes) -> "ctypes.Array[ctypes.c_char] | None":
    """A key; queues and their like have none, and want no pointer to one."""
    return as_buffer(data) if data else None


def run(cmd: Cmd, buffer: "ctypes.Array[ctypes.c_char]", why: str = "") -> int:
    """Call bpf(2) and raise for an errno."""
    result = bpf(int(cmd), buffer)
    if result < 0:
        raise failure(-result, f"bpf({cmd.name})", why)
    return result


def _map_create(call: calls.MapCreate, token: int = 0) -> int:
    name = call.name.encode()[:15]
    a = attr(
        "IIIIIII16sIIIIIQii",
        call.map_type,
        call.key_size,
        call.value_size,
        call.max_entries,
        call.flags | (_OF_MODULE if call.kernel_module_fd else 0) | (_BY_TOKEN if token else 0),
        call.inner_map_fd,
        call.numa_node,
        name,
        call.ifindex,
        call.btf_fd,
        call.btf_key_type_id,
        call.btf_value_type_id,
        call.kernel_value_type_id,
        call.map_extra,
        call.kernel_module_fd,
        token,
        size=80,
    )
    return run(Cmd.MAP_CREATE, a, f"map {call.name!r}" if call.name else "")


def _lookup(call: calls.MapLookup) -> bytes:
    key, value = _key(call.key), ctypes.create_string_buffer(call.value, max(call.value_size, len(call.value), 1))
    run(call.cmd, attr("IIQQQ", call.map_fd, 0, where(key), where(value), call.flags))
    return value.raw[: call.value_size]


def _update(call: calls.MapUpdate) -> None:
    key, value = _key(call.key), as_buffer(call.value)
    run(call.cmd, attr("IIQQQ", call.map_fd, 0, where(key), where(value), call.flags))


def _delete(call: calls.MapDelete) -> None:
    key = _key(call.key)
    run(call.cmd, attr("IIQQQ", call.map_fd, 0, where(key), 0, 0))


def _next_key(call: calls.MapNextKey) -> bytes:
    key = as_buffer(call.key) if call.key is not None else None
    out = ctypes.create_string_buffer(max(call.key_size, 1))
    run(call.cmd, attr("IIQQQ", call.map_fd, 0, where(key), where(out), 0))
    return out.raw[: call.key_size]


def _take(call: calls.MapLookupAndDelete) -> bytes:
    key = _key(call.key)
    value = ctypes.create_string_buffer(max(call.value_size, 1))
    run(call.cmd, attr("IIQQQ", call.map_fd, 0, where(key), where(value), call.flags))
    return value.raw[: call.value_size]


def _freeze(call: calls.MapFreeze) -> None:
    run(call.cmd, attr("I", call.map_fd, size=16))


def _batch(call: "calls.MapLookupBatch | calls.MapTakeBatch") -> calls.Batch:
    start = as_buffer(call.start) if call.start else None
    place = ctypes.create_string_buffer(max(call.key_size, 8))
    keys = ctypes.create_string_buffer(max(call.count * call.key_size, 1))
    values = ctypes.create_string_buffer(max(call.count * call.value_size, 1))
    a = attr("QQQQIIQQ", where(start), where(place), where(keys), where(values), call.count, call.map_fd, call.flags, 0)
    result = bpf(int(call.cmd), a)
    # ENOENT is the end, with the count set.
    if result < 0 and result != -errno.ENOENT:
        raise failure(-result, f"bpf({call.cmd.name})")
    (count,) = struct.unpack_from("=I", a, _BATCH_COUNT)
    rest = b"" if result < 0 else place.raw
    return calls.Batch(count, keys.raw[: count * call.key_size], values.raw[: count * call.value_size], rest)


_BATCH_COUNT = 32


def _write_batch(call: "calls.MapUpdateBatch | calls.MapDeleteBatch") -> int:
    keys = as_buffer(call.keys)
    values = as_buffer(call.values) if isinstance(call, calls.MapUpdateBatch) else None
    a = attr("QQQQIIQQ", 0, 0, where(keys), where(values), call.count, call.map_fd, call.flags, 0)
    # A call that is refused as a whole leaves the count as it was.
    refused = ctypes.create_string_buffer(a.raw, len(a))
    result = bpf(int(call.cmd), a)
    (count,) = struct.unpack_from("=I", a, _BATCH_COUNT)
    if result < 0:
        error = failure(-result, f"bpf({call.cmd.name})")
        error.done = int(count) if a.raw != refused.raw else 0
        raise error
    return int(count)


def _prog_load(call: calls.ProgLoad, token: int = 0) -> calls.Loaded:
    insns, licence = as_buffer(call.insns), ctypes.create_string_buffer(call.license.encode())
    log = ctypes.create_string_buffer(call.log_size) if call.log_level else None
    funcs, lines = as_buffer(call.func_info), as_buffer(call.line_info)
    fds = as_buffer(struct.pack(f"={len(call.fd_array)}i", *call.fd_array)) if call.fd_array else None
    a = attr(
        "IIQQIIQII16sIIIIQIIQIIIIQQIIi",
        call.prog_type,
        len(call.insns) // 8,
        where(insns),
        where(licence),
        call.log_level,
        call.log_size if log is not None else 0,
        where(log),
        call.kern_version,
        call.flags | (_BY_TOKEN if token else 0),
        call.name.encode()[:15],
        call.ifindex,
        call.expected_attach_type,
        call.btf_fd,
        call.func_info_rec_size,
        where(funcs) if call.func_info else 0,
        len(call.func_info) // call.func_info_rec_size if call.func_info_rec_size else 0,
        call.line_info_rec_size,
        where(lines) if call.line_info else 0,
        len(call.line_info) // call.line_info_rec_size if call.line_info_rec_size else 0,
        call.attach_btf_id,
        call.attach_fd,
        0,
        where(fds),
        0,
        0,
        0,
        token,
        size=152,
    )
    result = bpf(int(call.cmd), a)
    text = log.value.decode("utf-8", "replace") if log is not None else ""
    if result < 0:
        raise failure(-result, "bpf(PROG_LOAD)", f"program {call.name!r}" if call.name else "", log=text)
    return calls.Loaded(result, text)


def _pin(call: calls.ObjPin) -> None:
    path = ctypes.create_string_buffer(call.path.encode())
    run(call.cmd, attr("QII", where(path), call.fd, 0), call.path)


def _get(call: calls.ObjGet) -> int:
    path = ctypes.create_string_buffer(call.path.encode())
    return run(call.cmd, attr("QII", where(path), 0, call.file_flags), call.path)


def _test_run(call: calls.ProgTestRun) -> calls.TestRunResult:
    data, ctx = as_buffer(call.data), as_buffer(call.ctx)
    room = call.data_size_out or (len(call.data) + 512 if call.data else 0)
    out = ctypes.create_string_buffer(max(room, 1))
    back = max(call.ctx_size_out or len(call.ctx), 0)
    ctx_out = ctypes.create_string_buffer(max(back, 1))
    a = attr(
        "IIIIQQIIIIQQIII",
        call.prog_fd,
        0,
        len(call.data),
        room,
        where(data) if call.data else 0,
        where(out) if room else 0,
        call.repeat,
        0,
        len(call.ctx),
        back,
        where(ctx) if call.ctx else 0,
        where(ctx_out) if call.ctx and back else 0,
        call.flags,
        call.cpu,
        0,
        size=80,
    )
    run(call.cmd, a)
    retval, _, size_out = struct.unpack_from("=III", a, 4)
    (duration,) = struct.unpack_from("=I", a, 36)
    (ctx_size,) = struct.unpack_from("=I", a, 44)
    return calls.TestRunResult(retval, duration, out.raw[:size_out], ctx_out.raw[:ctx_size] if call.ctx and back else b"")


def _next_id(call: calls.NextId) -> int:
    a = attr("III", call.start, 0, 0)
    run(call.cmd, a)
    return int(struct.unpack_from("=I", a, 4)[0])


def _fd_by_id(call: calls.FdById) -> int:
    return run(call.cmd, attr("III", call.id, 0, 0), f"id {call.id}")


def fill_info(fd: int, buffer: "ctypes.Array[ctypes.c_char]") -> None:
    """Ask the kernel about a descriptor's object."""
    run(Cmd.OBJ_GET_INFO_BY_FD, attr("IIQ", fd, len(buffer), where(buffer)))


def _require_kind(fd: int, kind: str) -> None:
    """Insist that a descriptor is one of a program or map: the kernel answers for any object, each in a struct of its own."""
    try:
        found = os.readlink(f"/proc/self/fd/{fd}").removeprefix("anon_inode:")
    except OSError:
        # No /proc, or no such descriptor: the kernel says which.
        return
    if found != kind:
        raise KernelError(errno.EINVAL, "bpf(OBJ_GET_INFO_BY_FD)", f"descriptor {fd} is a {found}, not a {kind}")


def _prog_info(call: calls.GetProgInfo) -> calls.ProgInfo:
    _require_kind(call.fd, "bpf-prog")
    first = ctypes.create_string_buffer(_INFO_PROG)
    fill_info(call.fd, first)
    kind, id_, tag, jited, xlated = struct.unpack_from("=II8sII", first)
    (maps,) = struct.unpack_from("=I", first, 52)
    second = ctypes.create_string_buffer(_INFO_PROG)
    ids = ctypes.create_string_buffer(max(4 * maps, 1))
    struct.pack_into("=IQ", second, 52, maps, where(ids) if maps else 0)
    images: dict[str, Any] = {}
    if call.images:
        images = _images(first, second, jited, xlated)
    fill_info(call.fd, second)
    load_time, uid = struct.unpack_from("=QI", second, 40)
    name = second.raw[64:80].split(b"\0", 1)[0].decode()
    ifindex, flags = struct.unpack_from("=II", second, 80)
    (btf_id,) = struct.unpack_from("=I", second, 128)
    run_time, run_cnt = struct.unpack_from("=QQ", second, 192)
    (verified,) = struct.unpack_from("=I", second, 216)
    return calls.ProgInfo(
        type=kind,
        id=id_,
        tag=tag,
        name=name,
        xlated=images["xlated"].raw[:xlated] if images else b"",
        jited=images["jited"].raw[:jited] if images else b"",
        xlated_len=xlated,
        jited_len=jited,
        load_time_ns=load_time,
        created_by_uid=uid,
        map_ids=struct.unpack_from(f"={maps}I", ids) if maps else (),
        ifindex=ifindex,
        gpl_compatible=bool(flags & 1),
        btf_id=btf_id,
        func_info=images["funcs"].raw if images else b"",
        func_info_rec_size=images["func_size"] if images else 0,
        line_info=images["lines"].raw if images else b"",
        line_info_rec_size=images["line_size"] if images else 0,
        run_time_ns=run_time,
        run_cnt=run_cnt,
        verified_insns=verified,
        memlock=int(_fdinfo(call.fd).get("memlock", 0)),
        jited_ksyms=_numbers(images, "ksyms", "Q"),
        jited_func_lens=_numbers(images, "lens", "I"),
        jited_lines=_numbers(images, "jited_lines", "Q"),
        tags=tuple(images["tags"].raw[at : at + 8] for at in range(0, len(images["tags"]), 8)) if images else (),
    )


def _numbers(images: dict[str, Any], name: str, layout: str) -> tuple[int, ...]:
    return tuple(number for (number,) in struct.iter_unpack("=" + layout, images[name].raw)) if images else ()


# struct bpf_prog_info: what is asked for by pointer, and where size and pointer stand.
_JITED, _XLATED, _FUNC_REC, _FUNC_INFO, _NR_FUNC, _NR_LINE, _LINE_INFO, _LINE_REC = 24, 32, 132, 136, 144, 148, 152, 172
# Of the machine code: name here, where its count and its pointer stand, bytes of each.
_OF_CODE = (("ksyms", 104, 112, 8), ("lens", 108, 120, 4), ("jited_lines", 168, 160, 8), ("tags", 180, 184, 8))
_JITED_LINE_REC = 176


def _images(first: "ctypes.Array[ctypes.c_char]", second: "ctypes.Array[ctypes.c_char]", jited: int, xlated: int) -> dict[str, Any]:
    (func_size,) = struct.unpack_from("=I", first, _FUNC_REC)
    nr_func, nr_line = struct.unpack_from("=II", first, _NR_FUNC)
    (line_size,) = struct.unpack_from("=I", first, _LINE_REC)
    out: dict[str, Any] = {
        "xlated": ctypes.create_string_buffer(max(xlated, 1)),
        "jited": ctypes.create_string_buffer(max(jited, 1)),
        "func_size": func_size,
        "line_size": line_size,
        "funcs": ctypes.create_string_buffer(func_size * nr_func),
        "lines": ctypes.create_string_buffer(line_size * nr_line),
    }
    for name, count_at, pointer_at, size in _OF_CODE:
        (count,) = struct.unpack_from("=I", first, count_at)
        out[name] = ctypes.create_string_buffer(size * count)
        struct.pack_into("=I", second, count_at, count)
        struct.pack_into("=Q", second, pointer_at, where(out[name]) if count else 0)
    struct.pack_into("=I", second, _JITED_LINE_REC, 8)
    struct.pack_into("=II", second, 16, jited, xlated)
    struct.pack_into("=QQ", second, _JITED, where(out["jited"]), where(out["xlated"]))
    struct.pack_into("=I", second, _FUNC_REC, func_size)
    struct.pack_into("=Q", second, _FUNC_INFO, where(out["funcs"]) if nr_func else 0)
    struct.pack_into("=II", second, _NR_FUNC, nr_func, nr_line)
    struct.pack_into("=Q", second, _LINE_INFO, where(out["lines"]) if nr_line else 0)
    struct.pack_into("=I", second, _LINE_REC, line_size)
    return out


def _fdinfo(fd: int) -> dict[str, str]:
    """What only an object's fdinfo says: its memory, whether it is frozen, who owns it."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii", errors="replace") as file:
            return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    except OSError:
        return {}


def _map_info(call: calls.GetMapInfo) -> calls.MapInfo:
    _require_kind(call.fd, "bpf-map")
    raw = ctypes.create_string_buffer(_INFO_MAP)
    fill_info(call.fd, raw)
    kind, id_, key, value, entries, flags = struct.unpack_from("=IIIIII", raw)
    name = raw.raw[24:40].split(b"\0", 1)[0].decode()
    (ifindex,) = struct.unpack_from("=I", raw, 40)
    btf_id, key_type, value_type = struct.unpack_from("=III", raw, 64)
    (extra,) = struct.unpack_from("=Q", raw, 80)
    more = _fdinfo(call.fd)
    frozen, memlock = more.get("frozen") == "1", int(more.get("memlock", 0))
    owner, jited = int(more.get("owner_prog_type", 0)), more.get("owner_jited") == "1"
    return calls.MapInfo(
        kind, id_, key, value, entries, flags, name, ifindex, btf_id, key_type, value_type, extra, frozen, memlock, owner, jited
    )


def _btf_info(call: calls.GetBtfInfo) -> calls.BtfInfo:
    first = ctypes.create_string_buffer(_INFO_BTF)
    fill_info(call.fd, first)
    (size,) = struct.unpack_from("=I", first, 8)
    wanted = size if call.whole else 0
    data, name = ctypes.create_string_buffer(max(wanted, 1)), ctypes.create_string_buffer(64)
    second = ctypes.create_string_buffer(_INFO_BTF)
    struct.pack_into("=QIIQII", second, 0, where(data), wanted, 0, where(name), 64, 0)
    fill_info(call.fd, second)
    (id_,) = struct.unpack_from("=I", second, 12)
    (kernel,) = struct.unpack_from("=I", second, 28)
    return calls.BtfInfo(id_, data.raw[:wanted], name.value.decode(), bool(kernel), size)


def _btf_load(call: calls.BtfLoad, token: int = 0) -> int:
    data = as_buffer(call.data)
    log = ctypes.create_string_buffer(call.log_size) if call.log_level else None
    size = call.log_size if log is not None else 0
    # Older kernels know of nothing behind the log's level.
    more = (0, _BY_TOKEN, token) if token else ()
    a = attr("QQIII" + "IIi"[: len(more)], where(data), where(log), len(call.data), size, call.log_level, *more, size=32)
    result = bpf(int(call.cmd), a)
    if result < 0:
        raise failure(-result, "bpf(BTF_LOAD)", log=log.value.decode("utf-8", "replace") if log is not None else "")
    return result


#: The calls that a token serves.
BY_TOKEN = frozenset({calls.MapCreate, calls.ProgLoad, calls.BtfLoad})
#: How each call is carried out.
COMMANDS: dict[type[Call[Any]], Callable[..., Any]] = {
    calls.MapCreate: _map_create,
    calls.MapLookup: _lookup,
    calls.MapUpdate: _update,
    calls.MapDelete: _delete,
    calls.MapNextKey: _next_key,
    calls.MapLookupAndDelete: _take,
    calls.MapFreeze: _freeze,
    calls.MapLookupBatch: _batch,
    calls.MapTakeBatch: _batch,
    calls.MapUpdateBatch: _write_batch,
    calls.MapDeleteBatch: _write_batch,
    calls.ProgLoad: _prog_load,
    calls.ObjPin: _pin,
    calls.ObjGet: _get,
    calls.ProgTestRun: _test_run,
    calls.NextId: _next_id,
    calls.FdById: _fd_by_id,
    calls.GetProgInfo: _prog_info,
    calls.GetMapInfo: _map_info,
    calls.GetBtfInfo: _btf_info,
    calls.BtfLoad: _btf_load,
}
