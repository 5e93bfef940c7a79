"""Which stage of the checklist (shared/reference/verifier.md, section 4) a case needs: the highest of what stands in it."""

import re
from dataclasses import replace

from bench.agreement.case import CALL, KFUNC, LD_IMM64, Case

_LATE_FILES = re.compile(
    r"arena|cpumask|dynptr|exceptions|jit_probe_mem|kptr|linked_list|list_|map_kptr|obj_drop|percpu_alloc|rbtree|refcounted"
    r"|sched_ext|struct_ops|task_kfunc|task_work|user_ringbuf|\bwq|cgrp_kfunc|bpf_cubic|bpf_dctcp|bpf_cc_cubic|tcp_ca|bpf_gotox|stream"
)
_LATE_KFUNCS = re.compile(r"arena|dynptr|list_|obj_|percpu|rbtree|refcount|task_work|throw|wq_|stream")
_LATE_HELPERS = {194, 197, 198, 199, 200, 201, 202, 203, 209}  # kptr_xchg, dynptrs, user_ringbuf_drain
_LATE_MAPS = {26, 31, 33}  # struct_ops, user_ringbuf, arena
_STRUCT_OPS, _TRACING, _LSM, _EXT = 27, 26, 29, 28
_REFERENCES = {12, 84, 85, 86, 95, 96, 99, 131, 132, 133}  # tail_call, sockets, ringbuf records
_SECTIONS = {93, 94, 164, 169, 170, 171, 172, 180, 181}  # locks, for_each, timers, find_vma, loop
_PSEUDO_CALL, _PSEUDO_FUNC, _PSEUDO_BTF = 1, 4, 3


def stage_of(case: Case) -> Case:
    """The case with its stage."""
    return replace(case, stage=_stage(case))


def _stage(case: Case) -> int:
    if case.prog_type == _STRUCT_OPS or _LATE_FILES.search(case.file) or {each.type for each in case.maps} & _LATE_MAPS:
        return 4
    if any(_LATE_KFUNCS.search(name) for name in case.kfuncs.values()):
        return 4
    stage = 3 if case.kfuncs or case.ksyms or case.target or case.prog_type in (_TRACING, _LSM, _EXT) else 1
    code, wide = case.code, False
    for at in range(0, len(code), 8):
        if wide:
            wide = False
            continue
        opcode, src = code[at], code[at + 1] >> 4
        wide = opcode == LD_IMM64
        if opcode == CALL:
            helper = int.from_bytes(code[at + 4 : at + 8], "little")
            if src == 0 and helper in _LATE_HELPERS:
                return 4
            needs = 3 if src == KFUNC or (src == 0 and helper in _SECTIONS) else 2 if src == _PSEUDO_CALL or helper in _REFERENCES else 1
        elif wide:
            needs = 3 if src in (_PSEUDO_FUNC, _PSEUDO_BTF) else 1
        elif opcode == 0xBF and code[at + 2] == 1 and src:
            return 4  # a cast between address spaces
        elif opcode == 0xE5:
            needs = 3  # may_goto
        else:
            needs = 2 if opcode & 0xE7 == 0xC3 or (opcode & 0xC7 in (0x00, 0x40) and opcode & 0x20) else 1  # atomics, LD_ABS and LD_IND
        stage = max(stage, needs)
    return stage
