"""A command in a virtual machine with a kernel of Debian's: it sees this machine's files, and nothing of what it writes is kept.

    python tests/vm/machine.py [--kernel 6.1|6.12] [--seconds N] [--keep FOLDER] COMMAND [ARGUMENT ...]

What the command prints is printed, its exit status is ours (125: there can be no machine here, 124: it came to no end). It is root
there, in the folder that we are in; what it writes into FOLDER stays. Needs root, for the files; qemu-system-x86, busybox-static and
apt-get, of Debian. KVM is not asked for: it does not work on hosts that are virtual machines themselves in another way.
"""

import argparse
import io
import lzma
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

#: Debian's package that stands for the newest kernel of a line.
KERNELS = {"6.1": "linux-image-cloud-amd64", "6.12": "linux-image-6.12-cloud-amd64"}
#: What the first process needs, then what the tests of attaching do.
MODULES = ("virtio_pci", "virtiofs", "overlay", "veth", "tun", "sch_ingress", "cls_bpf", "dummy")
IMPOSSIBLE, FAILED = 125, 124
_VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
_PASSED_ON = ("PATH", "HOME", "LANG", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "XDG_CACHE_HOME", "EBPF_KERNEL")
_CPIO_END = "TRAILER!!!"


class MachineError(Exception):
    """The machine cannot be had here; one line."""

    status = IMPOSSIBLE


class DidNotEndError(MachineError):
    """It was had, and its command came to no end."""

    status = FAILED


def missing() -> str:
    """Why there can be no machine here ("" if there can)."""
    for name, package in (("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("dpkg-deb", "dpkg")):
        if shutil.which(name) is None:
            return f"{name} is not installed (apt-get install --no-install-recommends {package})"
    if not any(map(os.path.exists, _VIRTIOFSD)):
        return "virtiofsd is not installed (apt-get install qemu-system-common)"
    return "" if os.geteuid() == 0 else "the machine sees this one's files: that needs root"


# -- Debian's kernel


def package_of(kernel: str) -> str:
    """The package with the newest kernel of a line, as apt knows it."""
    answer = _said(["apt-cache", "depends", KERNELS[kernel]])
    found = re.search(r"Depends: (linux-image-\S+)", answer)
    if found is None:
        raise MachineError(f"apt knows no kernel {kernel}: {KERNELS[kernel]} is not in its lists")
    return found[1]


def fetched(kernel: str, folder: Path) -> Path:
    """The package's file in `folder`, fetched if it is not there yet."""
    package = package_of(kernel)
    known = sorted(folder.glob(f"{package}_*.deb"))
    if not known:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"fetching {package}", file=sys.stderr)
        _said(["apt-get", "download", "-q", package], cwd=folder)
        known = sorted(folder.glob(f"{package}_*.deb"))
    return known[-1]


def _said(command: Sequence[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MachineError(f"{shlex.join(command)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def contents(package: Path) -> tuple[bytes, bytes, dict[str, bytes]]:
    """The kernel in a package, how it was configured, and its modules by name."""
    kernel, config, modules = b"", b"", dict[str, bytes]()
    unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as files:
        for file in files:
            name = os.path.basename(file.name)
            data = files.extractfile(file) if name.startswith(("vmlinuz", "config-")) or ".ko" in name else None
            if data is None:
                continue
            if name.startswith("vmlinuz"):
                kernel = data.read()
            elif name.startswith("config-"):
                config = data.read()
            else:
                modules[name.partition(".ko")[0].replace("-", "_")] = data.read()
    return kernel, config, modules


def in_order(wanted: Sequence[str], modules: dict[str, bytes]) -> dict[str, bytes]:
    """The wanted modules and those that they need, what is needed first. What is no module is in the kernel already."""
    out: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in out or name not in modules:
            return
        data = modules[name]
        code = lzma.decompress(data) if data.startswith(b"\xfd7zXZ") else data
        found = re.search(rb"\0depends=([^\0]*)\0", code)
        for each in found[1].decode().split(",") if found else ():
            add(each.replace("-", "_"))
        out[name] = code

    for name in wanted:
        add(name)
    return out


# -- the first files


def cpio(files: dict[str, bytes]) -> bytes:
    """An archive in the form that the kernel unpacks ("newc"); each file can be run."""
    out = io.BytesIO()
    folders = dict.fromkeys(str(parent) for name in files for parent in reversed(Path(name).parents) if str(parent) != ".")
    rows: Iterator[tuple[str, int, bytes]] = iter(
        [*((name, 0o040755, b"") for name in folders), *((name, 0o100755, data) for name, data in files.items()), (_CPIO_END, 0, b"")]
    )
    for number, (name, mode, data) in enumerate(rows, start=1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        for part in (head, data):
            out.write(part + bytes(-len(part) % 4))
    return out.getvalue()


def first_files(command: Sequence[str], config: bytes, modules: dict[str, bytes], keep: str = "") -> bytes:
    """What the machine starts with: the first process, busybox, modules, the kernel's configuration, the command and what is kept."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    settings = "".join(f"export {name}={shlex.quote(os.environ[name])}\n" for name in _PASSED_ON if name in os.environ)
    return cpio(
        {
            "init": Path(__file__).with_name("init").read_bytes(),
            "bin/busybox": Path(busybox).read_bytes(),
            "config": config,
            "keep": keep.encode(),
            "modules/order": "".join(f"{name}.ko\n" for name in modules).encode(),
            **{f"modules/{name}.ko": code for name, code in modules.items()},
            "command": f"{settings}cd {shlex.quote(os.getcwd())} && {shlex.join(command)}\n".encode(),
        }
    )


# -- the machine


def run(command: Sequence[str], *, kernel: str = "6.12", seconds: float = 600, folder: Path | None = None, keep: str = "") -> int:
    """Run a command in a machine and return its exit status; what it prints comes to our output as it comes.

    What it writes into the folder `keep` is written here; all else that it writes is forgotten.

    Raises MachineError if there can be none; DidNotEndError, with the end of what its kernel said, if it took more than `seconds`.
    """
    if why := missing():
        raise MachineError(why)
    image, config, modules = contents(fetched(kernel, folder or cache()))
    with tempfile.TemporaryDirectory(prefix="ebpf-vm.") as place:
        work = Path(place)
        (work / "kernel").write_bytes(image)
        (work / "files").write_bytes(first_files(command, config, in_order(MODULES, modules), keep))
        with _share(work / "share"):
            # Its second serial line is its kernel's, and the first process says there how the command ended.
            process = subprocess.Popen(_qemu(work), stdin=subprocess.DEVNULL)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                # Its log tells how far it came.
                pass
            finally:
                # Whatever ends us ends it.
                process.kill()
                process.wait()
        log = (work / "log").read_text(errors="replace") if (work / "log").exists() else ""
    found = re.search(r"^status (\d+)\r?$", log, re.MULTILINE)
    if found is None:
        raise DidNotEndError("the machine did not end by itself; its kernel's last words:\n" + "\n".join(log.splitlines()[-15:]))
    return int(found[1])


def cache() -> Path:
    """Where the kernels' packages are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ebpf" / "vm"


def _share(socket: Path) -> "subprocess.Popen[bytes]":
    """What gives the machine our files. It ends with the machine."""
    program = next(path for path in _VIRTIOFSD if os.path.exists(path))
    command = [program, f"--socket-path={socket}", "-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise MachineError("virtiofsd does not start")
        time.sleep(0.02)
    return process


def _qemu(work: Path) -> list[str]:
    words = "console=ttyS1 quiet rdinit=/init panic=-1 mitigations=off nokaslr lsm=lockdown,yama,bpf"
    memory = "1536M"
    return [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-M", "pc", "-smp", "2", "-m", memory),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-object", f"memory-backend-memfd,id=memory,size={memory},share=on", "-numa", "node,memdev=memory"),
        *("-chardev", f"socket,id=share,path={work / 'share'}", "-device", "vhost-user-fs-pci,chardev=share,tag=host"),
        *("-serial", "stdio", "-serial", f"file:{work / 'log'}"),
        *("-kernel", str(work / "kernel"), "-initrd", str(work / "files"), "-append", words),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kernel", choices=KERNELS, default="6.12")
    parser.add_argument("--seconds", type=float, default=600, help="the longest that it may take")
    parser.add_argument("--keep", default="", metavar="FOLDER", help="what it writes here stays")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not options.command:
        parser.error("which command?")
    try:
        keep = os.path.abspath(options.keep) if options.keep else ""
        return run(options.command, kernel=options.kernel, seconds=options.seconds, keep=keep)
    except MachineError as error:
        print(f"machine: {error}", file=sys.stderr)
        return error.status


if __name__ == "__main__":
    sys.exit(main())
