"""`ebpf` under bpftool's name."""

import sys

from ebpf.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
