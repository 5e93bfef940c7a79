"""Values by their types: what BTF says of a kernel's maps and programs."""

import struct

from ebpf.btf import Address, Btf, Hex, Kind, Value, show_value, write_value
from ebpf.cli.jsonw import Json, dumps
from ebpf.errors import EbpfError, FormatError
from ebpf.records import record
from ebpf.sys.calls import FdById, GetBtfInfo, GetProgInfo, MapInfo, ProgInfo
from ebpf.sys.kernel import Kernel
from ebpf.uapi import Cmd


def open_btf(kernel: Kernel, id_: int) -> Btf | None:
    """The BTF object with an id; None if there is none or it cannot be read."""
    if not id_:
        return None
    try:
        fd = kernel.bpf(FdById(Cmd.BTF_GET_FD_BY_ID, id_))
    except EbpfError:
        return None
    try:
        return Btf.parse(kernel.bpf(GetBtfInfo(fd)).data)
    except EbpfError:
        return None
    finally:
        kernel.close(fd)


@record
class MapTypes:
    """The types of a map's keys and values."""

    btf: Btf
    key_type: int
    value_type: int

    @classmethod
    def of(cls, kernel: Kernel, info: MapInfo) -> "MapTypes | None":
        """The types of a map; None if the kernel has none."""
        if not info.btf_value_type_id:
            return None
        btf = open_btf(kernel, info.btf_id)
        return cls(btf, info.btf_key_type_id, info.btf_value_type_id) if btf is not None else None

    @property
    def has_key(self) -> bool:
        """Whether keys have a type: those of data maps have none."""
        return bool(self.key_type)

    def key(self, data: bytes) -> Json:
        """A key by its type."""
        return _plain(show_value(self.btf, self.key_type, data))

    def value(self, data: bytes) -> Json:
        """A value by its type; of a data section, each variable as an object of its own."""
        type_ = self.btf.resolve(self.value_type)
        if type_.kind != Kind.DATASEC:
            return _plain(show_value(self.btf, self.value_type, data))
        rows: list[Json] = []
        for variable in type_.variables:
            var = self.btf.type(variable.type_id)
            rows.append({var.name: _plain(show_value(self.btf, var.ref, data[variable.offset : variable.offset + variable.size]))})
        return {type_.name: rows}

    @property
    def is_data(self) -> bool:
        """Whether the value is a section of global variables."""
        return self.btf.resolve(self.value_type).kind == Kind.DATASEC

    def pack_key(self, value: Value) -> bytes:
        """A key's bytes. Raises FormatError for what does not fit the type."""
        return write_value(self.btf, self.key_type, value)

    def pack_value(self, value: Value, before: bytes) -> bytes:
        """A value's bytes; of a data section, the variables that `value` names change, and the others stay as they were `before`."""
        section = self.btf.resolve(self.value_type)
        if not self.is_data:
            return write_value(self.btf, self.value_type, value)
        if not isinstance(value, dict):
            raise FormatError('the variables of a data map are given as an object: {"counter": 1}')
        names = {self.btf.type(v.type_id).name: v for v in section.variables}
        data = bytearray(before)
        for name, part in value.items():
            if name not in names:
                raise FormatError(f"no variable {name!r}; there is {', '.join(names)}")
            place = names[name]
            data[place.offset : place.offset + place.size] = write_value(self.btf, self.btf.type(place.type_id).ref, part)
        return bytes(data)


def scalar(value: Json) -> str:
    """A scalar as people read it: addresses in hexadecimal, and none of that in quotes."""
    if isinstance(value, Address):
        return f"{value:#x}" if value else "(nil)"
    return str(value) if isinstance(value, Hex) else dumps(value, pretty=False)


def _plain(value: Value) -> Json:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def full_name(kernel: Kernel, info: ProgInfo) -> str:
    """A program's name as its author wrote it: the kernel keeps 15 characters, its BTF all."""
    if len(info.name) < 15 or not info.btf_id:
        return info.name
    fd = kernel.bpf(FdById(Cmd.PROG_GET_FD_BY_ID, info.id))
    try:
        whole = kernel.bpf(GetProgInfo(fd, images=True))
    finally:
        kernel.close(fd)
    btf = open_btf(kernel, info.btf_id)
    if btf is None or len(whole.func_info) < 8:
        return info.name
    (type_id,) = struct.unpack_from("<I", whole.func_info, 4)
    return btf.type(type_id).name or info.name
