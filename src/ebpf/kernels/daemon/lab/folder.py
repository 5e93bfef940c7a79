"""What a lab's shell finds: `ebpf`, `bpftool` and `clang` as commands, `bcc` as a module, names of the hosts."""

import os
import shutil
import stat
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import ebpf
from ebpf.kernels.daemon.lab.network import LAB_ADDRESS, LAB_ADDRESS6, PEER_ADDRESS, PEER_ADDRESS6

_BCC = '''"""`import bcc` in a laboratory is ebpf's."""

from ebpf.bcc.session import be_bcc

be_bcc(globals())
'''


class Folder:
    """The files of one lab. Remove them with close()."""

    def __init__(self, parent: Path) -> None:
        self.path = parent / f"lab-{os.getpid()}"
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(mode=0o700)
        self.socket = self.path / "ebpfd.sock"
        self.hosts = self.path / "hosts"
        self._bin = self.path / "bin"
        self._python = self.path / "python"
        self._commands()
        self._modules()
        self._names()

    def _commands(self) -> None:
        self._bin.mkdir()
        python = _quoted(sys.executable)
        # The package's own interpreter runs them, whichever python the lab's user has; its path is not the user's business.
        home = _quoted(str(Path(ebpf.__file__).parent.parent))
        for name, module in (("ebpf", "ebpf"), ("bpftool", "ebpf.cli.bpftool"), ("clang", "ebpf.cli.clang")):
            command = self._bin / name
            command.write_text(
                f'#!/bin/sh\nPYTHONPATH={home}${{EBPF_LAB_PYTHONPATH:+:$EBPF_LAB_PYTHONPATH}} exec {python} -m {module} "$@"\n'
            )
            command.chmod(command.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def _modules(self) -> None:
        (self._python / "bcc").mkdir(parents=True)
        (self._python / "bcc" / "__init__.py").write_text(_BCC)
        (self._python / "ebpf").symlink_to(Path(ebpf.__file__).parent)
        zig = find_spec("ziglang")
        if zig is not None and zig.submodule_search_locations:
            (self._python / "ziglang").symlink_to(next(iter(zig.submodule_search_locations)))

    def _names(self) -> None:
        try:
            known = Path("/etc/hosts").read_text()
        except OSError:
            known = "127.0.0.1 localhost\n"
        self.hosts.write_text(f"{known.rstrip()}\n{LAB_ADDRESS} lab\n{LAB_ADDRESS6} lab\n{PEER_ADDRESS} peer\n{PEER_ADDRESS6} peer\n")

    def environment(self, outside: Mapping[str, str], *, linux: bool) -> dict[str, str]:
        """The environment of the lab's shell."""
        env = dict(outside)
        before = env.get("PYTHONPATH", "")
        env["PATH"] = f"{self._bin}:{env.get('PATH') or os.defpath}"
        env["PYTHONPATH"] = f"{self._python}:{before}" if before else str(self._python)
        if before:
            env["EBPF_LAB_PYTHONPATH"] = before
        if linux:
            env.pop("EBPF_DAEMON", None)
        else:
            env["EBPF_DAEMON"] = str(self.socket)
        env["EBPF_KERNEL"] = "linux" if linux else "user"
        env["EBPF_LAB"] = str(os.getpid())
        return env

    def close(self) -> None:
        """Remove the files. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
