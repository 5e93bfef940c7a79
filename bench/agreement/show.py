"""One case for eyes: its instructions, the kernel's log at a level, and ours."""

from bench.agreement.case import Case
from bench.agreement.oracle import EnvironmentMissing, Oracle, privileges
from bench.agreement.ours import verify
from bench.agreement.run import one

from ebpf.isa import decode, disasm
from ebpf.kernels.linux import LinuxKernel


def show(case: Case, level: int, profile: str) -> None:
    """Print the case, the log of the running kernel and ours at a level."""
    print(f"== {case.id} [{case.name}] stage {case.stage}")
    print(f"   type {case.prog_type} attach {case.attach_type} flags {case.flags:#x} caps {case.caps}")
    for number, each in enumerate(case.maps):
        print(f"   map {number}: {each}")
    print("\n".join(disasm(decode(case.with_maps(list(range(len(case.maps))))))))
    with LinuxKernel() as kernel:
        oracle = Oracle(kernel)
        oracle.warm()
        privileges(case.caps)
        try:
            answer = oracle.ask(case)
            print(f"== kernel: {answer.verdict} errno {answer.errno} {answer.why}\n{oracle.log(case, level)}")
        except EnvironmentMissing as missing:
            print(f"== kernel: {missing}")
    ours = one(lambda each, name: verify(each, name, level), case, profile, 60)
    print(f"== ours: {ours.verdict} {ours.why}\n{ours.log or ours.error}")
