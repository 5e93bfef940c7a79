"""`ebpf net`: attach XDP programs to network interfaces, in bpftool's grammar."""

from difflib import get_close_matches

from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.noun import Verb, dispatch, done, help_verb
from ebpf.cli.words import Words, is_prefix, match
from ebpf.errors import NotFoundError, NotSupportedError, UsageError
from ebpf.sys.kernel import Kernel
from ebpf.uapi import XdpFlag

USAGE = """usage: ebpf net show|list [dev IF]
       ebpf net attach ATTACH_TYPE PROG dev IF [overwrite]
       ebpf net detach ATTACH_TYPE dev IF
       ATTACH_TYPE := { xdp | xdpgeneric | xdpdrv | xdpoffload }
       PROG := { id N | tag HEX | name NAME | pinned FILE }"""

_TYPES = {
    "xdp": XdpFlag(0),
    "xdpgeneric": XdpFlag.SKB_MODE,
    "xdpdrv": XdpFlag.DRV_MODE,
    "xdpoffload": XdpFlag.HW_MODE,
}
_LATER = ("tcx_ingress", "tcx_egress")


def run(context: Context, argv: list[str]) -> int:
    """Carry out one `net` command."""
    return dispatch(context, argv, "net", _VERBS)


def _interface(kernel: Kernel, words: Words) -> tuple[str, int]:
    if not words.take_if("dev"):
        raise UsageError(f"expected 'dev', got: '{words.peek()}'")
    name = words.take("IF")
    known = kernel.interfaces()
    if name not in known:
        raise NotFoundError("interface", name, near=get_close_matches(name, known, n=2) or sorted(known)[:4])
    return name, known[name]


def _type(words: Words) -> XdpFlag:
    word = words.take("ATTACH_TYPE")
    if any(is_prefix(word, later) for later in _LATER):
        raise NotSupportedError(f"net attach {word}", "tcx is not built yet", hint="xdp, xdpgeneric and xdpdrv are")
    flags = match(word, _TYPES)
    if flags is None:
        raise UsageError(f"invalid net attach/detach type: {word}; there is {', '.join(_TYPES)}")
    return flags


def attach(context: Context, words: Words) -> int:
    """Attach a loaded program to an interface."""
    flags = _type(words)
    handle = handles.take(words, "prog")
    kernel = context.kernel()
    name, index = _interface(kernel, words)
    if not words.take_if("overwrite"):
        flags |= XdpFlag.UPDATE_IF_NOEXIST
    words.end()
    del name
    with handles.programs(kernel, handle) as found:
        kernel.xdp_attach(index, handles.only(found, handle, "prog").fd, flags)
    done(context)
    return 0


def detach(context: Context, words: Words) -> int:
    """Detach what is attached to an interface."""
    flags = _type(words)
    kernel = context.kernel()
    _, index = _interface(kernel, words)
    words.end()
    kernel.xdp_attach(index, -1, flags)
    done(context)
    return 0


def show(context: Context, words: Words) -> int:
    """Print what is attached to the interfaces."""
    kernel = context.kernel()
    index = _interface(kernel, words)[1] if words else None
    words.end()
    states = kernel.xdp_query(index)
    if context.json:
        rows: list[Json] = [
            {"devname": s.ifname, "ifindex": s.ifindex, "mode": s.mode.removeprefix("xdp"), "id": s.prog_id} for s in states
        ]
        context.write(dumps([{"xdp": rows, "tc": [], "flow_dissector": [], "netfilter": []}], pretty=context.pretty))
        return 0
    context.write("xdp:")
    for state in states:
        context.write(f"{state.ifname}({state.ifindex}) {state.mode.removeprefix('xdp').replace('drv', 'driver')} id {state.prog_id}")
    context.write("\ntc:\n\nflow_dissector:\n\nnetfilter:\n")
    return 0


_VERBS: dict[str, Verb] = {
    "show": show,
    "list": show,
    "attach": attach,
    "detach": detach,
    "help": help_verb(USAGE),
}
