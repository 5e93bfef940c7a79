"""What a run costs from Python: one call, a batch of packets, two threads."""

import statistics
import threading
import time

from bench.engine.subject import Subject, packet
from bench.replay import capture

_CALLS, _PACKETS, _LONG = 200_000, 30_000, 60_000


def table(rounds: int) -> None:
    subject = Subject()
    rounds = min(rounds, 15)
    data = packet()[:64]
    called = one(subject.ours.programs["parse_program"].function(), data, rounds)
    print(f"one run(bytes) of parse         {called:>8.1f} ns   (wanted: <= 120)")
    nothing = one(len, data, rounds)
    print(f"  len(bytes), for comparison    {nothing:>8.1f} ns")
    print(f"a packet of a batch, parse+count{batch(subject, rounds):>8.1f} ns   (wanted: <= 10)")
    wall, own = threads(subject, rounds)
    print(f"two threads                     {wall:>8.2f} x one   (wanted: >= 1.8 on two free CPUs; by their CPU time {own:.2f})")
    subject.close()


def one(function, data: bytes, rounds: int) -> float:
    """Nanoseconds a call, by the thread's CPU time; the loop around it is taken off."""
    samples = []
    for _ in range(rounds):
        begin = time.thread_time_ns()
        for _ in range(_CALLS):
            function(data)
        called = time.thread_time_ns()
        for _ in range(_CALLS):
            pass
        samples.append((called - begin - (time.thread_time_ns() - called)) / _CALLS)
    return statistics.median(samples)


def batch(subject: Subject, rounds: int) -> float:
    source = capture(_PACKETS)
    program = subject.ours.programs["count_program"]
    samples = []
    for _ in range(rounds):
        begin = time.thread_time_ns()
        stats = program.kernel.lab.replay(program.fd, source, repeat=40)
        samples.append((time.thread_time_ns() - begin) / stats.packets)
    return statistics.median(samples)


def threads(subject: Subject, rounds: int) -> tuple[float, float]:
    """How much more two threads do than one in the same time: at best by the clock, and in the middle by the threads' CPU time."""
    program = subject.ours.programs["prime_program"]

    def elapsed(count: int) -> tuple[float, float]:
        used: list[float] = []

        def work() -> None:
            begin = time.thread_time()
            program.run(packet(), repeat=_LONG)
            used.append(time.thread_time() - begin)

        each = [threading.Thread(target=work) for _ in range(count)]
        begin = time.monotonic()
        for thread in each:
            thread.start()
        for thread in each:
            thread.join()
        return time.monotonic() - begin, max(used)

    pairs = [(elapsed(1), elapsed(2)) for _ in range(rounds)]
    return max(2 * one[0] / two[0] for one, two in pairs), statistics.median(2 * one[1] / two[1] for one, two in pairs)
