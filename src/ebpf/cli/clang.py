"""`clang` in a laboratory: ours for BPF, the system's for everything else."""

import os
import shutil
import sys

from ebpf.cli.main import main


def is_bpf(words: list[str]) -> bool:
    """Whether a command line asks for BPF code."""
    for at, word in enumerate(words):
        if word in ("-target", "--target") and words[at + 1 : at + 2]:
            return words[at + 1].startswith("bpf")
        if word.startswith(("--target=bpf", "-march=bpf")):
            return True
    return False


def run(words: list[str]) -> int:
    """Compile, or become the system's clang."""
    if is_bpf(words):
        return main(["cc", *words])
    own = os.path.dirname(os.path.abspath(os.environ["EBPF_DAEMON"])) if "EBPF_DAEMON" in os.environ else ""
    path = os.pathsep.join(
        p for p in (os.environ.get("PATH") or os.defpath).split(os.pathsep) if os.path.dirname(os.path.abspath(p)) != own
    )
    system = shutil.which("clang", path=path)
    if system is not None:
        os.execv(system, ["clang", *words])
    if words in (["--version"], ["-v"]):
        return main(["version"])
    print("clang: error: this clang is ebpf's and compiles BPF only (-target bpf); the system has none", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
