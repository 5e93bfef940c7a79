"""A page for each kind of refusal: what it means, code that is refused, code that is accepted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ebpf.engine.verifier import REASONS


@dataclass(frozen=True, slots=True)
class Page:
    """What `ebpf explain` prints of a reason. `bad` and `good` are C; `since` says which versions differ, if any do."""

    name: str
    meaning: str
    bad: str = ""
    good: str = ""
    since: str = ""

    @property
    def id(self) -> str:
        """The number of the reason."""
        return REASONS[self.name].id

    def text(self) -> str:
        """The page as plain text, which is Markdown too."""
        reason = REASONS[self.name]
        parts = [f"# {reason.id} {reason.name}: {reason.title}", self.meaning]
        if self.bad:
            parts.append("Refused:\n\n" + _indented(self.bad))
        if self.good:
            parts.append("Accepted:\n\n" + _indented(self.good))
        if self.since:
            parts.append(f"Versions: {self.since}")
        return "\n\n".join(parts) + "\n"


def _indented(code: str) -> str:
    return "\n".join("    " + line if line else "" for line in code.strip("\n").split("\n"))


_ROWS: Final = (
    Page(
        "packet-unproved",
        "A packet may be shorter than what is read. The verifier accepts a read only where a comparison with data_end has shown, on "
        "this way through the program, that the bytes are there.",
        "struct ethhdr *eth = data;\nreturn eth->h_proto;",
        "struct ethhdr *eth = data;\nif ((void *)(eth + 1) > data_end)\n    return XDP_PASS;\nreturn eth->h_proto;",
    ),
    Page(
        "packet-short",
        "There is a comparison with data_end, but it shows fewer bytes than are read: often the beginning of a header is compared "
        "instead of its end, or an outer header's end is taken for the inner one's.",
        "if ((void *)ip > data_end)\n    return XDP_PASS;\nreturn ip->protocol;",
        "if ((void *)(ip + 1) > data_end)\n    return XDP_PASS;\nreturn ip->protocol;",
    ),
    Page(
        "packet-moved",
        "A number that is not constant was added to a packet pointer. What was proved of the old place says nothing of the new one, "
        "so that the new pointer must be compared with data_end itself. The number must have an upper bound (65,535 at most).",
        "struct tcphdr *tcp = (void *)ip + ip->ihl * 4;\nreturn tcp->dest;",
        "struct tcphdr *tcp = (void *)ip + ip->ihl * 4;\nif ((void *)(tcp + 1) > data_end)\n    return XDP_PASS;\nreturn tcp->dest;",
    ),
    Page(
        "packet-void",
        "The helper may move the packet or change its length. All pointers into it are void afterwards: they count as numbers.",
        "bpf_xdp_adjust_head(ctx, -14);\nreturn eth->h_proto;",
        "bpf_xdp_adjust_head(ctx, -14);\ndata = (void *)(long)ctx->data;\ndata_end = (void *)(long)ctx->data_end;\neth = data;\n"
        "if ((void *)(eth + 1) > data_end)\n    return XDP_DROP;",
    ),
    Page(
        "not-a-pointer",
        "Memory is reached through a value that the verifier knows as a number: an argument of a traced function, an address that "
        "was read from the kernel, a pointer that a helper made void.",
        "struct task_struct *t = (void *)PT_REGS_PARM1(ctx);\nreturn t->pid;",
        "struct task_struct *t = (void *)PT_REGS_PARM1(ctx);\nreturn BPF_CORE_READ(t, pid);",
    ),
    Page(
        "maybe-null",
        "bpf_map_lookup_elem() and others return null when there is nothing. The result may be used only where a test has shown that "
        "it is not null.",
        "long *n = bpf_map_lookup_elem(&counts, &key);\n*n += 1;",
        "long *n = bpf_map_lookup_elem(&counts, &key);\nif (!n)\n    return 0;\n*n += 1;",
        "from Linux 6.14 on a lookup in an array with a constant index that is inside it needs no test",
    ),
    Page(
        "moved-maybe-null",
        "The pointer may be null and is moved before it is tested: &v->field and v[i] move it too. The test must come first.",
        "char *p = &v->name[3];\nif (!v)\n    return 0;",
        "if (!v)\n    return 0;\nchar *p = &v->name[3];",
    ),
    Page(
        "out-of-bounds",
        "The index or offset may, for some value that it can have here, lie outside of the memory. Often the comparison allows one "
        "too many (> instead of >=), or only one side is compared of a signed number.",
        "if (i > 64)\n    return 0;\nreturn v->bytes[i];   /* 64 of them */",
        "if (i >= 64)\n    return 0;\nreturn v->bytes[i];",
    ),
    Page(
        "unbounded-offset",
        "A pointer is moved by a number of which nothing is known, or nothing from below. The verifier needs both bounds, best by "
        "one comparison as an unsigned number, in the very variable that is used.",
        "int i = v->index;\nif (i > 15)\n    return 0;\nreturn v->bytes[i];",
        "__u32 i = v->index;\nif (i > 15)\n    return 0;\nreturn v->bytes[i];",
    ),
    Page(
        "negative-size",
        "The size given to a helper may be negative, which as an unsigned number is huge. A signed comparison alone does not help.",
        "int n = v->len;\nif (n > 64)\n    n = 64;\nbpf_probe_read_kernel(buf, n, src);",
        "__u32 n = v->len;\nif (n > 64)\n    n = 64;\nbpf_probe_read_kernel(buf, n, src);",
    ),
    Page(
        "unbounded-size",
        "The size given to a helper has no upper bound on this way.",
        "bpf_probe_read_kernel(buf, v->len, src);",
        "__u64 n = v->len;\nif (n > sizeof(buf))\n    n = sizeof(buf);\nbpf_probe_read_kernel(buf, n, src);",
    ),
    Page(
        "zero-size",
        "The helper does not take a size of 0, and here it may be 0.",
        "n &= 63;\nbpf_get_current_comm(buf, n);",
        "n &= 63;\nif (!n)\n    return 0;\nbpf_get_current_comm(buf, n);",
    ),
    Page(
        "uninitialised",
        "A register is read that nothing was written to on this way. A call leaves r1 to r5 without values. In C it is a variable "
        "without a value on some way, or a function of an int that returns nothing.",
        "int v;\nif (ctx->data)\n    v = 1;\nreturn v;",
        "int v = 0;\nif (ctx->data)\n    v = 1;\nreturn v;",
    ),
    Page(
        "uninitialised-stack",
        "Stack is read, by the program or by a helper, that nothing was written to. Fields that are set one by one leave the bytes "
        "between them (padding) unwritten.",
        "struct key k;\nk.port = 80;\nbpf_map_lookup_elem(&m, &k);",
        "struct key k;\n__builtin_memset(&k, 0, sizeof(k));\nk.port = 80;\nbpf_map_lookup_elem(&m, &k);",
        "programs with CAP_PERFMON may read unwritten stack from Linux 6.3 on, and in Debian's 6.1.192",
    ),
    Page(
        "stack-bounds",
        "The stack has 512 bytes below r10. An index into a local array may leave the array only if it stays in the stack, and a "
        "local array of more than 512 bytes does not fit.",
        "char buf[16];\nbuf[v->index] = 0;",
        "char buf[16];\n__u32 i = v->index;\nif (i < sizeof(buf))\n    buf[i] = 0;",
    ),
    Page(
        "leaked-reference",
        "What a helper acquired (memory of a ring buffer, a socket) must be given back on every way to the end of the program.",
        "e = bpf_ringbuf_reserve(&rb, sizeof(*e), 0);\nif (!e)\n    return 0;\nif (!wanted)\n    return 0;\nbpf_ringbuf_submit(e, 0);",
        "e = bpf_ringbuf_reserve(&rb, sizeof(*e), 0);\nif (!e)\n    return 0;\nif (!wanted) {\n    bpf_ringbuf_discard(e, 0);\n"
        "    return 0;\n}\nbpf_ringbuf_submit(e, 0);",
    ),
    Page(
        "null-argument",
        "A function of the kernel takes only pointers that are not null, and this one may be.",
        "p = bpf_task_from_pid(pid);\nbpf_task_release(p);",
        "p = bpf_task_from_pid(pid);\nif (p)\n    bpf_task_release(p);",
    ),
    Page(
        "endless-loop",
        "The loop came back to where it was and nothing that the verifier sees had changed, so that it may never end.",
        "while (v->flag)\n    ;",
        "for (int i = 0; i < 100 && v->flag; i++)\n    ;",
    ),
    Page(
        "too-complex",
        "The verifier walks at most 1,000,000 instructions, and each way through a loop counts. States that differ in a number that "
        "matters cannot be walked as one. A program of a few lines can take all of it.",
        "for (int i = 0; i < 100000; i++)\n    sum += table[i & 63] & (i ^ sum);",
        "bpf_loop(100000, step, &state, 0);",
        "bpf_loop() is there from Linux 5.17 on, bpf_for() from 6.4",
    ),
    Page(
        "stack-total",
        "Functions that call each other share 512 bytes of stack; each one's is rounded up to 16 bytes. Calls go 8 deep at most.",
        "static int inner(void) { char b[400]; ... }\nint outer(void *ctx) { char a[200]; return inner(); }",
        'struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); ... } buffers SEC(".maps");',
        "from Linux 6.13 on the functions of tracing programs have stacks of their own",
    ),
    Page(
        "helper-not-allowed",
        "Each program type has its own list of helpers.",
    ),
    Page(
        "context-access",
        "The context's fields have fixed places and widths, and not every program type may use all of them. The context pointer must "
        "not be moved before it is used, and the offset must be constant.",
        "__u64 x = *(__u64 *)&ctx->rx_queue_index;",
        "__u32 x = ctx->rx_queue_index;",
    ),
    Page(
        "return-value",
        "For this program type only some return values have a meaning, and another one may come out here.",
        "return v->count;   /* in a cgroup program */",
        "return v->count ? 1 : 0;",
    ),
    Page(
        "function-arguments",
        "A global function is judged on its own, by its types alone: a pointer argument may be null and points to one element of its "
        "type. What is passed must fit, and the function must test for null. A static function is walked with each call's values.",
        "__noinline int sum(struct pair *p) { return p->a + p->b; }",
        "__noinline int sum(struct pair *p) { return p ? p->a + p->b : 0; }",
    ),
    Page(
        "locked-call",
        "Between bpf_spin_lock() and bpf_spin_unlock() no helper and no function may be called.",
        "bpf_spin_lock(&v->lock);\nv->t = bpf_ktime_get_ns();\nbpf_spin_unlock(&v->lock);",
        "__u64 t = bpf_ktime_get_ns();\nbpf_spin_lock(&v->lock);\nv->t = t;\nbpf_spin_unlock(&v->lock);",
    ),
    Page("missing-information", "The program, its maps or the kernel lack types (BTF) or a feature that this needs. Compile with -g."),
    Page("invalid-instruction", "An instruction is none that the kernel of this version knows, or has fields set that must be 0."),
    Page(
        "misaligned",
        "The stack is reached at multiples of the access's width alone, and so is other memory by atomic instructions or when strict "
        "alignment was asked for.",
    ),
    Page(
        "pointer-arithmetic",
        "Pointers move by 64-bit additions and subtractions of numbers. Nothing else makes a pointer; some (the packet's end, maps) "
        "do not move at all.",
        "p = (void *)((long)p & ~7);",
        "p += 8 - off;",
    ),
    Page("argument-type", "The helper takes something else in this argument."),
    Page("read-only", "The memory may not be written by programs of this type (or not read, where a map is write-only for programs)."),
    Page("pointer-leak", "An address would leave the program. With CAP_PERFMON that is allowed; with CAP_BPF alone it is not."),
    Page("control-flow", "A jump or a call leaves its function, something is never reached, or functions call each other in a circle."),
    Page(
        "licence",
        "The helper is for programs with a GPL-compatible licence.",
        'char LICENSE[] SEC("license") = "MIT";',
        'char LICENSE[] SEC("license") = "Dual MIT/GPL";',
    ),
    Page("reference-misuse", "Only what was acquired, not moved and not yet given back, can be given back."),
    Page("lock-misuse", "Locks, RCU and preemption sections must be entered and left in pairs on every way, one lock at a time."),
    Page(
        "mixed-pointers",
        "The kernel rewrites accesses to the context and to its own objects, so that one instruction must always mean the same kind.",
    ),
    Page("map-type", "The helper does not take maps of this type."),
    Page("capability", "Without CAP_PERFMON the rules are stricter: offsets into the stack are constant, pointers stay inside."),
    Page("unknown", "This verifier does not know what the program uses. It says so instead of guessing: ask a Linux kernel."),
)
PAGES: Final[Mapping[str, Page]] = {row.name: row for row in _ROWS}


def page_of(word: str) -> Page | None:
    """The page by its number (`E0006`, `6`) or name (`maybe-null`)."""
    if word in PAGES:
        return PAGES[word]
    number = word.upper().removeprefix("E")
    if not number.isdigit():
        return None
    wanted = f"E{int(number):04d}"
    return next((page for page in _ROWS if page.id == wanted), None)
