"""How the documented context structs lie in the runtime's own: which field is where, and how wide.

The load step rewrites a program's context accesses by this table, as Linux does with its internal structs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ebpf.engine.runtime import abi
from ebpf.uapi import CONTEXTS


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field lives in the runtime's struct."""

    offset: int
    size: int


def _xdp() -> dict[int, Place]:
    names = {0: "data", 4: "data_end", 8: "data_meta", 12: "ingress_ifindex", 16: "rx_queue_index", 20: "egress_ifindex"}
    return {at: Place(getattr(abi.Xdp, name).offset, getattr(abi.Xdp, name).size) for at, name in names.items()}


def _skb() -> dict[int, Place]:
    """All fields lie where they are documented, but for those that are pointers here."""
    offsets = {field.name: field.offset for field in CONTEXTS["__sk_buff"].fields}
    names = ("data", "data_end", "data_meta")
    return {offsets[name]: Place(getattr(abi.Skb, name).offset, getattr(abi.Skb, name).size) for name in names}


#: By documented struct: the fields that lie elsewhere in the runtime's, by offset.
REWRITES: Final[Mapping[str, Mapping[int, Place]]] = {"xdp_md": _xdp(), "__sk_buff": _skb()}
