"""Write, verify, test and debug eBPF in any Python; then run the same file in the Linux kernel."""

__version__ = "0.1.0"
