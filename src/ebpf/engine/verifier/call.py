"""One call, while its arguments are checked."""

from ebpf.engine.program import MapDesc
from ebpf.engine.verifier.reg import Reg
from ebpf.engine.verifier.state import Special
from ebpf.uapi import Helper


class Call:
    """What the arguments of one call said: the map, the reference, the memory that is returned, the function called back."""

    __slots__ = (
        "alloc",
        "dynptr",
        "function",
        "map",
        "most",
        "null_key",
        "object",
        "ref",
        "released",
        "released_any",
        "row",
        "the_map",
        "timer",
    )

    def __init__(self, row: Helper) -> None:
        self.row = row
        self.the_map: Reg | None = None
        self.map: MapDesc | None = None
        self.alloc = 0
        self.ref = 0
        self.released = 0
        self.released_any = False
        self.function = -1
        self.most = 0
        self.null_key = False
        self.timer = False
        self.object: Reg | None = None
        self.dynptr: Special | None = None
