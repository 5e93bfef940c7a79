"""What an object leaves to the kernel: kernel options (`__kconfig`), and variables and functions of the kernel (`__ksym`)."""

from collections.abc import Collection, Mapping

from ebpf.btf import Btf, Editor, Kind, Type
from ebpf.elf.file import ElfFile, Symbol
from ebpf.errors import FormatError
from ebpf.spec import Extern, ExternKind

KCONFIG, KSYMS = ".kconfig", ".ksyms"
_UNDEFINED, _NOTYPE, _GLOBAL, _WEAK = 0, 0, 1, 2


def read_externs(elf: ElfFile, btf: Btf | None) -> dict[str, Extern]:
    """The externs of an object by name, in libbpf's order: kernel options as they lie in their map, then the others by name."""
    if btf is None:
        return {}
    declared = {name: (section, type_) for section in (KCONFIG, KSYMS) for name, type_ in _declared(btf, section)}
    options: list[Extern] = []
    others: list[Extern] = []
    for symbol in elf.symbols:
        if symbol.section != _UNDEFINED or symbol.kind != _NOTYPE or symbol.binding not in (_GLOBAL, _WEAK) or not symbol.name:
            continue
        if symbol.name not in declared:
            continue
        section, type_ = declared[symbol.name]
        if section == KCONFIG:
            options.append(_option(elf, btf, symbol, type_))
        else:
            kind = ExternKind.FUNCTION if type_.kind == Kind.FUNC else ExternKind.VARIABLE
            # A `void` variable has an address and nothing else.
            others.append(Extern(symbol.name, kind, symbol.binding == _WEAK, btf.resolve(type_.ref).id))
    placed = _place(sorted(options, key=lambda e: (-e.align, e.size, e.name)))
    return {extern.name: extern for extern in [*placed, *sorted(others, key=lambda e: e.name)]}


def _declared(btf: Btf, section: str) -> list[tuple[str, Type]]:
    found = btf.find(section, Kind.DATASEC)
    return [(btf.name(v.type_id), btf.type(v.type_id)) for v in found.variables] if found is not None else []


def _option(elf: ElfFile, btf: Btf, symbol: Symbol, variable: Type) -> Extern:
    type_ = btf.resolve(variable.ref)
    where = f"extern {symbol.name!r}"
    number = type_.kind == Kind.INT and type_.size in (1, 2, 4, 8)
    tristate = type_.kind in (Kind.ENUM, Kind.ENUM64) and type_.name == "libbpf_tristate"
    text = type_.kind == Kind.ARRAY and type_.info and btf.resolve(type_.ref).kind == Kind.INT and btf.size_of(type_.ref) == 1
    if not (number or tristate or text):
        raise FormatError("a kernel option is a number, a bool, an enum libbpf_tristate or an array of char", path=elf.path, where=where)
    size = btf.size_of(type_.id)
    return Extern(symbol.name, ExternKind.KCONFIG, symbol.binding == _WEAK, type_.id, size, 1 if text else size)


def _place(options: list[Extern]) -> list[Extern]:
    out, at = [], 0
    for extern in options:
        at = (at + extern.align - 1) // extern.align * extern.align
        out.append(extern._replace(offset=at))
        at += extern.size
    return out


def settle(btf: Btf, externs: Mapping[str, Extern], hidden: Collection[str] = ()) -> Btf:
    """The types as a kernel takes them: what is declared `extern` becomes variables, because it knows no other kind.

    `hidden` functions become static ones, which are judged where they are called, with what the caller knows of their arguments.
    """
    editor = Editor(btf)
    for each in hidden:
        function = btf.find(each, Kind.FUNC)
        if function is not None:
            editor.set(function.id, 1, Kind.FUNC << 24)
    ksyms, options = btf.find(KSYMS, Kind.DATASEC), btf.find(KCONFIG, Kind.DATASEC)
    if ksyms is not None:
        number = next((i for i in range(1, len(btf)) if btf.kind(i) == Kind.INT and btf.type(i).size == 4 and btf.type(i).bits == 32), 0)
        number = number or editor.add(Kind.INT, "int", 4, 1 << 24 | 32)
        dummy = name = 0
        for i, row in enumerate(ksyms.variables):
            type_ = btf.type(row.type_id)
            if type_.kind == Kind.FUNC:
                if not dummy:
                    dummy = editor.add(Kind.VAR, "dummy_ksym", number, 1)
                    name = editor.string("dummy_ksym")
                _name_parameters(editor, btf, type_.ref, name)
                editor.set(type_.id, 1, Kind.FUNC << 24 | 1)
                editor.set(ksyms.id, 3 + 3 * i, dummy)
            elif type_.kind == Kind.VAR:
                editor.set(type_.id, 2, number)
                editor.set(type_.id, 3, 1)
            editor.set(ksyms.id, 4 + 3 * i, 4 * i)
            editor.set(ksyms.id, 5 + 3 * i, 4)
        editor.set(ksyms.id, 2, 4 * len(ksyms.variables))
    if options is not None:
        rows = []
        for row in options.variables:
            extern = externs.get(btf.name(row.type_id))
            if extern is not None:
                rows.append((extern.offset, row.type_id, extern.size))
                editor.set(row.type_id, 3, 1)
        if len(rows) == len(options.variables):
            for i, values in enumerate(sorted(rows)):
                for word, value in enumerate(values):
                    editor.set(options.id, 3 + 3 * i + (1, 0, 2)[word], value)
            editor.set(options.id, 2, kconfig_size(externs))
    return editor.build()


def _name_parameters(editor: Editor, btf: Btf, proto: int, name: int) -> None:
    """The kernel wants every parameter of a function to have a name."""
    type_ = btf.type(proto)
    for i, member in enumerate(type_.members if type_.kind == Kind.FUNC_PROTO else ()):
        if not member.name and member.type_id:
            editor.set(proto, 3 + 2 * i, name)


def kconfig_size(externs: Mapping[str, Extern]) -> int:
    """How many bytes the kernel options of an object take."""
    return max((e.offset + e.size for e in externs.values() if e.kind == ExternKind.KCONFIG), default=0)
