"""Checked mode against plain machine code: the ten programs without maps, on memory of their own.

"Counted" is what `ebpf vm run --unchecked` runs: no access is tested, but a budget of jumps backwards and calls ends it.
"""

import ctypes
import statistics
from functools import partial

from bench.engine.measure import alternate
from bench.engine.subject import BARE, native, packet, spec

from ebpf.engine.jit import compile_checked, compile_image, load_image
from ebpf.engine.program import Prepared
from ebpf.isa import decode

WANTED = 2.0


def table(rounds: int) -> None:
    """Print each program's times and the mean of their ratios."""
    loop = native().bench_time
    programs = spec(bare=True).programs
    ratios = []
    print(f"{'':<10}{'plain, ns':>12}{'checked, ns':>13}{'ratio':>7}{'counted, ns':>13}{'ratio':>7}")
    for name in BARE:
        program = Prepared(tuple(decode(programs[f"{name}_program"].insns)), 0, name=name)
        words = (ctypes.c_uint64 * 512)()
        memory = (ctypes.c_char * 1040).from_buffer(words)
        memory[:] = packet()
        at = ctypes.addressof(memory)
        image, values = compile_image(program, cache=False)
        assert not values
        plain, checked, counted = load_image(image, ()), compile_checked(program, {}), compile_checked(program, {}, accesses=False)
        answer = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p)(plain.entry)(at, None)
        runs: dict[str, tuple[int, int | None]] = {"plain": (plain.entry, None)}
        for mode, code in (("checked", checked), ("counted", counted)):
            assert code.run(memory, 1040) == answer, name
            code.run(memory, 1040, limit=1 << 62)
            runs[mode] = (ctypes.cast(code._entry, ctypes.c_void_p).value or 0, ctypes.addressof(code._env))
        row = alternate({key: partial(_run, loop, at, *where) for key, where in runs.items()}, rounds)
        ratios.append((row["checked"].ratio, row["counted"].ratio))
        ours = "".join(f"{row[mode].ns:>13.1f}{row[mode].ratio:>7.2f}" for mode in ("checked", "counted"))
        print(f"{name:<10}{row['plain'].ns:>12.1f}{ours}")
        for code in (plain, checked, counted):
            code.close()
    means = [statistics.geometric_mean(column) for column in zip(*ratios, strict=True)]
    print(f"{'geomean':<10}{'':>25}{means[0]:>7.2f}{'':>13}{means[1]:>7.2f}   (wanted of checked: <= {WANTED})")


def _run(loop, memory: int, entry: int, env: int | None, times: int) -> float:
    return loop(entry, memory, env, times, None) / times
