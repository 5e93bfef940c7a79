"""`python -m ebpf.engine.runtime` compiles the runtime into the package's folder."""

import sys

from ebpf.engine.runtime.build import main

sys.exit(main())
