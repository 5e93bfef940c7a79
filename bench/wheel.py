"""The wheel with compiled modules, built from a copy of the sources: what is measured and tested of it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

_TOP = Path(__file__).parents[1]
_HOW = ("-q", "--disable-pip-version-check", "--no-build-isolation", "--no-deps", "-w", "dist", ".")


def unpacked(folder: Path) -> Path:
    """A folder, in `folder`, with what the wheel has. Raises RuntimeError with what pip says."""
    shutil.copytree(_TOP / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(_TOP / name, folder)
    words = [sys.executable, "-m", "pip", "wheel", *_HOW]
    made = subprocess.run(words, cwd=folder, env={**os.environ, "EBPF_MYPYC": "1"}, capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(made.stdout + made.stderr)
    (wheel,) = (folder / "dist").iterdir()
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "unpacked")
    return folder / "unpacked"
