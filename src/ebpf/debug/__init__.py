"""Explaining what the verifier says, in terms of the program's own source."""

from ebpf.debug.explain import Explanation, Span, explain
from ebpf.debug.log import explain_log
from ebpf.debug.pages import PAGES, Page, page_of

__all__ = ["PAGES", "Explanation", "Page", "Span", "explain", "explain_log", "page_of"]
