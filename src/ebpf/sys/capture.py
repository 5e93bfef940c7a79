"""Captured packets: classic pcap and pcapng files, both endians, microseconds and nanoseconds.

`Capture` holds the file's bytes and how to walk them; iterating gives packets. A kernel may walk the bytes natively.
"""


class Capture:
    """Placeholder while the rooms are laid out."""
