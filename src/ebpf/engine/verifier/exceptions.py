"""Exceptions: bpf_throw() ends the program from anywhere, and a function of the program may be named that is run then."""

from ebpf.btf.types import Kind
from ebpf.engine.program import Code
from ebpf.engine.verifier.refusal import Refusal

_TAG = "exception_callback:"
_GLOBAL = 1
#: The part that a tag is on: the function itself, no argument.
_WHOLE = (-1, 0xFFFFFFFF)
THROW = "bpf_throw"


def callback_of(code: Code) -> int:
    """The first slot of the function that the main program names for exceptions, or -1. Raises Refusal."""
    btf = code.btf
    main = next((type_id for slot, type_id in code.functions if slot == 0), 0)
    if btf is None or not main:
        return -1
    tags = [
        btf.name(id_) for id_ in btf.own if btf.kind(id_) == Kind.DECL_TAG and btf.type(id_).ref == main and btf.type(id_).info in _WHOLE
    ]
    names = [tag.removeprefix(_TAG) for tag in tags if tag.startswith(_TAG)]
    if not names:
        return -1
    if len(names) > 1:
        raise _refused("multiple exception callback tags for main subprog", "a program names one function for exceptions")
    row = btf.find(names[0], Kind.FUNC)
    if row is None:
        raise _refused(f"exception callback '{names[0]}' could not be found in BTF", f"there is no function {names[0]}")
    if row.info != _GLOBAL:
        raise _refused(f"exception callback '{names[0]}' must have global linkage", f"{names[0]}() must not be static")
    start = next((slot for slot, type_id in code.functions if type_id == row.id), -1)
    if start < 0:
        raise _refused("exception callback type id not found in func_info", f"{names[0]}() is not in the program")
    return start


def _refused(says: str, cause: str) -> Refusal:
    return Refusal("missing-information", says, cause)
