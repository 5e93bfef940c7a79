"""`ebpf net`: attach programs to network interfaces, in bpftool's grammar."""

import os
from collections.abc import Mapping

from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.link import netfilter
from ebpf.cli.noun import Failure, Misuse, Verb, dispatch, done, help_verb, status
from ebpf.cli.words import Words, match
from ebpf.errors import KernelError, NotSupportedError, UsageError
from ebpf.sys.calls import Attached, FdById, GetProgInfo, ProgAttach, ProgDetach, ProgQuery
from ebpf.sys.kernel import Kernel, XdpState
from ebpf.uapi import AttachType, Cmd, LinkType, XdpFlag

# How each kind is asked for: XDP's flags, or tcx's attach type.
_TYPES: dict[str, XdpFlag | AttachType] = {
    "xdp": XdpFlag(0),
    "xdpgeneric": XdpFlag.SKB_MODE,
    "xdpdrv": XdpFlag.DRV_MODE,
    "xdpoffload": XdpFlag.HW_MODE,
    "tcx_ingress": AttachType.TCX_INGRESS,
    "tcx_egress": AttachType.TCX_EGRESS,
}
_BEFORE = 1 << 3
_EINVAL = 234
# Where programs on packets stand, beside XDP and the filters of tc; and what their flags are called.
_PLACES = {
    "tcx/ingress": AttachType.TCX_INGRESS,
    "tcx/egress": AttachType.TCX_EGRESS,
    "netkit/primary": AttachType.NETKIT_PRIMARY,
    "netkit/peer": AttachType.NETKIT_PEER,
}
_BITS = {1 << 0: "override", 1 << 1: "multi", 1 << 2: "replace", 1 << 3: "before", 1 << 4: "after"}


def run(context: Context, argv: list[str]) -> int:
    """Carry out one `net` command."""
    return dispatch(context, argv, "net", _VERBS)


def _interface(kernel: Kernel, words: Words) -> int:
    if not words.take_if("dev"):
        raise UsageError(f"expected 'dev', got: '{words.peek()}'?")
    name = words.take("IF")
    index = kernel.interfaces().get(name)
    if index is None:
        raise UsageError(f"invalid devname {name}")
    return index


def _type(words: Words) -> tuple[str, XdpFlag | AttachType]:
    word = words.take("ATTACH_TYPE")
    name = match(word, {name: name for name in _TYPES})
    if name is None:
        raise UsageError(f"invalid net attach/detach type: {word}")
    return name, _TYPES[name]


def attach(context: Context, words: Words) -> int:
    """Attach a loaded program to an interface."""
    with status(_EINVAL):
        words.need(5, "attach")
        name, kind = _type(words)
        handle = handles.take(words, "prog")
        kernel = context.kernel()
        with handles.programs(kernel, handle) as found:
            fd = handles.only(found, handle, "prog", status=_EINVAL).fd
            index = _interface(kernel, words)
            how = _how(words, kind)
            try:
                if isinstance(kind, XdpFlag):
                    kernel.xdp_attach(index, fd, int(kind) | (0 if how == "overwrite" else XdpFlag.UPDATE_IF_NOEXIST))
                else:
                    kernel.bpf(ProgAttach(index, fd, kind, _BEFORE if how else 0))
            except KernelError as error:
                raise _failure(context, name, kind, "attach", error) from error
    done(context)
    return 0


def _how(words: Words, kind: XdpFlag | AttachType) -> str:
    """Whether to replace a program, or to run before others: "overwrite", "prepend" or ""."""
    if not words:
        return ""
    word = words.take("FLAG")
    how = match(word, {"overwrite": "overwrite", "prepend": "prepend"})
    if how is None:
        raise UsageError(f"expected 'overwrite' or 'prepend', got: '{word}'?")
    if isinstance(kind, AttachType) and how == "overwrite":
        raise UsageError("'overwrite' is only supported for xdp types")
    if isinstance(kind, XdpFlag) and how == "prepend":
        raise UsageError("'prepend' is only supported for tcx_ingress/tcx_egress")
    words.end()
    return how


def _failure(context: Context, name: str, kind: XdpFlag | AttachType, verb: str, error: KernelError) -> Failure:
    # Netlink's answers have a text.
    if error.why and isinstance(kind, XdpFlag) and not context.json:
        context.note(f"libbpf: Kernel error message: {error.why}")
    return Failure(f"interface {name} {verb} failed", error.errno)


def detach(context: Context, words: Words) -> int:
    """Detach what is attached to an interface (of several tcx programs, the last)."""
    with status(_EINVAL):
        words.need(3, "detach")
        name, kind = _type(words)
        kernel = context.kernel()
        index = _interface(kernel, words)
        words.end()
        try:
            if isinstance(kind, XdpFlag):
                kernel.xdp_attach(index, -1, int(kind))
            else:
                kernel.bpf(ProgDetach(index, 0, kind))
        except KernelError as error:
            raise _failure(context, name, kind, "detach", error) from error
    done(context)
    return 0


def show(context: Context, words: Words) -> int:
    """Print what is attached to the interfaces."""
    kernel = context.kernel()
    if words and len(words.rest) != 2:
        raise Misuse("net")
    index = _interface(kernel, words) if words else None
    xdp = kernel.xdp_query(index)
    tc = _tc(kernel, index)
    dissectors = _dissectors(kernel)
    with handles.links(kernel) as links:
        filters = [each.info for each in links if each.info.type == LinkType.NETFILTER]
    if context.json:
        document: dict[str, Json] = {
            "xdp": [{"devname": s.ifname, "ifindex": s.ifindex, "mode": _mode(s), "id": s.prog_id} for s in xdp],
            "tc": tc,
            "flow_dissector": [{"id": id_} for id_ in dissectors],
            "netfilter": [{**each.detail, "id": each.prog_id} for each in filters],
        }
        context.write(dumps([document], pretty=context.pretty))
        return 0
    context.write("xdp:")
    for state in xdp:
        context.write(f"{state.ifname}({state.ifindex}) {_mode(state)} id {state.prog_id}")
    context.write("\ntc:")
    for row in tc:
        context.write(_tc_text(row))
    context.write("\nflow_dissector:\n" + "".join(f"id {id_}" for id_ in dissectors))
    context.write("netfilter:\n" + "".join(f"\n\t{netfilter(each.detail)} prog_id {each.prog_id}" for each in filters))
    return 0


def _mode(state: XdpState) -> str:
    return state.mode.removeprefix("xdp").replace("drv", "driver")


def _query(kernel: Kernel, target: int, place: AttachType) -> Attached:
    """What is attached at a place; nothing where the kernel has no such place."""
    try:
        return kernel.bpf(ProgQuery(target, place))
    except (KernelError, NotSupportedError):
        return Attached(())


def _dissectors(kernel: Kernel) -> tuple[int, ...]:
    """The flow dissectors of this network namespace."""
    try:
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        return _query(kernel, namespace, AttachType.FLOW_DISSECTOR).prog_ids
    finally:
        os.close(namespace)


def _tc(kernel: Kernel, only: int | None) -> list[dict[str, Json]]:
    """The programs of traffic control, first those of filters, then those of tcx and netkit, interface by interface."""
    rows: list[dict[str, Json]] = []
    filters = kernel.tc_query(only)
    for name, index in sorted(kernel.interfaces().items(), key=lambda row: row[1]):
        if only not in (None, index):
            continue
        place: dict[str, Json] = {"devname": name, "ifindex": index}
        rows += [{**place, "kind": s.kind, "name": s.name, "id": s.prog_id} for s in filters if s.ifindex == index]
        for kind, at in _PLACES.items():
            found = _query(kernel, index, at)
            for number, id_ in enumerate(found.prog_ids):
                flags, link_flags = ([_BITS[bit] for bit in _BITS if row[number] & bit] for row in (found.prog_flags, found.link_flags))
                rows.append(
                    {**place, "kind": kind, "name": _program_name(kernel, id_), "prog_id": id_}
                    | {"prog_flags": flags, "link_id": found.link_ids[number], "link_flags": link_flags}
                )
    return rows


def _program_name(kernel: Kernel, id_: int) -> str:
    try:
        fd = kernel.bpf(FdById(Cmd.PROG_GET_FD_BY_ID, id_))
    except KernelError:
        return ""
    try:
        from ebpf.cli.types import full_name

        return full_name(kernel, kernel.bpf(GetProgInfo(fd)))
    finally:
        kernel.close(fd)


def _tc_text(row: Mapping[str, Json]) -> str:
    text = f"{row['devname']}({row['ifindex']}) {row['kind']} {row['name']}"
    if "id" in row:
        return f"{text} id {row['id']}"
    text += f" prog_id {row['prog_id']} "
    return text + (f"link_id {row['link_id']} " if row["link_id"] else "")


_VERBS: dict[str, Verb] = {
    "show": show,
    "list": show,
    "attach": attach,
    "detach": detach,
    "help": help_verb("net"),
}
