"""What the user kernel tells of its objects: BPF_OBJ_GET_INFO_BY_FD."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ebpf.isa import decode
from ebpf.kernels.user import load as loader
from ebpf.kernels.user.maps import ProgArray
from ebpf.kernels.user.objects import BtfObject, LinkObject
from ebpf.sys import calls
from ebpf.sys.calls import Call
from ebpf.uapi import is_gpl

if TYPE_CHECKING:
    from ebpf.kernels.user.kernel import UserKernel

_CALL = "bpf(OBJ_GET_INFO_BY_FD)"


def _prog_info(kernel: "UserKernel", call: calls.GetProgInfo) -> calls.ProgInfo:
    held = kernel.program_at(call.fd, _CALL)
    program = held.program
    ids = {fd: m.id for fd, m in held.maps.items()}
    source = program.call
    insns = decode(source.insns)
    code = program.code.size if program.code is not None else 0
    return calls.ProgInfo(
        type=source.prog_type,
        id=held.id,
        tag=loader.tag(insns),
        name=source.name,
        xlated=loader.show_ids(insns, ids) if call.images else b"",
        xlated_len=len(source.insns),
        jited=program.code.image() if call.images and program.code is not None else b"",
        jited_len=code,
        load_time_ns=held.loaded_ns,
        created_by_uid=os.getuid() if hasattr(os, "getuid") else 0,
        map_ids=tuple(ids.values()),
        gpl_compatible=is_gpl(source.license),
        btf_id=held.btf.id if held.btf is not None else 0,
        func_info=source.func_info if call.images else b"",
        func_info_rec_size=source.func_info_rec_size,
        line_info=source.line_info if call.images else b"",
        line_info_rec_size=source.line_info_rec_size,
        verified_insns=program.verdict.processed,
        memlock=(len(source.insns) + 4095) // 4096 * 4096,
    )


def _map_info(kernel: "UserKernel", call: calls.GetMapInfo) -> calls.MapInfo:
    held = kernel.map_at(call.fd, _CALL)
    spec = held.map.spec
    owner = held.map.owner if isinstance(held.map, ProgArray) else 0
    return calls.MapInfo(
        type=spec.map_type,
        id=held.id,
        key_size=spec.key_size,
        value_size=spec.value_size,
        max_entries=held.map.max_entries,
        map_flags=int(held.map.flags),
        name=spec.name,
        btf_id=held.btf.id if held.btf is not None else 0,
        btf_key_type_id=spec.btf_key_type_id,
        btf_value_type_id=spec.btf_value_type_id,
        map_extra=spec.map_extra,
        frozen=held.map.frozen,
        memlock=held.map.memlock,
        owner_prog_type=owner,
        owner_jited=bool(owner) and loader.compiles(),
    )


def _btf_info(kernel: "UserKernel", call: calls.GetBtfInfo) -> calls.BtfInfo:
    held = kernel.table.get(call.fd, BtfObject, _CALL)
    return calls.BtfInfo(held.id, held.btf.raw if call.whole else b"", size=len(held.btf.raw))


def _link_info(kernel: "UserKernel", call: calls.GetLinkInfo) -> calls.LinkInfo:
    held = kernel.table.get(call.fd, LinkObject, _CALL)
    return calls.LinkInfo(held.kind, held.id, held.program.id, dict(held.detail))


INFO_COMMANDS: Final[dict[type[Call[Any]], Callable[["UserKernel", Any], Any]]] = {
    calls.GetProgInfo: _prog_info,
    calls.GetMapInfo: _map_info,
    calls.GetBtfInfo: _btf_info,
    calls.GetLinkInfo: _link_info,
}
