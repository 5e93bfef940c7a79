"""`ebpf btf dump`: types as text, raw or as C."""

import errno
from collections.abc import Sequence

from ebpf.btf import Btf, c_header, check, fields, in_order, kfuncs, text
from ebpf.cli import handles
from ebpf.cli.btf import id_of, opened
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.noun import Failure, Misuse, Refused
from ebpf.cli.words import Words, match
from ebpf.errors import FormatError, NotSupportedError, UsageError

_ENODATA, _EINVAL, _ENOTSUP = 61, 234, 161
_KERNELS = "/sys/kernel/btf/"
_VMLINUX = _KERNELS + "vmlinux"
_MOST_ROOTS = 16


def dump(context: Context, words: Words) -> int:
    """Print the types of a BTF object, program, map or file."""
    if len(words.rest) < 2:
        raise Misuse("btf", f"'dump' needs at least 2 arguments, {len(words.rest)} found")
    source = words.take("BTF_SRC")
    what = match(source, {name: name for name in ("id", "prog", "map", "file")})
    if what is None:
        raise UsageError(f"unrecognized BTF source specifier: '{source}'")
    btf, roots = _from_file(context, words) if what == "file" else _from_kernel(context, words, what)
    c, ordered = False, True
    while words:
        if words.take_if("format"):
            c, ordered = _format(words)
        elif words.take_if("root_id"):
            roots.append(id_of(words.take("ROOT_ID")))
            if len(roots) > _MOST_ROOTS:
                raise UsageError(f"only {_MOST_ROOTS} root_ids are supported")
        else:
            raise UsageError(f"unrecognized option: '{words.peek()}'")
    for root in roots:
        if not 0 < root < len(btf):
            raise Refused(f"root_id {root} is not a type of this BTF, which has 1 to {len(btf) - 1}", 254)
    if c:
        if context.json:
            raise Refused("JSON output for C-syntax dump is not supported", _ENOTSUP)
        _as_c(context, btf, roots, ordered=ordered)
    else:
        _raw(context, btf, roots)
    return 0


def _format(words: Words) -> tuple[bool, bool]:
    """Whether C is asked for, and in order."""
    if not words:
        raise Refused("expecting value for 'format' option\n", _EINVAL)
    word = words.take("FORMAT")
    name = match(word, {"raw": "raw", "c": "c"})
    if name is None:
        raise Refused(f"unrecognized format specifier: '{word}', possible values: raw, c", _EINVAL)
    return name == "c", not (name == "c" and words.take_if("unsorted"))


def _from_kernel(context: Context, words: Words, what: str) -> tuple[Btf, list[int]]:
    kernel = context.kernel()
    roots: list[int] = []
    if what == "id":
        id_ = id_of(words.take("ID"))
    elif what == "prog":
        handle = handles.take(words, "prog")
        with handles.programs(kernel, handle) as programs:
            id_ = handles.only(programs, handle, "prog").info.btf_id
    else:
        handle = handles.take(words, "map")
        with handles.maps(kernel, handle) as maps:
            info = handles.only(maps, handle, "map").info
        id_ = info.btf_id
        kind = match(words.peek(), {"key": "key", "value": "value", "kv": "kv", "all": "all"}) if words else "kv"
        if kind is not None and words:
            words.take("KIND")
        if kind != "all":
            roots += [info.btf_key_type_id] if kind != "value" and info.btf_key_type_id else []
            roots += [info.btf_value_type_id] if kind != "key" and info.btf_value_type_id else []
    if not id_:
        raise Failure("failed to find its type information", errno.ENODATA)
    try:
        with opened(kernel, id_) as found:
            return Btf.parse(found.data), roots
    except UsageError as error:
        if not context.json:
            context.note(f"Error: {error}")
        raise Refused(f"get btf by id ({id_}): No such file or directory", 254) from error


def _from_file(context: Context, words: Words) -> tuple[Btf, list[int]]:
    """The types of a file: an object's, or BTF as it is."""
    path = words.take("FILE")
    if words.take_if("file"):
        raise NotSupportedError("btf dump file ... file", "several files are not read together yet")
    base = _base(context, path)
    try:
        btf = _read(path, base)
        if base is not None:
            check(btf)
        return btf, []
    except OSError as error:
        raise Failure(f"failed to load BTF from {path}", error.errno or errno.EIO) from error
    except FormatError as error:
        if error.why == _NO_SECTION:
            if context.command == "bpftool":
                context.note(f"libbpf: failed to find '.BTF' ELF section in {path}")
            raise Failure(f"failed to load BTF from {path}", _ENODATA) from error
        if base is not None and context.command == "bpftool":
            context.note(f"libbpf: btf: {error.where}: {error.why}")
            raise Failure(f"failed to load BTF from {path}", errno.EINVAL) from error
        raise


def _base(context: Context, path: str) -> Btf | None:
    """The types on which those of a file build: what -B says; for a module of the kernel the kernel's own."""
    if not context.base_btf and path.startswith(_KERNELS):
        if not context.json:
            context.note(f"skipping {path} (will be loaded as base)")
        return _read(_VMLINUX) if path != _VMLINUX else None
    if not context.base_btf:
        return None
    try:
        return _read(context.base_btf)
    except (OSError, FormatError) as error:
        number_ = error.errno if isinstance(error, OSError) else errno.EINVAL
        raise UsageError(f"failed to parse base BTF at '{context.base_btf}': -{number_}\n") from error


_NO_SECTION = "has no section .BTF"


def _read(path: str, base: Btf | None = None) -> Btf:
    from ebpf.elf import read_elf

    with open(path, "rb") as file:
        data = file.read()
    if not data.startswith(b"\x7fELF"):
        return base.split(data, path) if base is not None else Btf.parse(data, path)
    section = read_elf(data, path, any_machine=True).section(".BTF")
    if section is None:
        raise FormatError(_NO_SECTION, path=path)
    return base.split(section.data, path) if base is not None else Btf.parse(section.data, path)


def _raw(context: Context, btf: Btf, roots: Sequence[int]) -> None:
    types = [btf.type(root) for root in roots] if roots else [btf.type(id_) for id_ in btf.own]
    if context.json:
        rows: list[Json] = [fields(btf, type_) for type_ in types]
        context.write(dumps({"types": rows}, pretty=context.pretty))
        return
    for type_ in types:
        context.write(text(btf, type_))


def _as_c(context: Context, btf: Btf, roots: Sequence[int], *, ordered: bool) -> None:
    for part in c_header(btf, roots or (in_order(btf) if ordered else range(1, len(btf))), None if roots else kfuncs(btf)):
        context.out.write(part)
