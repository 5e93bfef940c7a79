"""The adapter between cases and our verifier: the one file to change when the verifier's interface does."""

from bench.agreement.case import ALL, Answer, Case, MapCase
from bench.agreement.folder import blob_path
from bench.agreement.said import complaint, last_line

from ebpf.btf import Btf
from ebpf.engine.program import Code, MapDesc, SourceLine
from ebpf.engine.verifier import verify as judge
from ebpf.errors import FormatError
from ebpf.isa import decode
from ebpf.kernels.user.load import is_gpl, source_lines
from ebpf.sys.calls import ProgLoad

#: Maps get these for descriptors.
_FIRST = 1


def verify(case: Case, profile: str, level: int = 0) -> Answer:
    """What our verifier says to a case, as a kernel of `profile` ("6.18")."""
    if case.caps != ALL:
        return Answer("unknown", why="capabilities: not judged yet")
    try:
        verdict = judge(code_of(case), log_level=level)
    except FormatError as error:
        return Answer("refused", error.why, error.why)
    said = complaint(verdict.log)
    if verdict.accepted:
        return Answer("accepted", processed=verdict.processed, log=verdict.log)
    if "not judged yet" in verdict.cause or any(line.startswith("unknown:") for line in verdict.log.splitlines()):
        return Answer("unknown", last_line(verdict.log), said, verdict.processed, log=verdict.log, why=verdict.cause)
    return Answer("refused", last_line(verdict.log), said, verdict.processed, log=verdict.log)


def code_of(case: Case) -> Code:
    """A case as our verifier takes it."""
    numbers = [_FIRST + n for n in range(len(case.maps))]
    insns = decode(case.with_maps(numbers))
    maps = {number: _map(each, number) for number, each in zip(numbers, case.maps, strict=True)}
    return Code(insns, case.prog_type, maps, case.name, is_gpl(case.license), case.attach_type, _lines(case))


def _map(case: MapCase, number: int) -> MapDesc:
    return MapDesc(
        number,
        case.type,
        case.key_size,
        case.value_size,
        case.max_entries,
        case.flags,
        case.name,
        case.frozen,
        inner=_map(case.inner, 0) if case.inner is not None else None,
    )


def _lines(case: Case) -> tuple[SourceLine, ...]:
    if not case.btf or not case.line_info:
        return ()
    call = ProgLoad(case.prog_type, b"", "", line_info=case.line_info, line_info_rec_size=case.line_info_size)
    return source_lines(call, Btf.parse(blob_path(case.btf).read_bytes()))
