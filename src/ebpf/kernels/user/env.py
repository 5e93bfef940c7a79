"""Surroundings for programs that this process runs itself: test runs, replays, the interpreter."""

import ctypes
import os
import threading

from ebpf.engine.runtime.abi import KNOW_ALL, Env


def own_env(trace_address: int, cpus: int) -> Env:
    """An environment in which the current task is this thread."""
    env = Env()
    env.task.tid = threading.get_native_id()
    env.task.tgid = os.getpid()
    env.task.uid = os.getuid() if hasattr(os, "getuid") else 0
    env.task.gid = os.getgid() if hasattr(os, "getgid") else 0
    env.task.comm = _comm()
    env.task.known = KNOW_ALL
    env.trace = trace_address
    env.random = int.from_bytes(os.urandom(8), "little")
    env.ncpu = cpus
    return env


def _comm() -> bytes:
    try:
        with open("/proc/self/comm", "rb") as file:
            return file.read().rstrip(b"\n")[:15]
    except OSError:
        return b"python"


def pointer(env: Env) -> int:
    """Where an environment lies."""
    return ctypes.addressof(env)
