"""Kernel functions that programs call by name: iterators over numbers, sections, strings; in every engine as on Linux."""

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import EbpfError, NotFoundError
from ebpf.object import Collection
from ebpf.sys.kernel import Kernel

HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
"""
LOOPS = (
    HEAD
    + """
long sum, rounds, errors[4];
int from, to;
SEC("tc") int numbers(struct __sk_buff *skb)
{
    struct bpf_iter_num it;
    int i, *at;
    sum = rounds = 0;
    bpf_for(i, 0, 1000) {
        if (i == 700)
            break;
        sum += i;
    }
    bpf_repeat(12)
        rounds++;
    errors[0] = bpf_iter_num_new(&it, from, to);
    errors[1] = 0;
    while ((at = bpf_iter_num_next(&it)))
        errors[1] += *at;
    errors[2] = bpf_iter_num_next(&it) != 0;
    bpf_iter_num_destroy(&it);
    return 0;
}
"""
)
STRINGS = (
    HEAD
    + """
extern int bpf_strcmp(const char *a, const char *b) __ksym;
extern int bpf_strnchr(const char *s, __kernel_size_t n, char c) __ksym;
extern int bpf_strchr(const char *s, char c) __ksym;
extern int bpf_strchrnul(const char *s, char c) __ksym;
extern int bpf_strrchr(const char *s, int c) __ksym;
extern int bpf_strnlen(const char *s, __kernel_size_t n) __ksym;
extern int bpf_strlen(const char *s) __ksym;
extern int bpf_strspn(const char *s, const char *accept) __ksym;
extern int bpf_strcspn(const char *s, const char *reject) __ksym;
extern int bpf_strnstr(const char *a, const char *b, __kernel_size_t n) __ksym;
extern int bpf_strstr(const char *a, const char *b) __ksym;
unsigned char text[512], part[512], which;
#define one ((const char *)text)
#define two ((const char *)part)
__u64 many;
int answers[12];
SEC("tc") int all(struct __sk_buff *skb)
{
    answers[0] = bpf_strcmp(one, two);
    answers[1] = bpf_strnchr(one, many, which);
    answers[2] = bpf_strchr(one, which);
    answers[3] = bpf_strchrnul(one, which);
    answers[4] = bpf_strrchr(one, which);
    answers[5] = bpf_strnlen(one, many);
    answers[6] = bpf_strlen(one);
    answers[7] = bpf_strspn(one, two);
    answers[8] = bpf_strcspn(one, two);
    answers[9] = bpf_strnstr(one, two, many);
    answers[10] = bpf_strstr(one, two);
    answers[11] = bpf_strlen((const char *)8);
    return 0;
}
"""
)
SECTIONS = (
    HEAD
    + """
extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;
extern void bpf_preempt_disable(void) __ksym;
extern void bpf_preempt_enable(void) __ksym;
SEC("tc") int sections(struct __sk_buff *skb)
{
    bpf_rcu_read_lock();
    bpf_preempt_disable();
    int length = skb->len;
    bpf_preempt_enable();
    bpf_rcu_read_unlock();
    return length;
}
"""
)


def load(kernel: Kernel, text: str) -> Collection:
    return Collection.load(read_object(compile_c("kfuncs.bpf.c", text=text).object, "kfuncs.o"), kernel)


@pytest.mark.parametrize(
    ("first", "end", "expected"),
    [
        (3, 6, [0, 12, 0, 0]),
        (-3, 2, [0, -5, 0, 0]),
        (5, 5, [0, 0, 0, 0]),
        (6, 5, [-22, 0, 0, 0]),
        (-(1 << 31), -(1 << 31) + 2, [0, -(1 << 32) + 1, 0, 0]),
        ((1 << 31) - 3, (1 << 31) - 1, [0, (1 << 32) - 5, 0, 0]),
        (0, (1 << 23) + 1, [-7, 0, 0, 0]),
        (-(1 << 31), (1 << 31) - 1, [-7, 0, 0, 0]),
    ],
)
def test_numbers_are_gone_through(kernel: Kernel, engine: str, first: int, end: int, expected: list[int]) -> None:
    with load(kernel, LOOPS) as held:
        held.set_variable("from", first)
        held.set_variable("to", end)
        assert held.programs["numbers"].run(bytes(64)).retval == 0
        found = held.variables()
        assert (found["sum"], found["rounds"], list(found["errors"])) == (sum(range(700)), 12, expected)


TEXTS = [
    # one, two, which, many: strcmp, strnchr, strchr, strchrnul, strrchr, strnlen, strlen, strspn, strcspn, strnstr, strstr
    (b"hello, world", b"hello", b"o", 5, (1, 4, 4, 4, 8, 5, 12, 5, 0, 0, 0)),
    (b"hello", b"world", b"l", 3, (-1, 2, 2, 2, 3, 3, 5, 0, 2, -2, -2)),
    (b"", b"", b"x", 3, (0, -2, -2, 0, -2, 0, 0, 0, 0, 0, 0)),
    (b"abcabc", b"ca", b"\0", 4, (-1, -2, 6, 6, 6, 4, 6, 1, 0, 2, 2)),
    (b"abcabc", b"bca", b"c", 3, (-1, 2, 2, 2, 5, 3, 6, 6, 0, -2, 1)),
    (b"x" * 300 + b"y", b"x", b"y", 300, (1, -2, 300, 300, 300, 300, 301, 300, 0, 0, 0)),
    (b"x" * 300 + b"\xff", b"x" * 300 + b"\x01", b"\xff", 1 << 20, (1, 300, 300, 300, 300, 301, 301, 300, 0, -2, -2)),
]


@pytest.mark.parametrize("row", TEXTS, ids=[str(n) for n in range(len(TEXTS))])
def test_strings_are_compared_and_searched(kernel: Kernel, engine: str, row: tuple[bytes, bytes, bytes, int, tuple[int, ...]]) -> None:
    one, two, which, many, expected = row
    with load(kernel, STRINGS) as held:
        held.set_variable("text", list(one.ljust(512, b"\0")))
        held.set_variable("part", list(two.ljust(512, b"\0")))
        held.set_variable("which", which[0])
        held.set_variable("many", many)
        held.programs["all"].run(bytes(64))
        assert tuple(held.variables()["answers"]) == (*expected, -34)


def test_sections_end_where_they_began(kernel: Kernel, engine: str) -> None:
    with load(kernel, SECTIONS) as held:
        assert held.programs["sections"].run(bytes(64)).retval == 64
    with pytest.raises(EbpfError, match=r"rcu_read_lock|RCU|section") as raised:
        load(kernel, SECTIONS.replace("    bpf_rcu_read_unlock();\n", "")).close()
    assert "\n" not in str(raised.value)


def test_a_function_that_there_is_not_is_named(kernel: Kernel) -> None:
    with pytest.raises(NotFoundError, match="bpf_no_such_function"):
        load(kernel, SECTIONS.replace("bpf_preempt_enable", "bpf_no_such_function")).close()


def test_a_program_can_ask_which_functions_there_are(kernel: Kernel, engine: str) -> None:
    text = (
        HEAD
        + """
extern int bpf_strlen(const char *s) __ksym __weak;
extern int bpf_no_such_function(const char *s) __ksym __weak;
SEC("tc") int ask(struct __sk_buff *skb)
{
    static char text[] = "four";
    if (bpf_ksym_exists(bpf_no_such_function))
        return bpf_no_such_function(text);
    return bpf_ksym_exists(bpf_strlen) ? bpf_strlen(text) : 0;
}
"""
    )
    with load(kernel, text) as held:
        assert held.programs["ask"].run(bytes(64)).retval == 4


def test_fields_of_contexts_are_where_they_are_documented(kernel: Kernel, engine: str) -> None:
    """Whatever types the kernel tells: the structs of linux/bpf.h are those that programs have."""
    text = (
        HEAD.replace(
            "#include <linux/bpf.h>", "#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)"
        ).replace("#include <bpf/bpf_helpers.h>", "#include <linux/bpf.h>\n#pragma clang attribute pop\n#include <bpf/bpf_helpers.h>")
        + """
SEC("tc") int fields(struct __sk_buff *skb)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    skb->cb[3] = 5;
    skb->priority = 7;
    if (data + 2 > end)
        return 1;
    return skb->cb[3] + skb->len * 100 + skb->priority * 100000;
}
SEC("xdp") int ends(struct xdp_md *ctx) { return (void *)(long)ctx->data_end - (void *)(long)ctx->data == 64 ? XDP_PASS : XDP_DROP; }
"""
    )
    with load(kernel, text) as held:
        assert held.programs["ends"].run(bytes(64)).retval == 2
        assert held.programs["fields"].run(bytes(64)).retval == 5 + 6400 + 700000
