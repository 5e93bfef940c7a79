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
from ebpf.uapi import Cmd, LinkType

_INFO_BTF, _INFO_PROG, _INFO_MAP, _INFO_LINK = 32, 232, 104, 128
_EMPTY = ctypes.create_string_buffer(1)


def attr(layout: str, *values: int | bytes, size: int = 0) -> "ctypes.Array[ctypes.c_char]":
    """A zeroed attribute buffer with `values` at its beginning."""
    raw = struct.pack("=" + layout, *values)
    return ctypes.create_string_buffer(raw.ljust(size, b"\0"), max(size, len(raw)))


def _where(buffer: Any) -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0


def _bytes(data: bytes) -> "ctypes.Array[ctypes.c_char]":
    return ctypes.create_string_buffer(data, max(len(data), 1))


def _key(data: bytes) -> "ctypes.Array[ctypes.c_char] | None":
    """A key; queues and their like have none, and want no pointer to one."""
    return _bytes(data) if data else None


def run(cmd: Cmd, buffer: "ctypes.Array[ctypes.c_char]", why: str = "") -> int:
    """Call bpf(2) and raise for an errno."""
    result = bpf(int(cmd), buffer)
    if result < 0:
        raise failure(-result, f"bpf({cmd.name})", why)
    return result


def _map_create(call: calls.MapCreate) -> int:
    name = call.name.encode()[:15]
    a = attr(
        "IIIIIII16sIIIIIQ",
        call.map_type,
        call.key_size,
        call.value_size,
        call.max_entries,
        call.flags,
        call.inner_map_fd,
        call.numa_node,
        name,
        call.ifindex,
        call.btf_fd,
        call.btf_key_type_id,
        call.btf_value_type_id,
        0,
        call.map_extra,
        size=80,
    )
    return run(Cmd.MAP_CREATE, a, f"map {call.name!r}" if call.name else "")


def _lookup(call: calls.MapLookup) -> bytes:
    key, value = _key(call.key), ctypes.create_string_buffer(call.value, max(call.value_size, len(call.value), 1))
    run(call.cmd, attr("IIQQQ", call.map_fd, 0, _where(key), _where(value), call.flags))
    return value.raw[: call.value_size]


def _update(call: calls.MapUpdate) -> None:
    key, value = _key(call.key), _bytes(call.value)
    run(call.cmd, attr("IIQQQ", call.map_fd, 0, _where(key), _where(value), call.flags))


def _delete(call: calls.MapDelete) -> None:
    key = _key(call.key)
    run(call.cmd, attr("IIQQQ", call.map_fd, 0, _where(key), 0, 0))


def _next_key(call: calls.MapNextKey) -> bytes:
    key = _bytes(call.key) if call.key is not None else None
    out = ctypes.create_string_buffer(max(call.key_size, 1))
    run(call.cmd, attr("IIQQQ", call.map_fd, 0, _where(key), _where(out), 0))
    return out.raw[: call.key_size]


def _take(call: calls.MapLookupAndDelete) -> bytes:
    key = _key(call.key)
    value = ctypes.create_string_buffer(max(call.value_size, 1))
    run(call.cmd, attr("IIQQQ", call.map_fd, 0, _where(key), _where(value), call.flags))
    return value.raw[: call.value_size]


def _freeze(call: calls.MapFreeze) -> None:
    run(call.cmd, attr("I", call.map_fd, size=16))


def _batch(call: "calls.MapLookupBatch | calls.MapTakeBatch") -> calls.Batch:
    start = _bytes(call.start) if call.start else None
    place = ctypes.create_string_buffer(max(call.key_size, 8))
    keys = ctypes.create_string_buffer(max(call.count * call.key_size, 1))
    values = ctypes.create_string_buffer(max(call.count * call.value_size, 1))
    a = attr("QQQQIIQQ", _where(start), _where(place), _where(keys), _where(values), call.count, call.map_fd, call.flags, 0)
    result = bpf(int(call.cmd), a)
    # ENOENT is the end, with the count set.
    if result < 0 and result != -errno.ENOENT:
        raise failure(-result, f"bpf({call.cmd.name})")
    (count,) = struct.unpack_from("=I", a, _BATCH_COUNT)
    rest = b"" if result < 0 else place.raw
    return calls.Batch(count, keys.raw[: count * call.key_size], values.raw[: count * call.value_size], rest)


_BATCH_COUNT = 32


def _write_batch(call: "calls.MapUpdateBatch | calls.MapDeleteBatch") -> int:
    keys = _bytes(call.keys)
    values = _bytes(call.values) if isinstance(call, calls.MapUpdateBatch) else None
    a = attr("QQQQIIQQ", 0, 0, _where(keys), _where(values), call.count, call.map_fd, call.flags, 0)
    # A call that is refused as a whole leaves the count as it was.
    refused = ctypes.create_string_buffer(a.raw, len(a))
    result = bpf(int(call.cmd), a)
    (count,) = struct.unpack_from("=I", a, _BATCH_COUNT)
    if result < 0:
        error = failure(-result, f"bpf({call.cmd.name})")
        error.done = int(count) if a.raw != refused.raw else 0
        raise error
    return int(count)


def _prog_load(call: calls.ProgLoad) -> calls.Loaded:
    insns, licence = _bytes(call.insns), ctypes.create_string_buffer(call.license.encode())
    log = ctypes.create_string_buffer(call.log_size) if call.log_level else None
    funcs, lines = _bytes(call.func_info), _bytes(call.line_info)
    fds = _bytes(struct.pack(f"={len(call.fd_array)}i", *call.fd_array)) if call.fd_array else None
    a = attr(
        "IIQQIIQII16sIIIIQIIQIIIIQ",
        call.prog_type,
        len(call.insns) // 8,
        _where(insns),
        _where(licence),
        call.log_level,
        call.log_size if log is not None else 0,
        _where(log),
        call.kern_version,
        call.flags,
        call.name.encode()[:15],
        call.ifindex,
        call.expected_attach_type,
        call.btf_fd,
        call.func_info_rec_size,
        _where(funcs) if call.func_info else 0,
        len(call.func_info) // call.func_info_rec_size if call.func_info_rec_size else 0,
        call.line_info_rec_size,
        _where(lines) if call.line_info else 0,
        len(call.line_info) // call.line_info_rec_size if call.line_info_rec_size else 0,
        call.attach_btf_id,
        call.attach_fd,
        0,
        _where(fds),
        size=152,
    )
    result = bpf(int(call.cmd), a)
    text = log.value.decode("utf-8", "replace") if log is not None else ""
    if result < 0:
        raise failure(-result, "bpf(PROG_LOAD)", f"program {call.name!r}" if call.name else "", log=text)
    return calls.Loaded(result, text)


def _pin(call: calls.ObjPin) -> None:
    path = ctypes.create_string_buffer(call.path.encode())
    run(call.cmd, attr("QII", _where(path), call.fd, 0), call.path)


def _get(call: calls.ObjGet) -> int:
    path = ctypes.create_string_buffer(call.path.encode())
    return run(call.cmd, attr("QII", _where(path), 0, call.file_flags), call.path)


def _attach(call: calls.ProgAttach) -> None:
    run(call.cmd, attr("IIII", call.target_fd, call.prog_fd, call.attach_type, call.flags, size=32))


def _detach(call: calls.ProgDetach) -> None:
    run(call.cmd, attr("III", call.target_fd, call.prog_fd, call.attach_type, size=32))


def _test_run(call: calls.ProgTestRun) -> calls.TestRunResult:
    data, ctx = _bytes(call.data), _bytes(call.ctx)
    room = call.data_size_out or (len(call.data) + 512 if call.data else 0)
    out = ctypes.create_string_buffer(max(room, 1))
    ctx_out = ctypes.create_string_buffer(max(call.ctx_size_out or len(call.ctx), 1))
    a = attr(
        "IIIIQQIIIIQQIII",
        call.prog_fd,
        0,
        len(call.data),
        room,
        _where(data) if call.data else 0,
        _where(out) if room else 0,
        call.repeat,
        0,
        len(call.ctx),
        call.ctx_size_out or len(call.ctx),
        _where(ctx) if call.ctx else 0,
        _where(ctx_out) if call.ctx else 0,
        call.flags,
        call.cpu,
        0,
        size=80,
    )
    run(call.cmd, a)
    retval, _, size_out = struct.unpack_from("=III", a, 4)
    (duration,) = struct.unpack_from("=I", a, 36)
    (ctx_size,) = struct.unpack_from("=I", a, 44)
    return calls.TestRunResult(retval, duration, out.raw[:size_out], ctx_out.raw[:ctx_size] if call.ctx else b"")


def _next_id(call: calls.NextId) -> int:
    a = attr("III", call.start, 0, 0)
    run(call.cmd, a)
    return int(struct.unpack_from("=I", a, 4)[0])


def _fd_by_id(call: calls.FdById) -> int:
    return run(call.cmd, attr("III", call.id, 0, 0), f"id {call.id}")


def _info(fd: int, buffer: "ctypes.Array[ctypes.c_char]") -> None:
    run(Cmd.OBJ_GET_INFO_BY_FD, attr("IIQ", fd, len(buffer), _where(buffer)))


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
    _info(call.fd, first)
    kind, id_, tag, jited, xlated = struct.unpack_from("=II8sII", first)
    (maps,) = struct.unpack_from("=I", first, 52)
    second = ctypes.create_string_buffer(_INFO_PROG)
    ids = ctypes.create_string_buffer(max(4 * maps, 1))
    struct.pack_into("=IQ", second, 52, maps, _where(ids) if maps else 0)
    images: dict[str, Any] = {}
    if call.images:
        images = _images(first, second, jited, xlated)
    _info(call.fd, second)
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
        struct.pack_into("=Q", second, pointer_at, _where(out[name]) if count else 0)
    struct.pack_into("=I", second, _JITED_LINE_REC, 8)
    struct.pack_into("=II", second, 16, jited, xlated)
    struct.pack_into("=QQ", second, _JITED, _where(out["jited"]), _where(out["xlated"]))
    struct.pack_into("=I", second, _FUNC_REC, func_size)
    struct.pack_into("=Q", second, _FUNC_INFO, _where(out["funcs"]) if nr_func else 0)
    struct.pack_into("=II", second, _NR_FUNC, nr_func, nr_line)
    struct.pack_into("=Q", second, _LINE_INFO, _where(out["lines"]) if nr_line else 0)
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
    _info(call.fd, raw)
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
    _info(call.fd, first)
    (size,) = struct.unpack_from("=I", first, 8)
    data, name = ctypes.create_string_buffer(max(size, 1)), ctypes.create_string_buffer(64)
    second = ctypes.create_string_buffer(_INFO_BTF)
    struct.pack_into("=QIIQII", second, 0, _where(data), size, 0, _where(name), 64, 0)
    _info(call.fd, second)
    (id_,) = struct.unpack_from("=I", second, 12)
    (kernel,) = struct.unpack_from("=I", second, 28)
    return calls.BtfInfo(id_, data.raw[:size], name.value.decode(), bool(kernel))


# A link's own part of bpf_link_info, from byte 16: its fields in order, as struct has them; where a text's address and size
# belong; the name of the text. A perf event's part has its own kinds, from byte 24.
_LINKS: dict[int, tuple[str, tuple[str, ...], str]] = {
    LinkType.RAW_TRACEPOINT: ("QI4xQ", ("", "", "cookie"), "tp_name"),
    LinkType.TRACING: ("III4xQ", ("attach_type", "target_obj_id", "target_btf_id", "cookie"), ""),
    LinkType.CGROUP: ("QI", ("cgroup_id", "attach_type"), ""),
    LinkType.ITER: ("QIIQI", ("", "", "map_id", "cgroup_id", "order"), "target_name"),
    LinkType.NETNS: ("II", ("netns_ino", "attach_type"), ""),
    LinkType.XDP: ("I", ("ifindex",), ""),
    LinkType.STRUCT_OPS: ("I", ("map_id",), ""),
    LinkType.NETFILTER: ("IIiI", ("pf", "hook", "prio", "flags"), ""),
    LinkType.TCX: ("II", ("ifindex", "attach_type"), ""),
    LinkType.NETKIT: ("II", ("ifindex", "attach_type"), ""),
    LinkType.SOCKMAP: ("II", ("map_id", "attach_type"), ""),
    LinkType.KPROBE_MULTI: ("8xIIQ", ("func_cnt", "flags", "missed"), ""),
    LinkType.UPROBE_MULTI: ("32xIIII", ("", "func_cnt", "flags", "pid"), ""),
}
_PERF: dict[int, tuple[str, str, tuple[str, ...], str]] = {
    1: ("uprobe", "QIIQ", ("", "", "offset", "cookie"), "file"),
    2: ("uretprobe", "QIIQ", ("", "", "offset", "cookie"), "file"),
    3: ("kprobe", "QIIQQQ", ("", "", "offset", "addr", "missed", "cookie"), "func"),
    4: ("kretprobe", "QIIQQQ", ("", "", "offset", "addr", "missed", "cookie"), "func"),
    5: ("tracepoint", "QI4xQ", ("", "", "cookie"), "tracepoint"),
    6: ("event", "QI4xQ", ("event_config", "event_type_number", "cookie"), ""),
}


def _link_info(call: calls.GetLinkInfo) -> calls.LinkInfo:
    raw = ctypes.create_string_buffer(_INFO_LINK)
    _info(call.fd, raw)
    kind, id_, prog = struct.unpack_from("=III", raw)
    detail: dict[str, int | str] = {}
    at = 16
    if kind == LinkType.PERF_EVENT:
        at = 24
        (event,) = struct.unpack_from("=I", raw, 16)
        detail["event"], layout, names, text = _PERF.get(event, ("", "", (), ""))
    else:
        layout, names, text = _LINKS.get(kind, ("", (), ""))
    if text:
        name = ctypes.create_string_buffer(256)
        raw = ctypes.create_string_buffer(_INFO_LINK)
        struct.pack_into("=QI", raw, at, _where(name), len(name))
        _info(call.fd, raw)
        detail[text] = name.value.decode(errors="replace")
    detail |= {field: value for field, value in zip(names, struct.unpack_from("=" + layout, raw, at), strict=True) if field}
    return calls.LinkInfo(kind, id_, prog, detail)


def _query(call: calls.ProgQuery) -> calls.Attached:
    room = 64
    while True:
        arrays = [ctypes.create_string_buffer(4 * room) for _ in range(4)]
        ids, prog_flags, link_ids, link_flags = (_where(array) for array in arrays)
        a = attr("IIIIQIIQQQQ", call.target, call.attach_type, call.flags, 0, ids, room, 0, prog_flags, link_ids, link_flags, 0, size=64)
        result = bpf(int(call.cmd), a)
        if result != -errno.ENOSPC:
            break
        room *= 2
    if result < 0:
        raise failure(-result, "bpf(PROG_QUERY)", capability="CAP_NET_ADMIN")
    (flags,) = struct.unpack_from("=I", a, 12)
    (count,) = struct.unpack_from("=I", a, 24)
    lists: list[tuple[int, ...]] = [struct.unpack_from(f"={count}I", array) for array in arrays]
    return calls.Attached(lists[0], lists[1], lists[2], lists[3], flags)


def _btf_load(call: calls.BtfLoad) -> int:
    data = _bytes(call.data)
    log = ctypes.create_string_buffer(call.log_size) if call.log_level else None
    a = attr("QQIIII", _where(data), _where(log), len(call.data), call.log_size if log is not None else 0, call.log_level, 0, size=32)
    result = bpf(int(call.cmd), a)
    if result < 0:
        raise failure(-result, "bpf(BTF_LOAD)", log=log.value.decode("utf-8", "replace") if log is not None else "")
    return result


def _raw_tracepoint(call: calls.RawTracepointOpen) -> int:
    # A program on a BTF target said its name when it was loaded, and has none here.
    name = ctypes.create_string_buffer(call.name.encode()) if call.name else None
    a = attr("QIIQ", _where(name), call.prog_fd, 0, 0)
    result = bpf(int(call.cmd), a)
    if result < 0:
        raise failure(-result, "bpf(RAW_TRACEPOINT_OPEN)", f"raw tracepoint {call.name!r}" if call.name else "", capability="CAP_PERFMON")
    return result


def _link_create(call: calls.LinkCreate) -> int:
    a = attr("IIIIQ", call.prog_fd, call.target, call.attach_type, call.flags, call.cookie, size=64)
    return run(call.cmd, a)


def _link_detach(call: calls.LinkDetach) -> None:
    run(call.cmd, attr("I", call.link_fd, size=16))


#: How each call is carried out.
COMMANDS: dict[type[Call[Any]], Callable[[Any], Any]] = {
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
    calls.ProgAttach: _attach,
    calls.ProgDetach: _detach,
    calls.ProgQuery: _query,
    calls.ProgTestRun: _test_run,
    calls.NextId: _next_id,
    calls.FdById: _fd_by_id,
    calls.GetProgInfo: _prog_info,
    calls.GetMapInfo: _map_info,
    calls.GetBtfInfo: _btf_info,
    calls.GetLinkInfo: _link_info,
    calls.BtfLoad: _btf_load,
    calls.RawTracepointOpen: _raw_tracepoint,
    calls.LinkCreate: _link_create,
    calls.LinkDetach: _link_detach,
}
