"""The pieces of a generated program that are about its packet, by type of program."""

from fuzz import words
from fuzz.basics import Basics
from fuzz.maps import pointer
from fuzz.shapes import BY_NAME, COUNTER, CTX, DATA, LOW, PACKET
from fuzz.words import Code, call, jump, load, mov, mov_reg

from ebpf.isa import Insn
from ebpf.isa.opcodes import EXIT, FP, Class, Mode, Size
from ebpf.uapi import ProgType

#: Where the context has the packet's begin and end.
_BOUNDS = {ProgType.XDP: (0, 4), ProgType.SCHED_CLS: (76, 80)}
#: Fields of the context of a socket buffer that are numbers in both kernels: len, protocol, vlan_present, vlan_tci, mark, priority, cb.
_FIELDS = (0, 16, 20, 24, 8, 32, 48, 52, 64)
_WRITTEN = {ProgType.SCHED_CLS: (8, 32, 48, 52, 64), ProgType.SOCKET_FILTER: (48, 52, 64)}
_NETWORK, _LINK = -0x100000, -0x200000


class PacketPieces(Basics):
    """Finding the packet, loads and stores by helpers, LD_ABS and LD_IND, and what moves it."""

    def _packet(self) -> Code:
        """r6 is the packet, or the program ends: r2 to r4 are used."""
        if not self._packet_here():
            return []
        begin, end = _BOUNDS[self.type]
        check = [mov_reg(3, 6), words.add(3, PACKET - 32), jump(0xBD, 3, 4, 2), mov(0, 1), Insn(EXIT)]
        return [load(2, FP, CTX), words.ctx(6, 2, begin), words.ctx(4, 2, end), *check, mov(2, 0), mov(3, 0), mov(4, 0)]

    def _moved(self) -> Code:
        """After a helper that may move the packet: find it again. r0 is kept in r8."""
        return [mov_reg(COUNTER, 0), *self._packet(), mov_reg(0, COUNTER)] if self._packet_here() else []

    def _about_the_packet(self) -> Code:
        """By helpers, or by the context."""
        if self.type == ProgType.SOCKET_FILTER:
            return self.rng.choice((self._load_packet, self._load_packet, self._skb_bytes, self._field))()
        if self.type == ProgType.SCHED_CLS:
            return self.rng.choice((self._skb_bytes, self._skb_bytes, self._field, self._skb_moves, self._load_packet))()
        return self.rng.choice((self._xdp_bytes, self._xdp_bytes, self._xdp_moves))()

    def _xdp_bytes(self) -> Code:
        name = self.rng.choice(("xdp_load_bytes", "xdp_store_bytes"))
        size, register = self.rng.choice((1, 2, 4, 8, 16)), self._scalar()
        before = [*self._data(), words.mask(register, self.rng.choice((63, 127))), mov_reg(2, register), load(1, FP, CTX)]
        before += [*pointer(3, DATA), mov(4, size), call(BY_NAME[name])]
        return [*before, load(9, FP, DATA), *(self._moved() if name == "xdp_store_bytes" else [])]

    def _xdp_moves(self) -> Code:
        name, by = self.rng.choice(
            (("head", (-16, -4, 0, 4, 14, 400)), ("tail", (-8, -3, 0, 5, 16, -400)), ("meta", (-8, -4, 0, 4, 3, -64)))
        )
        return [load(1, FP, CTX), mov(2, self.rng.choice(by)), call(BY_NAME[f"xdp_adjust_{name}"]), *self._moved()]

    def _skb_bytes(self) -> Code:
        stores = self.type == ProgType.SCHED_CLS and self.rng.random() < 0.4
        size, register = self.rng.choice((1, 2, 4, 8, 16)), self._scalar()
        before = [
            *self._data(),
            words.mask(register, self.rng.choice((63, 127))),
            mov_reg(2, register),
            load(1, FP, CTX),
            *pointer(3, DATA),
        ]
        if stores:
            return [*before, mov(4, size), mov(5, self.rng.choice((0, 1, 2))), call(BY_NAME["skb_store_bytes"]), *self._moved()]
        if self.rng.random() < 0.3:
            before += [mov(4, size), mov(5, self.rng.choice((0, 1))), call(BY_NAME["skb_load_bytes_relative"])]
        else:
            before += [mov(4, size), call(BY_NAME["skb_load_bytes"])]
        return [*before, load(9, FP, DATA)]

    def _skb_moves(self) -> Code:
        """The packet made longer or shorter, tagged, or a checksum in it changed."""
        what = self.rng.choice(
            ("skb_change_tail", "skb_change_head", "skb_vlan_push", "skb_vlan_pop", "l3_csum_replace", "l4_csum_replace")
        )
        begin: Code = [load(1, FP, CTX)]
        if what == "skb_change_tail":
            begin += [mov(2, self.rng.choice((70, 96, 120, 10))), mov(3, 0)]
        elif what == "skb_change_head":
            begin += [mov(2, self.rng.choice((0, 4, 14))), mov(3, 0)]
        elif what == "skb_vlan_push":
            begin += [mov(2, self.rng.choice((0x81, 0xA888, 8))), mov(3, self.rng.choice((0, 7, 0x1FFF)))]
        elif what != "skb_vlan_pop":
            size = self.rng.choice((0, 2, 4))
            register = self.rng.choice((0, 9))
            begin += [mov(2, self.rng.choice((24, 36, 37, 200))), mov_reg(4, register), load(3, FP, LOW)]
            if size:
                begin += [Insn(0x57, 3, imm=0xFFFF), Insn(0x57, 4, imm=0xFFFF)] if size == 2 else [Insn(0xBC, 3, 3), Insn(0xBC, 4, 4)]
            else:
                begin += [mov(3, 0)]
            begin += [mov(5, size | (self.rng.choice((0, 0x20)) if what[1] == "4" else 0))]
        return [*begin, call(BY_NAME[what]), *self._moved()]

    def _field(self) -> Code:
        """A field of the context, read or written."""
        written = _WRITTEN[self.type]
        if self.rng.random() < 0.4:
            return [load(2, FP, CTX), words.store(2, self.rng.choice((0, 9)), self.rng.choice(written), Size.W), mov(2, 0)]
        return [load(2, FP, CTX), load(self.rng.choice((0, 1, 2, 9)), 2, self.rng.choice(_FIELDS), Size.W), mov(2, 0)]

    def _load_packet(self) -> Code:
        """LD_ABS or LD_IND: outside the packet the program ends with 0. r6 is the context then."""
        size = self.rng.choice((Size.B, Size.H, Size.W))
        at = self.rng.choice((0, 1, 2, 12, 13, 14, 40, 60, _NETWORK, _NETWORK + 9, _LINK, _LINK + 12, 78, 81))
        begin: Code = [load(6, FP, CTX)]
        if self.rng.random() < 0.5:
            one = Insn(Class.LD | Mode.ABS | size, imm=at)
        else:
            index = self.rng.choice((0, 1, 2, 3, 9))
            begin += [words.mask(index, self.rng.choice((3, 15)))]
            one = Insn(Class.LD | Mode.IND | size, src=index, imm=at)
        return [*begin, one, *self._moved()]
