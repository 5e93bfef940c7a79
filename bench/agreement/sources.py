"""Linux's sources as Debian packages them: fetched by apt, and of them what the cases need."""

import subprocess
from pathlib import Path

from bench.agreement.folder import cache

RELEASES = ("6.1", "6.12")
_PARTS = (
    "tools/testing/selftests/bpf",
    "tools/include",
    "tools/lib",
    "tools/arch/x86/include",
    "include/uapi",
    "samples/bpf",
    "scripts/bpf_doc.py",
)


def selftests(release: str) -> Path:
    """The BPF selftests of a release, fetched if they are not there."""
    folder = cache() / "src" / release
    found = folder / "tools/testing/selftests/bpf"
    if not found.is_dir():
        _extract(_package(release), release, folder)
    return found


def _package(release: str) -> Path:
    folder = cache() / "src"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"linux-source-{release}"
    if not list(folder.glob(f"{name}_*.deb")):
        subprocess.run(["apt-get", "download", "-q", name], cwd=folder, check=True)
    return max(folder.glob(f"{name}_*.deb"))


def _extract(package: Path, release: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    top = f"linux-source-{release}"
    wanted = " ".join(f"{top}/{part}" for part in _PARTS)
    unpacked = f"dpkg-deb --fsys-tarfile '{package}' | tar -xO './usr/src/{top}.tar.xz' | xz -dc"
    script = f"{unpacked} | tar -x -C '{folder}' --strip-components=1 {wanted}"
    subprocess.run(["bash", "-o", "pipefail", "-c", script], check=True)
