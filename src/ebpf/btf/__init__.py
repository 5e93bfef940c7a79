"""BTF: types, parsing, emitting. Pure."""


class Btf:
    """Parsed type information."""
