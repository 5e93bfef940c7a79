"""What a program is attached to: whether a program of its type may be there, and what it must return and may call there."""

from typing import Final

from ebpf.btf import Kind
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.refusal import Refusal, Unjudged
from ebpf.uapi import PROGRAM_TYPES, AttachType, ProgType
from ebpf.uapi.targets import (
    BOOLEAN_HOOKS,
    CHANGEABLE_FUNCTIONS,
    CHANGEABLE_PREFIX,
    CHANGEABLE_SINCE,
    DENIED_FUNCTIONS,
    DISABLED_HOOKS,
    ERROR_LIST,
    ERROR_PREFIXES,
    LATER_ATTACHMENTS,
    NO_MORE_SLEEPABLE_HOOKS,
    NO_RETURN_FUNCTIONS,
    NO_RETURN_SINCE,
    PATH_FUNCTIONS,
    SLEEPABLE_FUNCTIONS,
    SLEEPABLE_HOOKS,
    SOCKOPT_HOOKS,
)

_HOOKS: Final = "bpf_lsm_"
_ON_FUNCTIONS: Final = frozenset({AttachType.TRACE_FENTRY, AttachType.TRACE_FEXIT, AttachType.MODIFY_RETURN})
_SLEEPING: Final = _ON_FUNCTIONS | {AttachType.TRACE_ITER}
_ERRORS: Final = (-4095, 0)
#: Of a hook that returns nothing, a program of a cgroup must let it be.
_LET_BE: Final = (1, 1)


def check(env: Env) -> None:
    """Check that the program may be attached to what it is for. Raises Refusal."""
    code = env.code
    kind = ProgType(code.prog_type)
    row = PROGRAM_TYPES[kind]
    later = LATER_ATTACHMENTS.get(code.attach_type, "") if kind == ProgType.CGROUP_SOCK_ADDR else ""
    if later and not env.rules.has(later):
        raise _refused("attach type is unknown", f"Linux {env.rules.name} cannot attach programs so: it can since {later}")
    if row.since and not env.rules.has(row.since):
        raise _refused(
            f"program type {row.name} is unknown", f"Linux {env.rules.name} has no {row.name} programs: they are there since {row.since}"
        )
    _check_sleeps(env, kind)
    on_function = kind == ProgType.TRACING and code.attach_type in _ON_FUNCTIONS
    if not code.attach_to or not (on_function or kind == ProgType.LSM):
        return
    name = code.attach_to if on_function else _HOOKS + code.attach_to
    if code.sleepable:
        if not _may_sleep(env, on_function=on_function):
            raise _refused(f"{name} is not sleepable", f"programs on {name} cannot sleep")
    elif code.attach_type == AttachType.MODIFY_RETURN and not _changeable(env):
        raise _refused(f"{name}() is not modifiable", f"what {name}() returns cannot be changed in this kernel")
    if kind == ProgType.LSM:
        _check_hook(env, name)
        return
    since = DENIED_FUNCTIONS.get(name)
    if since is not None and (not since or env.rules.has(since)):
        raise _refused(f"Attaching tracing programs to function '{name}' is rejected.", f"{name}() is used by what runs the programs")
    if code.attach_type != AttachType.TRACE_FENTRY and name in NO_RETURN_FUNCTIONS and env.rules.has(NO_RETURN_SINCE):
        raise _refused("Attaching fexit/fmod_ret to __noreturn functions is rejected.", f"{name}() does not return")


def _refused(says: str, cause: str) -> Refusal:
    return Refusal("missing-information", says, cause)


def _check_sleeps(env: Env, kind: ProgType) -> None:
    code = env.code
    if kind == ProgType.SYSCALL:
        if not code.sleepable:
            raise _refused("Syscall programs can only be sleepable", "a syscall program must be loaded as sleepable")
        return
    if not code.sleepable:
        return
    old = not env.rules.tells_sleepers
    may = kind in (ProgType.KPROBE, ProgType.STRUCT_OPS) or (kind == ProgType.TRACING and (old or code.attach_type in _SLEEPING))
    if kind == ProgType.LSM:
        may = code.attach_type != AttachType.LSM_CGROUP
        if old and not may:
            raise _refused("BPF_LSM_CGROUP programs cannot be sleepable", "programs of this type cannot sleep")
    if not may:
        who = "lsm, and kprobe/uprobe" if old else "lsm, iter, uprobe, and struct_ops"
        raise _refused(f"Only fentry/fexit/fmod_ret, {who} programs can be sleepable", "programs of this type cannot sleep")


def _may_sleep(env: Env, *, on_function: bool) -> bool:
    name = env.code.attach_to
    if on_function:
        return (name in SLEEPABLE_FUNCTIONS and env.rules.has(CHANGEABLE_SINCE)) or _can_fail(env)
    until, since = NO_MORE_SLEEPABLE_HOOKS.get(name), SLEEPABLE_HOOKS.get(name)
    if until is not None:
        return not env.rules.has(until)
    return since is not None and (not since or env.rules.has(since))


def _changeable(env: Env) -> bool:
    name = env.code.attach_to
    known = name in CHANGEABLE_FUNCTIONS and env.rules.has(CHANGEABLE_SINCE)
    return known or name.startswith(CHANGEABLE_PREFIX) or _can_fail(env)


def _can_fail(env: Env) -> bool:
    """Whether the kernel has the target on its list of functions that can be made to fail. Raises Unjudged."""
    code = env.code
    if code.kernel_btf is None:
        raise Unjudged(f"programs that sleep in or change a function without the types of Linux {env.rules.name}", -1)
    if code.kernel_btf.find(ERROR_LIST, Kind.FUNC) is None:
        return False
    if code.attach_to.startswith(ERROR_PREFIXES) or code.attach_to in CHANGEABLE_FUNCTIONS:
        return True
    raise Unjudged(f"whether the kernel lists {code.attach_to}() among the functions that can be made to fail", -1)


def _check_hook(env: Env, name: str) -> None:
    code = env.code
    if not code.gpl:
        raise Refusal(
            "licence", "LSM programs must have a GPL compatible license", "LSM programs are for those with a GPL-compatible licence"
        )
    found = code.kernel_btf.find(name, Kind.FUNC) if code.kernel_btf is not None else None
    number = found.id if found is not None else 0
    if code.attach_to in DISABLED_HOOKS:
        raise _refused(f"attach_btf_id {number} points to disabled hook {name}", f"no program may be attached to the hook {code.attach_to}")
    hooks = code.kernel_btf.find("security_list_options", Kind.UNION) if code.kernel_btf is not None else None
    if hooks is not None and all(member.name != code.attach_to for member in hooks.members):
        raise _refused(f"attach_btf_id {number} points to wrong type name {name}", f"{name}() is no hook")


# -- what it may return and call


def hook_returns(env: Env) -> tuple[int, int] | None:
    """What a program of LSM may return; None if anything."""
    code = env.code
    nothing = _returns_nothing(env)
    if code.attach_type == AttachType.LSM_CGROUP:
        return _LET_BE if nothing else (0, 1)
    if nothing or not env.rules.hook_ranges:
        return None
    return (0, 1) if code.attach_to in BOOLEAN_HOOKS else _ERRORS


def needs_no_result(env: Env) -> bool:
    """Whether r0 is looked at by nobody at the end."""
    return env.code.prog_type == ProgType.LSM and env.code.attach_type != AttachType.LSM_CGROUP and _returns_nothing(env)


def lets_hook_be(env: Env) -> bool:
    """Whether what is hooked returns nothing, so that a program cannot change it."""
    return env.code.attach_type == AttachType.LSM_CGROUP and _returns_nothing(env)


def _returns_nothing(env: Env) -> bool:
    btf = env.code.kernel_btf
    found = btf.find(_HOOKS + env.code.attach_to, Kind.FUNC) if btf is not None else None
    if btf is None or found is None:
        raise Unjudged(f"what the hook '{env.code.attach_to}' returns, without the types of Linux {env.rules.name}", env.slot)
    return btf.type(found.ref).ref == 0


def sockopt_hook(env: Env) -> bool:
    """Whether a program of a cgroup may ask for a socket's options in this hook."""
    return env.code.attach_type == AttachType.LSM_CGROUP and env.code.attach_to in SOCKOPT_HOOKS


def allows(env: Env, helper: str) -> bool:
    """Whether the target allows a helper that only some do."""
    code = env.code
    if helper == "d_path" or helper.startswith("ima_"):
        if code.prog_type == ProgType.LSM:
            return _may_sleep(env, on_function=False)
        if code.prog_type != ProgType.TRACING:
            return False
        return code.attach_type == AttachType.TRACE_ITER or (code.attach_type in _ON_FUNCTIONS and code.attach_to in PATH_FUNCTIONS)
    if helper.startswith("sk_storage_") and code.prog_type == ProgType.TRACING:
        if code.attach_type in (AttachType.TRACE_FENTRY, AttachType.TRACE_FEXIT):
            return not code.attach_to.startswith("bpf_sk_storage")
        return code.attach_type != AttachType.MODIFY_RETURN
    return True
