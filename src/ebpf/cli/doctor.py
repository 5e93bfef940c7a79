"""`ebpf doctor`: what this machine lets eBPF do, and what to do about what it does not."""

import gzip
import os
import platform
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.words import Words
from ebpf.errors import EbpfError, UsageError

USAGE = """usage: ebpf doctor [-j|--json] [-p|--pretty]

Print what this machine lets eBPF do: privileges, the kernel's options and settings, its types, what programs can be attached to (by
trying, with programs that do nothing), the compiler, the cache; and for each gap what fills it. Exit status 1 if no kernel can be used,
neither Linux's nor ours."""
_CAPABILITIES = {"CAP_BPF": 39, "CAP_PERFMON": 38, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24}
#: What each is needed for.
_NEEDED = {
    "CAP_BPF": "loading programs and maps",
    "CAP_PERFMON": "tracing programs",
    "CAP_NET_ADMIN": "programs on the network",
    "CAP_SYS_ADMIN": "others' objects by id, tracefs",
    "CAP_SYS_RESOURCE": "raising the memlock limit (kernels before 5.11)",
}
_OPTIONS = {
    "CONFIG_BPF_SYSCALL": "bpf(2)",
    "CONFIG_BPF_JIT": "programs as machine code",
    "CONFIG_DEBUG_INFO_BTF": "the kernel's types: CO-RE, vmlinux.h, tp_btf, fentry",
    "CONFIG_BPF_EVENTS": "programs on kprobes, tracepoints and perf events",
    "CONFIG_KPROBE_EVENTS": "kprobes",
    "CONFIG_FPROBE": "kprobe.multi",
    "CONFIG_UPROBE_EVENTS": "uprobes and USDT",
    "CONFIG_FTRACE_SYSCALLS": "tracepoints of system calls",
    "CONFIG_BPF_LSM": "LSM programs",
    "CONFIG_CGROUP_BPF": "programs on cgroups",
    "CONFIG_NET_CLS_BPF": "filters of tc",
    "CONFIG_NET_SCH_INGRESS": "clsact",
    "CONFIG_NETFILTER_BPF_LINK": "netfilter programs",
    "CONFIG_XDP_SOCKETS": "AF_XDP",
}
_SETTINGS = {
    "kernel.unprivileged_bpf_disabled": {"1": "bpf(2) is for CAP_BPF only", "2": "bpf(2) is for CAP_BPF only"},
    "net.core.bpf_jit_enable": {"0": "programs are interpreted: sysctl net.core.bpf_jit_enable=1"},
    "net.core.bpf_jit_harden": {"2": "constants are blinded for root too, which is slower"},
    "kernel.kptr_restrict": {"2": "kernel symbols have no addresses: sysctl kernel.kptr_restrict=1"},
    "kernel.perf_event_paranoid": {"3": "perf events are for CAP_PERFMON", "4": "perf events are for CAP_PERFMON"},
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A line: of which part, what, whether it is well (None: neither), in words, and what fills the gap."""

    part: str
    name: str
    good: bool | None
    text: str = ""
    fix: str = ""


def run(context: Context, argv: list[str]) -> int:
    """Look, and print."""
    words = Words(argv)
    while words:
        word = words.take("OPTION")
        if word in ("-j", "--json"):
            context.json = True
        elif word in ("-p", "--pretty"):
            context.json = context.pretty = True
        elif word in ("help", "-h", "--help"):
            print(USAGE)
            return 0
        else:
            raise UsageError(f"doctor: unexpected '{word}'; ebpf doctor help")
    findings = list(examine())
    if context.json:
        rows: list[Json] = [asdict(each) for each in findings]
        context.write(dumps(rows, pretty=context.pretty))
    else:
        _print(context, findings)
    usable = {each.name for each in findings if each.part == "kernels" and each.good}
    return 0 if usable else 1


def _print(context: Context, findings: list[Finding]) -> None:
    width = max(len(each.name) for each in findings)
    part = ""
    for each in findings:
        if each.part != part:
            context.write(("\n" if part else "") + each.part)
            part = each.part
        mark = {True: "ok", False: "no", None: "--"}[each.good]
        context.write(f"  {mark}  {each.name:<{width}}  {each.text}".rstrip())
        if each.fix and not each.good:
            context.write(f"      {'':<{width}}  -> {each.fix}")


def examine() -> Iterator[Finding]:
    """All that there is to be found, part by part."""
    yield from _kernels()
    yield from _privileges()
    yield from _machine()
    yield from _types()
    yield from _attachments()
    yield from _compiler()
    yield from _cache()


def _read(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(errors="replace").strip()
    return ""


def _kernels() -> Iterator[Finding]:
    from ebpf.kernels import open_kernel
    from ebpf.sys.calls import MapCreate

    release = f"{platform.system()} {platform.release()}, {platform.machine()}"
    for name, what in (("linux", release), ("user", "ours, in this process: no root needed")):
        try:
            with open_kernel(name, here=True) as kernel:
                kernel.close(kernel.bpf(MapCreate(2, 4, 8, 1)))
            yield Finding("kernels", name, True, what)
        except (EbpfError, OSError) as error:
            fix = "run as root, or use --kernel user" if name == "linux" else "python -m ebpf.engine.runtime builds what it needs"
            yield Finding("kernels", name, False, str(error), error.hint if isinstance(error, EbpfError) and error.hint else fix)


def _privileges() -> Iterator[Finding]:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", _read("/proc/self/status"), re.MULTILINE)
    held = int(found[1], 16) if found else 0
    uid = os.getuid() if hasattr(os, "getuid") else 0
    for name, bit in _CAPABILITIES.items():
        there = bool(held >> bit & 1)
        text = _NEEDED[name]
        if name == "CAP_SYS_RESOURCE":
            yield Finding("privileges", name, there or None, text)
        else:
            fix = (
                f"run as root, or setcap {name.lower()}+ep on the Python that runs this"
                if uid
                else "this root is confined: a container or host took it away"
            )
            yield Finding("privileges", name, there, text, fix)


def _machine() -> Iterator[Finding]:
    options = _kernel_options()
    if options is None:
        yield Finding(
            "kernel",
            "options",
            None,
            "not to be read (/proc/config.gz, /boot/config-*)",
            "modprobe configs, or install the kernel's headers",
        )
    else:
        for name, what in _OPTIONS.items():
            yield Finding("kernel", name, name in options, what, "a kernel that is built with it")
    for name, meanings in _SETTINGS.items():
        value = _read("/proc/sys/" + name.replace(".", "/"))
        if value:
            yield Finding("kernel", name, None if value in meanings else True, f"{value}  {meanings.get(value, '')}".rstrip())
    lockdown = re.search(r"\[(\w+)\]", _read("/sys/kernel/security/lockdown"))
    if lockdown:
        strict = lockdown[1] == "confidentiality"
        yield Finding(
            "kernel", "lockdown", not strict, lockdown[1], "boot with lockdown=integrity: programs may not read the kernel's memory"
        )
    mounts = [line.split() for line in _read("/proc/self/mountinfo").splitlines()]
    kinds = {row[row.index("-") + 1]: row[4] for row in mounts if "-" in row}
    for kind, path, what in (
        ("bpf", "/sys/fs/bpf", "pins"),
        ("tracefs", "/sys/kernel/tracing", "tracepoints, the trace pipe"),
        ("cgroup2", "/sys/fs/cgroup", "programs on cgroups"),
    ):
        where = kinds.get(kind, "")
        # The first two are mounted by us at need.
        good = True if where else None if kind != "cgroup2" else False
        yield Finding("mounts", kind, good, where or f"not mounted ({what})", f"mount -t {kind} {kind} {path}")


def _kernel_options() -> set[str] | None:
    for path in ("/proc/config.gz", f"/boot/config-{platform.release()}"):
        try:
            raw = Path(path).read_bytes()
        except OSError:
            continue
        text = gzip.decompress(raw) if path.endswith(".gz") else raw
        return {line.partition("=")[0] for line in text.decode(errors="replace").splitlines() if line.endswith(("=y", "=m"))}
    return None


def _types() -> Iterator[Finding]:
    from ebpf.sys.kernel import VMLINUX
    from ebpf.sys.types import open_types

    try:
        raw = Path(VMLINUX).read_bytes()
        text = f"{len(open_types(raw, VMLINUX))} types, {len(raw) // 1024} KB"
        modules = len(os.listdir(os.path.dirname(VMLINUX))) - 1
        yield Finding("types", VMLINUX, True, text + (f", {modules} modules" if modules else ""))
    except (OSError, EbpfError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        fix = "a kernel with CONFIG_DEBUG_INFO_BTF, or EBPF_BTF=FILE with its types"
        yield Finding("types", VMLINUX, False, str(why).lower(), fix)


def _attachments() -> Iterator[Finding]:
    from ebpf.attach.probe import probe
    from ebpf.kernels import open_kernel

    try:
        kernel = open_kernel("linux")
    except EbpfError as error:
        yield Finding("attach", "linux", False, str(error), error.hint or "")
        return
    with kernel:
        for each in probe(kernel):
            instead = f"instead: {each.instead}" if each.works is False and each.instead else each.instead
            yield Finding("attach", each.name, each.works, each.why, instead)


def _compiler() -> Iterator[Finding]:
    from ebpf.compile import compile_c
    from ebpf.toolchain import find_clang

    try:
        clang = find_clang(None)
        compile_c("probe.bpf.c", text='#include <linux/bpf.h>\n__attribute__((section("xdp"))) int f(void *c) { return 2; }\n')
        yield Finding("compiler", "clang", True, f"{' '.join(clang.command)}")
    except (EbpfError, OSError) as error:
        yield Finding("compiler", "clang", False, str(error), "pip install ziglang, or name a clang: EBPF_CLANG=clang-14")
    from importlib.metadata import PackageNotFoundError, version

    for package, what in (("llvmlite", "machine code for the user kernel"), ("capstone", "machine code as text (prog dump jited)")):
        try:
            yield Finding("compiler", package, True, f"{version(package)}  {what}")
        except PackageNotFoundError:
            yield Finding("compiler", package, None if package == "capstone" else False, f"not installed  {what}", f"pip install {package}")


def _cache() -> Iterator[Finding]:
    from ebpf.toolchain.cache import cache_folder

    folder = cache_folder()
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    text = f"{len(files)} files, {size / 1e6:.1f} MB"
    mode = stat.S_IMODE(folder.stat().st_mode)
    lasting = not str(folder).startswith(os.environ.get("TMPDIR", "/tmp") + "/ebpf-")
    yield Finding("cache", str(folder), True if lasting else None, f"{text}, mode {mode:04o}", "set XDG_CACHE_HOME to a folder of yours")
