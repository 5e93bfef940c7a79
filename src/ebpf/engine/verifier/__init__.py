"""Judging programs before they run."""

from ebpf.engine.verifier.reasons import REASONS, Reason
from ebpf.engine.verifier.rules import NEWEST, RULES, Rules
from ebpf.engine.verifier.verify import line_at, verify

__all__ = ["NEWEST", "REASONS", "RULES", "Reason", "Rules", "line_at", "verify"]
