"""What modules made by `ebpf gen python` stand on: an object with its maps, programs and variables as attributes."""

from contextlib import ExitStack
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from ebpf.attach.auto import by_section
from ebpf.attach.link import Link
from ebpf.btf import Classes
from ebpf.errors import UsageError
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys.kernel import Kernel


class Variables:
    """Global variables as attributes: before the load what they begin with, then what they are (constants no longer change)."""

    def __init__(self, skeleton: "Skeleton") -> None:
        object.__setattr__(self, "_skeleton", skeleton)

    def __getattr__(self, name: str) -> Any:
        collection = self._skeleton.collection
        if collection is None:
            raise UsageError(f"variable {name!r} is read when the object is loaded")
        return collection.variables()[name] if name in collection.variables() else collection.constant(name)

    def __setattr__(self, name: str, value: Any) -> None:
        skeleton = self._skeleton
        if skeleton.collection is None:
            skeleton.spec = skeleton.spec.with_variables({name: value})
        else:
            skeleton.collection.set_variable(name, value)


class Skeleton:
    """An object that is loaded by `load()` and attached by `attach()`. Close it, or use it in a with statement.

    `spec` may be changed until it is loaded. `links` has what attach() attached, by program.
    """

    def __init__(self, kernel: Kernel, spec: ObjectSpec, classes: Classes | None, *, own: bool = False) -> None:
        self.kernel = kernel
        self.spec = spec
        self.collection: Collection | None = None
        #: What a generated stub says more of.
        self.maps: Any = SimpleNamespace()
        self.programs: Any = SimpleNamespace()
        self.variables: Any = Variables(self)
        self.links: dict[str, Link] = {}
        self._classes = classes
        self._stack = ExitStack()
        if own:
            self._stack.callback(kernel.shutdown)

    def load(self) -> Self:
        """Load it; once. Raises what Collection.load() raises."""
        if self.collection is None:
            loaded = self._stack.enter_context(Collection.load(self.spec, self.kernel, classes=self._classes))
            self.collection = loaded
            self.maps.__dict__.update({name: held for name, held in loaded.maps.items() if name.isidentifier()})
            self.programs.__dict__.update(loaded.programs)
        return self

    def attach(self) -> Self:
        """Load it, and attach each program whose section says to what. Raises what by_section() raises."""
        self.load()
        assert self.collection is not None
        for name, program in self.collection.programs.items():
            link = by_section(program) if program.loaded and name not in self.links else None
            if link is not None:
                self.links[name] = self._stack.enter_context(link)
        return self

    def close(self) -> None:
        """Detach and close all. Idempotent."""
        self._stack.close()
        self.links.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
