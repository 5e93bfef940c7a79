"""Linux's own kernel, by bpf(2), perf_event_open, netlink and tracefs."""

from ebpf.kernels.linux.kernel import LinuxKernel

__all__ = ["LinuxKernel", "permitted"]


def permitted() -> bool:
    """Whether this process may use bpf(2): a program of two instructions is loaded, and closed again."""
    from ebpf.errors import EbpfError
    from ebpf.sys.calls import ProgLoad
    from ebpf.uapi import ProgType

    try:
        with LinuxKernel() as kernel:
            kernel.bpf(ProgLoad(int(ProgType.SOCKET_FILTER), bytes.fromhex("b7000000000000009500000000000000"), "GPL"))
    except EbpfError:
        return False
    return True
