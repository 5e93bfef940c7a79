"""Records are dataclasses, finished when the first one is made."""

import pickle
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest

from ebpf.records import made_by, record


@record
class Base:
    one: int


@record
class Derived(Base):
    two: str = "two"
    many: list[int] = made_by(default_factory=list)


def test_a_record_is_a_frozen_dataclass_from_its_first_instance_on() -> None:
    made = Derived(1)
    assert made == Derived(1, "two", [])
    assert made != Derived(2)
    assert repr(made) == "Derived(one=1, two='two', many=[])"
    assert replace(made, two="2") == Derived(1, "2")  # type: ignore[type-var]
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(FrozenInstanceError):
        made.one = 2  # type: ignore[misc]
    with pytest.raises(TypeError, match="unexpected keyword"):
        Derived(1, three=3)  # type: ignore[call-arg]


def test_the_fields_of_one_that_was_never_made_are_known() -> None:
    @record
    class Unmade(Base):
        three: int = 3

    assert is_dataclass(Unmade)
    assert [f.name for f in fields(Unmade)] == ["one", "three"]  # type: ignore[arg-type]
    assert Unmade(1).three == 3
