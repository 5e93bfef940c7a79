"""Judging programs before they run."""

from ebpf.engine.verifier.verify import line_at, verify

__all__ = ["line_at", "verify"]
