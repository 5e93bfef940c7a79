"""Programs that ask for the kernel's types, symbols and options have the instructions that libbpf gives them, or fail as there."""

from dataclasses import replace
from pathlib import Path

import pytest

from ebpf.btf import Kind
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import EbpfError, FormatError, NotFoundError
from ebpf.isa import decode
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from support import libbpf
from support.lacking import has_type, need_type

LIB = libbpf.library()
pytestmark = [pytest.mark.linux, pytest.mark.skipif(LIB is None, reason="libbpf.so.1 is not installed")]
HEAD = """
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
char LICENSE[] SEC("license") = "GPL";
#define CORE __attribute__((preserve_access_index))
struct list_head { struct list_head *next, *prev; } CORE;
struct nsproxy;
struct upid { int nr; } CORE;
struct pid { unsigned level; struct upid numbers[1]; } CORE;
struct sched_entity { unsigned long long vruntime; struct list_head group_node; } CORE;
struct task_struct { char comm[4]; int pid; int tgid; struct task_struct *real_parent; struct sched_entity se; struct pid *thread_pid;
                     unsigned in_execve:1; unsigned sched_reset_on_fork:1; short prio; unsigned short policy; struct nsproxy *nsproxy; } CORE;
struct task_struct___old { int gone; long state; } CORE;
struct task_struct___new { unsigned int __state; } CORE;
struct nothing_like_it { int a; } CORE;
struct sk_buff { unsigned len; unsigned char pkt_type:3; unsigned cloned:1; } CORE;
enum bpf_map_type___other { BPF_MAP_TYPE_HASH___other = 77, BPF_MAP_TYPE_NONE_SUCH___other = 3 };
typedef int pid_t;
typedef struct { int counter; } atomic_t;
typedef unsigned (*no_such_callback_t)(int);
int out[8]; unsigned long long wide[8];
#define TASK ((struct task_struct *)bpf_get_current_task())
"""
#: Each a program of its own: the section, and its body.
CASES = {
    "byte_offset": ("raw_tp/sys_enter", "bpf_core_read(&out, 8, &TASK->tgid);"),
    "through_pointers": ("raw_tp/sys_enter", "out[0] = BPF_CORE_READ(TASK, real_parent, real_parent, tgid);"),
    "nested_and_element": ("raw_tp/sys_enter", "out[0] = BPF_CORE_READ(TASK, thread_pid, numbers[0].nr);"),
    "flexible_beyond": ("raw_tp/sys_enter", "bpf_core_read(&out, 4, &((struct pid *)0)->numbers[0].nr);"),
    "array": ("raw_tp/sys_enter", "bpf_core_read_str(&out, 8, &TASK->comm[1]);"),
    "direct_load": ("tp_btf/sched_switch", "struct task_struct *t = ((void **)ctx)[1]; out[0] = t->tgid; out[1] = t->real_parent->pid;"),
    "load_resized": ("tp_btf/sched_switch", "struct task_struct *t = ((void **)ctx)[1]; out[0] = t->prio;"),
    "unsigned_load_resized": ("tp_btf/sched_switch", "struct task_struct *t = ((void **)ctx)[1]; out[0] = t->policy; t = 0;"),
    "byte_size": ("raw_tp/sys_enter", "out[0] = bpf_core_field_size(struct task_struct, comm) + bpf_core_field_size(struct task_struct, prio);"),
    "offset_of": ("raw_tp/sys_enter", "out[0] = bpf_core_field_offset(struct task_struct, se.group_node);"),
    "exists": (
        "raw_tp/sys_enter",
        "out[0] = bpf_core_field_exists(TASK->pid); out[1] = bpf_core_field_exists(struct task_struct___old, gone);",
    ),
    "flavours": (
        "raw_tp/sys_enter",
        "struct task_struct___new *n = (void *)TASK; struct task_struct___old *o = (void *)TASK;"
        " out[0] = bpf_core_field_exists(n->__state) ? BPF_CORE_READ(n, __state) : BPF_CORE_READ(o, state);",
    ),
    "bitfield_probed": ("raw_tp/sys_enter", "wide[0] = BPF_CORE_READ_BITFIELD_PROBED(TASK, sched_reset_on_fork);"),
    "bitfield_direct": ("tp_btf/kfree_skb", "struct sk_buff *s = ((void **)ctx)[0]; wide[0] = BPF_CORE_READ_BITFIELD(s, pkt_type);"),
    "signedness": (
        "raw_tp/sys_enter",
        "out[0] = __builtin_preserve_field_info(TASK->prio, BPF_FIELD_SIGNED); "
        "out[1] = __builtin_preserve_field_info(TASK->sched_reset_on_fork, BPF_FIELD_SIGNED);",
    ),
    "shifts": (
        "raw_tp/sys_enter",
        "out[0] = __builtin_preserve_field_info(TASK->prio, BPF_FIELD_LSHIFT_U64); "
        "out[1] = __builtin_preserve_field_info(TASK->prio, BPF_FIELD_RSHIFT_U64);",
    ),
    "type_exists": (
        "raw_tp/sys_enter",
        "out[0] = bpf_core_type_exists(struct task_struct); out[1] = bpf_core_type_exists(struct nothing_like_it);"
        " out[2] = bpf_core_type_exists(pid_t); out[3] = bpf_core_type_exists(no_such_callback_t);",
    ),
    "type_size": ("raw_tp/sys_enter", "out[0] = bpf_core_type_size(struct task_struct); out[1] = bpf_core_type_size(struct nothing_like_it);"),
    "type_id_target": ("raw_tp/sys_enter", "wide[0] = bpf_core_type_id_kernel(struct task_struct); wide[1] = bpf_core_type_id_kernel(atomic_t);"),
    "type_id_local": ("raw_tp/sys_enter", "wide[0] = bpf_core_type_id_local(struct task_struct);"),
    "type_matches": (
        "raw_tp/sys_enter",
        "out[0] = bpf_core_type_matches(struct task_struct); out[1] = bpf_core_type_matches(struct list_head);"
        " out[2] = bpf_core_type_matches(pid_t); out[3] = bpf_core_type_matches(struct pid);",
    ),
    "enumval_exists": (
        "raw_tp/sys_enter",
        "out[0] = bpf_core_enum_value_exists(enum bpf_map_type___other, BPF_MAP_TYPE_HASH___other);"
        " out[1] = bpf_core_enum_value_exists(enum bpf_map_type___other, BPF_MAP_TYPE_NONE_SUCH___other);",
    ),
    "enumval_value": ("raw_tp/sys_enter", "wide[0] = bpf_core_enum_value(enum bpf_map_type___other, BPF_MAP_TYPE_HASH___other);"),
    "poisoned_and_unreached": (
        "raw_tp/sys_enter",
        "struct task_struct___old *o = (void *)TASK; if (bpf_core_field_exists(o->gone)) out[0] = BPF_CORE_READ(o, gone);",
    ),
    "poisoned_and_reached": ("raw_tp/sys_enter", "struct task_struct___old *o = (void *)TASK; out[0] = BPF_CORE_READ(o, gone);"),
    "poisoned_number": ("raw_tp/sys_enter", "wide[0] = bpf_core_enum_value(enum bpf_map_type___other, BPF_MAP_TYPE_NONE_SUCH___other);"),
    "iterator": ("iter/task", "out[0]++;"),
    "no_such_iterator": ("iter/no_such", "out[0]++;"),
    "no_such_tracepoint": ("tp_btf/no_such", "out[0]++;"),
    "registers": ("kprobe/do_nothing", "out[0] = PT_REGS_PARM2((struct pt_regs *)ctx);"),
}  # fmt: skip
EXTERNS = """
struct rq { int cpu; unsigned nr_running; } CORE;
extern unsigned LINUX_KERNEL_VERSION __kconfig;
extern unsigned CONFIG_HZ __kconfig __weak;
extern bool CONFIG_BPF_SYSCALL __kconfig;
extern enum libbpf_tristate CONFIG_NET __kconfig;
extern char CONFIG_CC_VERSION_TEXT[8] __kconfig;
extern char CONFIG_BPF_JIT __kconfig;
extern unsigned long CONFIG_NO_SUCH_OPTION __kconfig __weak;
extern bool LINUX_HAS_SYSCALL_WRAPPER __kconfig;
extern const struct rq runqueues __ksym;
extern const void no_such_variable __ksym __weak;
extern const void _stext __ksym __weak;
extern const struct rq no_such_typed_variable __ksym __weak;
extern struct task_struct *bpf_task_from_pid(int pid) __ksym;
extern void bpf_task_release(struct task_struct *p) __ksym;
extern int no_such_function(int x) __ksym __weak;
SEC("raw_tp/sys_enter") int options(void *ctx)
{
    out[0] = LINUX_KERNEL_VERSION; out[1] = CONFIG_HZ; out[2] = CONFIG_BPF_SYSCALL; out[3] = CONFIG_NET; out[4] = CONFIG_BPF_JIT;
    out[5] = CONFIG_NO_SUCH_OPTION; out[6] = LINUX_HAS_SYSCALL_WRAPPER;
    return CONFIG_CC_VERSION_TEXT[0] == 'g';
}
SEC("raw_tp/sys_enter") int variables(void *ctx)
{
    out[2] = &no_such_variable != 0; wide[0] = (unsigned long)&_stext; out[3] = &no_such_typed_variable != 0;
    return 0;
}
SEC("raw_tp/sys_enter") int per_cpu(void *ctx)
{
    struct rq *rq = (struct rq *)bpf_per_cpu_ptr(&runqueues, 0);
    if (rq) out[0] = rq->cpu;
    return 0;
}
SEC("tp_btf/sched_switch") int weak_function(void *ctx) { if (bpf_ksym_exists(no_such_function)) out[1] = no_such_function(3); return 0; }
SEC("tp_btf/sched_switch") int functions(void *ctx)
{
    struct task_struct *t = bpf_task_from_pid(1);
    if (t) { out[0] = t->tgid; bpf_task_release(t); }
    return 0;
}
"""


def source() -> str:
    return HEAD + "\n".join(f'SEC("{section}") int {name}(void *ctx) {{ {body} return 0; }}' for name, (section, body) in CASES.items())


def compare(text: str, path: Path) -> dict[str, tuple[libbpf.Verdict, libbpf.Verdict | EbpfError]]:
    """Each program of an object as libbpf and as ours loads it."""
    path.write_bytes(compile_c(f"{path.stem}.c", text=text).object)
    assert LIB is not None
    theirs = libbpf.verdicts(LIB, str(path))
    spec = read_object(path.read_bytes(), str(path))
    assert list(spec.programs) == list(theirs)
    out: dict[str, tuple[libbpf.Verdict, libbpf.Verdict | EbpfError]] = {}
    with open_kernel("linux") as kernel:
        for name, verdict in theirs.items():
            try:
                with Collection.load(replace(spec, programs={name: spec.programs[name]}), kernel) as held:
                    info = held.programs[name].info(images=True)
                    lines = len(info.line_info) // (info.line_info_rec_size or 16)
                    funcs = len(info.func_info) // (info.func_info_rec_size or 8)
                    ours: libbpf.Verdict | EbpfError = libbpf.Verdict(0, info.type, info.tag.hex(), info.xlated_len, funcs, lines)
            except EbpfError as error:
                ours = error
            out[name] = verdict, ours
    return out


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[libbpf.Verdict, libbpf.Verdict | EbpfError]]:
    return compare(source(), tmp_path_factory.mktemp("core") / "core.bpf.o")


REFUSED = {"load_resized", "poisoned_and_reached", "poisoned_number", "no_such_iterator", "no_such_tracepoint"}


@pytest.mark.parametrize("case", CASES)
def test_a_relocated_program_is_libbpfs(case: str, pairs: dict[str, tuple[libbpf.Verdict, libbpf.Verdict | EbpfError]]) -> None:
    theirs, ours = pairs[case]
    if case in REFUSED:
        assert isinstance(ours, EbpfError)
        assert theirs.errno == ours.errno
    else:
        assert theirs.errno == 0
        assert ours == theirs


def test_a_field_that_is_missing_is_named_when_it_is_needed(pairs: dict[str, tuple[libbpf.Verdict, libbpf.Verdict | EbpfError]]) -> None:
    _, ours = pairs["poisoned_and_reached"]
    assert "needs struct task_struct___old.gone, which this kernel has not" in str(ours)
    _, ours = pairs["no_such_iterator"]
    assert isinstance(ours, NotFoundError)
    assert str(ours).startswith("no iterator 'no_such' in this kernel's types")


def test_options_variables_and_functions_are_libbpfs(tmp_path: Path) -> None:
    text = EXTERNS
    if not has_type("bpf_task_from_pid", Kind.FUNC):
        # Linux 6.2 has the first functions on tasks; without them libbpf loads nothing of such an object.
        kept = text[: text.index('SEC("tp_btf/sched_switch") int functions')].splitlines()
        text = "\n".join(line for line in kept if "bpf_task_" not in line) + "\n"
    got = compare(HEAD + text, tmp_path / "externs.bpf.o")
    # Debian's libbpf 1.1 leaves 0 in a call that is never made, later ones (and ours) a helper that there is not.
    theirs, ours = got.pop("weak_function")
    assert (theirs.errno, isinstance(ours, libbpf.Verdict)) == (0, True)
    # A kernel without CONFIG_KALLSYMS_ALL does not find its own variables.
    theirs, ours = got.pop("per_cpu")
    assert ours == theirs or (theirs.errno and "'runqueues'" in str(ours))
    assert {name: ours for name, (_, ours) in got.items()} == {name: theirs for name, (theirs, _) in got.items()}
    assert all(theirs.errno == 0 for theirs, _ in got.values())


def test_a_weak_function_that_is_missing_leaves_a_call_that_no_kernel_has() -> None:
    spec = read_object(compile_c("externs.c", text=HEAD + EXTERNS).object)
    with open_kernel("linux") as kernel, Collection.load(spec, kernel, load=False, programs=["weak_function"]) as held:
        calls = [insn for insn in decode(held.programs["weak_function"].insns) if insn.opcode == 0x85]
        assert [(insn.src, insn.off, insn.imm) for insn in calls] == [(0, 0, 2002000000 + list(spec.externs).index("no_such_function"))]


@pytest.mark.parametrize(
    ("extern", "use", "why"),
    [
        ("extern int CONFIG_NO_SUCH_OPTION __kconfig;", "CONFIG_NO_SUCH_OPTION", "no kernel option 'CONFIG_NO_SUCH_OPTION'"),
        ("extern int CONFIG_NET __kconfig;", "CONFIG_NET", "CONFIG_NET: the kernel's y needs a bool"),
        ("extern int no_such_function(int x) __ksym;", "no_such_function(1)", "no kernel function 'no_such_function'"),
        ("extern const void no_such_variable __ksym;", "(long)&no_such_variable", "no kernel symbol 'no_such_variable'"),
        ("extern int bpf_task_release(int x) __ksym;", "bpf_task_release(1)", "bpf_task_release: is declared with another type"),
    ],
)
def test_what_the_kernel_has_not_is_named(extern: str, use: str, why: str, tmp_path: Path) -> None:
    if "bpf_task_release" in extern:
        need_type("bpf_task_release", Kind.FUNC)
    text = HEAD + f'{extern}\nSEC("tp_btf/sched_switch") int f(void *ctx) {{ wide[0] = {use}; return 0; }}\n'
    got = compare(text, tmp_path / "missing.bpf.o")
    theirs, ours = got["f"]
    assert isinstance(ours, NotFoundError | FormatError)
    assert ours.errno == theirs.errno
    assert why in str(ours)
