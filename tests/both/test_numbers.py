"""Numbers out of text: both kernels read as many bytes and get the same number."""

import random

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.sys.kernel import Kernel

TEXT = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
long read, number, read_unsigned;
unsigned long natural;
unsigned long long base;
SEC("tc") int numbers(struct __sk_buff *skb)
{
    char text[40];
    long value = 5;
    unsigned long other = 5;
    if (bpf_skb_load_bytes(skb, 14, text, sizeof(text)))
        return 1;
    read = bpf_strtol(text, sizeof(text), base, &value);
    number = value;
    read_unsigned = bpf_strtoul(text, sizeof(text), base, &other);
    natural = other;
    return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""
TEXTS = (
    *("0", "12", "-12", "+7", "0x1F", "0X1f", "0x", "0xg", "017", "08", "-0x10", "-017", "--", "-", "", " ", "  42", "\t\n-3 "),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "18446744073709551615"),
    *("18446744073709551616", "-18446744073709551615", "12ab", "ff", "zz", "\xa07", "0" * 40, "1" * 40),
)


def frame(text: str) -> bytes:
    return bytes(14) + text.encode("latin-1").ljust(40, b"\0")[:40]


def results(loaded: Collection, text: str, base: int) -> tuple[object, ...]:
    loaded.set_variable("base", base)
    assert loaded.programs["numbers"].run(frame(text)).retval == 0
    values = loaded.variables()
    return tuple(values[name] for name in ("read", "number", "read_unsigned", "natural"))


@pytest.mark.parametrize(
    ("text", "base", "expected"),
    [
        ("42 ", 0, (2, 42, 2, 42)),
        ("-0x1f", 0, (5, -31, -22, 0)),
        ("ff", 16, (2, 255, 2, 255)),
        ("18446744073709551615", 10, (-34, 0, 20, 2**64 - 1)),
        ("seven", 0, (-22, 0, -22, 0)),
        ("1", 7, (-22, 0, -22, 0)),
    ],
)
def test_a_number_is_read(kernel: Kernel, text: str, base: int, expected: tuple[int, ...]) -> None:
    with Collection.load(read_object(compile_c("numbers.bpf.c", text=TEXT).object), kernel) as loaded:
        read = results(loaded, text, base)
    if expected[0] < 0:
        # What stands in the variable after an error is Linux's affair.
        assert read[0] == expected[0]
    else:
        assert read[:2] == expected[:2]
    assert read[2] == expected[2]


@pytest.mark.linux
def test_both_kernels_read_alike() -> None:
    chance = random.Random(5)
    texts = [*TEXTS, *("".join(chance.choices(" -0x1289afz", k=chance.randrange(12))) for _ in range(300))]
    spec = read_object(compile_c("numbers.bpf.c", text=TEXT).object)
    with (
        open_kernel("user") as user,
        open_kernel("linux") as linux,
        Collection.load(spec, user) as ours,
        Collection.load(spec, linux) as theirs,
    ):
        for text in texts:
            for base in (0, 8, 10, 16, 3, 1 << 33):
                assert (text, base, results(ours, text, base)) == (text, base, results(theirs, text, base))
