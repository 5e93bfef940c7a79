"""What pyproject.toml does not say: with EBPF_MYPYC=1 a wheel has the verifier's hot modules compiled, from the same source.

    EBPF_MYPYC=1 pip wheel --no-build-isolation --no-deps -w dist .

Needs mypy (of which mypyc is part), Python's C headers, and gcc or the package's own clang. Without it nothing is compiled here.
"""

import os
import shlex
import shutil
import sys
import sysconfig
from typing import Any

from setuptools import setup

#: What takes the time of a walk; all classes that these share are compiled together, so that their fields are plain memory.
HOT = (
    *("num", "bits", "alu", "comparisons", "branch", "reg", "state", "stack", "compare", "checkpoints", "precision", "loops", "loop_parts"),
    *("arith", "jumps", "env", "memory", "explore", "structure", "graph", "live_stack", "log", "log_precision"),
)
_FOLDER = "src/ebpf/engine/verifier"


def compiled() -> list[Any]:
    """The extension modules, if they are asked for."""
    if os.environ.get("EBPF_MYPYC") != "1":
        return []
    if {"editable_wheel", "develop", "--inplace", "-i"} & set(sys.argv):
        # They would lie beside their sources, and go on to be imported when those have changed.
        sys.exit("EBPF_MYPYC=1 is for wheels: an editable install stays pure Python")
    if not {"bdist_wheel", "build_ext"} & set(sys.argv):
        # pip asks about the package first.
        return []
    from mypyc.build import mypycify

    _find_compiler()
    paths = [f"{_FOLDER}/{name}.py" for name in HOT]
    extensions: list[Any] = mypycify(["--config-file=pyproject.toml", *paths], opt_level="1", debug_level="0", group_name="ebpf_verifier")
    return extensions


def _find_compiler() -> None:
    """Where Python's own C compiler is not there, the package's."""
    theirs = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(theirs) is None:
        os.environ["CC"] = f"{sys.executable} -m ziglang cc"
        os.environ["LDSHARED"] = f"{os.environ['CC']} -shared"


setup(ext_modules=compiled())
