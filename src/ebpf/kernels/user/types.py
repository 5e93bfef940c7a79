"""The types of what this kernel has for programs: its functions, and the structs that they take."""

import re
from collections.abc import Mapping
from ctypes import sizeof
from functools import lru_cache
from typing import Final

from ebpf.btf import Btf, Builder
from ebpf.engine.runtime import address
from ebpf.engine.runtime.abi import Task
from ebpf.uapi import CONTEXTS, FieldKind
from ebpf.uapi.prog_types import WRITES_PACKETS

_NUMBERS: Final = {
    "char": (1, True),
    "bool": (1, False),
    "u8": (1, False),
    "int": (4, True),
    "u32": (4, False),
    "long": (8, True),
    "u64": (8, False),
    "size_t": (8, False),
}
_ROW_OF_WORDS: Final = re.compile(r"(cb|\w+_ip6)_?([0-4])")


def _context(name: str) -> tuple[int, tuple[tuple[str, str, int], ...]]:
    """A context struct as linux/bpf.h has it: rows of words are arrays there."""
    row = CONTEXTS[name]
    members: dict[str, tuple[str, str, int]] = {}
    for field in row.fields:
        found = _ROW_OF_WORDS.fullmatch(field.name)
        if found is None:
            members[field.name] = (field.name, "void *" if field.kind == FieldKind.POINTER else f"u{8 * field.size}", field.offset)
        else:
            first = members.get(found[1], ("", "", field.offset))
            members[found[1]] = (found[1], f"u32[{int(found[2]) + 1}]", first[2])
    return row.size, tuple(members.values())


#: Structs by name: bytes, and members with their types and places.
_STRUCTS: Final[dict[str, tuple[int, tuple[tuple[str, str, int], ...]]]] = {
    "bpf_iter_num": (8, (("__opaque", "u64", 0),)),
    "bpf_dynptr": (16, (("__opaque", "u64[2]", 0),)),
    "xdp_md": _context("xdp_md"),
    "__sk_buff": _context("__sk_buff"),
    "kernfs_node": (8, (("id", "u64", 0),)),
    "cgroup": (8, (("kn", "struct kernfs_node *", 0),)),
    "css_set": (8, (("dfl_cgrp", "struct cgroup *", 0),)),
    "task_struct": (
        sizeof(Task),
        (
            ("pid", "int", Task.tid.offset),
            ("tgid", "int", Task.tgid.offset),
            ("comm", "char[16]", Task.comm.offset),
            ("real_parent", "struct task_struct *", Task.real_parent.offset),
            ("parent", "struct task_struct *", Task.parent.offset),
            ("cgroups", "struct css_set *", Task.cgroups.offset),
        ),
    ),
}
#: Linux's prototypes of the functions that have a body here. The names of arguments tell the verifier what they are for.
_FUNCTIONS: Final = """
int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end)
int *bpf_iter_num_next(struct bpf_iter_num *it)
void bpf_iter_num_destroy(struct bpf_iter_num *it)
void bpf_rcu_read_lock(void)
void bpf_rcu_read_unlock(void)
void bpf_preempt_disable(void)
void bpf_preempt_enable(void)
int bpf_dynptr_from_skb(struct __sk_buff *s, u64 flags, struct bpf_dynptr *ptr__uninit)
int bpf_dynptr_from_xdp(struct xdp_md *x, u64 flags, struct bpf_dynptr *ptr__uninit)
void *bpf_dynptr_slice(struct bpf_dynptr *p, u32 offset, void *buffer__opt, u32 buffer__szk)
void *bpf_dynptr_slice_rdwr(struct bpf_dynptr *p, u32 offset, void *buffer__opt, u32 buffer__szk)
int bpf_dynptr_adjust(struct bpf_dynptr *p, u32 start, u32 end)
bool bpf_dynptr_is_null(struct bpf_dynptr *p)
bool bpf_dynptr_is_rdonly(struct bpf_dynptr *p)
u32 bpf_dynptr_size(struct bpf_dynptr *p)
int bpf_dynptr_clone(struct bpf_dynptr *p, struct bpf_dynptr *clone__uninit)
int bpf_dynptr_copy(struct bpf_dynptr *dst_ptr, u32 dst_off, struct bpf_dynptr *src_ptr, u32 src_off, u32 size)
int bpf_dynptr_memset(struct bpf_dynptr *p, u32 offset, u32 size, u8 val)
int bpf_strcmp(char *s1__ign, char *s2__ign)
int bpf_strcasecmp(char *s1__ign, char *s2__ign)
int bpf_strnchr(char *s__ign, size_t count, char c)
int bpf_strchr(char *s__ign, char c)
int bpf_strchrnul(char *s__ign, char c)
int bpf_strrchr(char *s__ign, int c)
int bpf_strnlen(char *s__ign, size_t count)
int bpf_strlen(char *s__ign)
int bpf_strspn(char *s__ign, char *accept__ign)
int bpf_strcspn(char *s__ign, char *reject__ign)
int bpf_strnstr(char *s1__ign, char *s2__ign, size_t len)
int bpf_strstr(char *s1__ign, char *s2__ign)
"""
_PROTOTYPE: Final = re.compile(r"(.+?)(\w+)\((.*)\)")


@lru_cache(maxsize=1)
def kernel_types() -> Btf:
    """All of them. A call of a function names it by its number here."""
    # Types refer to each other both ways: what their numbers are is known when all have been added once.
    return _Types(_Types({}).made).build()


@lru_cache(maxsize=256)
def function_address(number: int, prog_type: int) -> int:
    """The address of the body of a function by its number, for a type of program; 0 if it is none."""
    types = kernel_types()
    if not 0 < number < len(types):
        return 0
    name = types.name(number).removeprefix("bpf_")
    return (address(f"rt_reading_{name}") if prog_type not in WRITES_PACKETS else 0) or address(f"rt_kfunc_{name}")


class _Types(Builder):
    """Builds types out of C's spelling, each once."""

    def __init__(self, known: Mapping[str, int]) -> None:
        super().__init__()
        self._known = known
        #: The numbers of types by their spelling.
        self.made: dict[str, int] = {"void": 0}
        for name, (size, members) in _STRUCTS.items():
            made = [(member, self._type(text), at) for member, text, at in members]
            self.made[f"struct {name}"] = self.struct(name, size, made)
        for line in _FUNCTIONS.strip().splitlines():
            self._function(line)

    def _type(self, text: str) -> int:
        text = text.strip()
        if text not in self.made and text.startswith("struct ") and text[-1] != "*":
            return self._known.get(text, 0)
        if text not in self.made:
            if text.endswith("*"):
                made = self.ptr(self._type(text[:-1]))
            elif text.endswith("]"):
                element, _, length = text[:-1].partition("[")
                made = self.array(self._type(element), int(length), self._type("u32"))
            else:
                size, signed = _NUMBERS[text]
                made = self.integer(text, size, signed=signed, char=text == "char")
            self.made[text] = made
        return self.made[text]

    def _function(self, line: str) -> None:
        found = _PROTOTYPE.fullmatch(line)
        assert found is not None, line
        result, name, arguments = found.groups()
        members = []
        for argument in arguments.split(",") if arguments != "void" else ():
            text, _, member = re.sub(r"\*", "* ", argument.strip()).rpartition(" ")
            members.append((member, self._type(text)))
        self.func(name, self.func_proto(self._type(result), members), 1)
