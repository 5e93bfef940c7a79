"""Storage of tasks and cgroups: programs find it by the object, Python by a descriptor; and what programs read of a task."""

import errno
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import EbpfError, KernelError
from ebpf.object import Collection, Map
from ebpf.spec import ObjectSpec
from ebpf.sys.calls import FdById, MapCreate, MapDelete
from ebpf.sys.kernel import Kernel
from ebpf.uapi import Cmd, MapFlag, MapType

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
struct kernfs_node { __u64 id; } __attribute__((preserve_access_index));
struct cgroup { struct kernfs_node *kn; } __attribute__((preserve_access_index));
struct css_set { struct cgroup *dfl_cgrp; } __attribute__((preserve_access_index));
struct task_struct { int pid, tgid; char comm[16]; struct task_struct *real_parent; struct css_set *cgroups; }
    __attribute__((preserve_access_index));
struct value { __u64 count; __u32 pid, tgid; };
struct { __uint(type, BPF_MAP_TYPE_TASK_STORAGE); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, int); __type(value, struct value); }
    tasks SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_CGRP_STORAGE); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, int); __type(value, __u64); }
    groups SEC(".maps");
int tgid, parent, read_parent, answers[4];
__u64 group;
char comm[16];
SEC("raw_tp/sys_enter") int count(void *ctx)
{
    struct task_struct *task = bpf_get_current_task_btf();
    struct value first = {.count = 10}, *value = bpf_task_storage_get(&tasks, task, &first, BPF_LOCAL_STORAGE_GET_F_CREATE);
    if (!value)
        return 1;
    value->count++;
    value->pid = task->pid;
    value->tgid = task->tgid;
    return 0;
}
SEC("raw_tp/sys_enter") int look(void *ctx)
{
    struct task_struct *task = bpf_get_current_task_btf();
    answers[0] = bpf_task_storage_get(&tasks, task, 0, 0) != 0;
    answers[1] = bpf_task_storage_get(&tasks, task, 0, 2) != 0;
    answers[2] = bpf_task_storage_delete(&tasks, task);
    answers[3] = bpf_task_storage_delete(&tasks, task);
    return 0;
}
SEC("raw_tp/sys_enter") int read(void *ctx)
{
    struct task_struct *task = bpf_get_current_task_btf();
    tgid = task->tgid;
    parent = task->real_parent->tgid;
    bpf_probe_read_kernel_str(comm, sizeof comm, task->comm);
    read_parent = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), real_parent, tgid);
    return 0;
}
SEC("raw_tp/sys_enter") int in_group(void *ctx)
{
    struct task_struct *task = bpf_get_current_task_btf();
    __u64 *value = bpf_cgrp_storage_get(&groups, task->cgroups->dfl_cgrp, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
    if (!value)
        return 1;
    group = task->cgroups->dfl_cgrp->kn->id;
    (*value)++;
    return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""
VALUE = "<QII"


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compile_c("storage.bpf.c", text=SOURCE).object, "storage.o")


@pytest.fixture
def me() -> Iterator[bytes]:
    """A descriptor of this process, as a key."""
    fd = os.pidfd_open(os.getpid())
    yield struct.pack("<i", fd)
    os.close(fd)


def errno_of(act: object) -> int:
    """What an action is refused with, 0 if it is not."""
    assert callable(act)
    try:
        act()
    except KernelError as error:
        return error.errno
    return 0


def delete(kernel: Kernel, table: Map, key: bytes) -> None:
    """Remove an element, which must be there."""
    kernel.bpf(MapDelete(table.fd, key))


def test_a_program_keeps_something_with_its_task(kernel: Kernel, engine: str, spec: ObjectSpec, me: bytes) -> None:
    with Collection.load(spec, kernel) as held:
        table = held.maps["tasks"]
        assert table.lookup(me) is None
        for _ in range(3):
            assert held.programs["count"].run(b"").retval == 0
        assert struct.unpack(VALUE, table.lookup(me) or b"") == (13, os.getpid(), os.getpid())
        table.update(me, struct.pack(VALUE, 5, 0, 0))
        assert held.programs["count"].run(b"").retval == 0
        assert struct.unpack(VALUE, table.lookup(me) or b"") == (6, os.getpid(), os.getpid())
        held.programs["look"].run(b"")
        assert list(held.variables()["answers"]) == [1, 0, 0, -errno.ENOENT]
        assert table.lookup(me) is None
        held.programs["look"].run(b"")
        assert list(held.variables()["answers"]) == [0, 0, -errno.ENOENT, -errno.ENOENT]


def test_keys_are_descriptors_of_processes(kernel: Kernel, spec: ObjectSpec, me: bytes) -> None:
    value = bytes(struct.calcsize(VALUE))
    with Collection.load(spec, kernel) as held, open("/dev/null", "rb") as file:
        table = held.maps["tasks"]
        for key in (struct.pack("<i", file.fileno()), struct.pack("<i", -1), struct.pack("<i", 1 << 20)):
            assert [errno_of(lambda: table.update(key, value)), errno_of(lambda: delete(kernel, table, key))] == [errno.EBADF] * 2  # noqa: B023
        assert errno_of(lambda: table.update(me, value, 2)) == errno.ENOENT
        assert errno_of(lambda: table.update(me, value, 1)) == 0
        assert errno_of(lambda: table.update(me, value, 1)) == errno.EEXIST
        assert [errno_of(lambda: table.update(me, value, flags)) for flags in (0, 2, 3, 4, 8)] == [0, 0, 22, 22, 22]  # noqa: B023
        assert [errno_of(lambda: delete(kernel, table, me)) for _ in range(2)] == [0, errno.ENOENT]
        assert errno_of(lambda: list(table.raw)) == 524
        pid = os.fork()
        if not pid:
            signal.pause()
        fd = os.pidfd_open(pid)
        other = struct.pack("<i", fd)
        table.update(other, value)
        assert table.lookup(other) == value
        assert table.lookup(me) is None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert [errno_of(lambda: table.update(other, value)), errno_of(lambda: delete(kernel, table, other))] == [errno.ENOENT] * 2
        os.close(fd)


def test_a_task_has_numbers_a_name_and_a_parent(kernel: Kernel, engine: str, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        held.programs["read"].run(b"")
        found = held.variables()
        assert (found["tgid"], found["parent"], found["read_parent"]) == (os.getpid(), os.getppid(), os.getppid())
        assert str(found["comm"]) == Path("/proc/self/comm").read_text().strip()


def _group() -> str:
    """The folder of the cgroup that this process is in."""
    path = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    return next((root + path for root in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if os.path.exists(f"{root}/cgroup.procs")), "")


@pytest.mark.skipif(not _group(), reason="there is no cgroup2")
def test_a_program_keeps_something_with_a_cgroup(kernel: Kernel, engine: str, spec: ObjectSpec) -> None:
    fd = os.open(_group(), os.O_RDONLY | os.O_DIRECTORY)
    key = struct.pack("<i", fd)
    with Collection.load(spec, kernel) as held, open("/dev/null", "rb") as file:
        table = held.maps["groups"]
        before = int.from_bytes(table.lookup(key) or bytes(8), "little")
        for _ in range(2):
            assert held.programs["in_group"].run(b"").retval == 0
        assert int.from_bytes(table.lookup(key) or b"", "little") == before + 2
        assert held.variables()["group"] == os.fstat(fd).st_ino
        table.delete(key)
        assert errno_of(lambda: delete(kernel, table, key)) == errno.ENOENT
        assert errno_of(lambda: delete(kernel, table, struct.pack("<i", file.fileno()))) == errno.EBADF
    os.close(fd)


@pytest.mark.parametrize("type_", [MapType.TASK_STORAGE, MapType.CGRP_STORAGE])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 0),
        ({"flags": int(MapFlag.NO_PREALLOC | MapFlag.CLONE)}, 0),
        ({"flags": 0}, errno.EINVAL),
        ({"flags": int(MapFlag.NO_PREALLOC | MapFlag.ZERO_SEED)}, errno.EINVAL),
        ({"key_size": 8}, errno.EINVAL),
        ({"value_size": 0}, errno.EINVAL),
        ({"max_entries": 1}, errno.EINVAL),
        ({"btf_fd": 0, "btf_key_type_id": 0, "btf_value_type_id": 0}, errno.EINVAL),
    ],
)
def test_storage_is_made_as_on_linux(kernel: Kernel, spec: ObjectSpec, type_: MapType, change: dict[str, int], expected: int) -> None:
    with Collection.load(spec, kernel) as held:
        info = held.maps["tasks"].info()
        assert info.max_entries == 0
        fd = kernel.bpf(FdById(Cmd.BTF_GET_FD_BY_ID, info.btf_id))
        asked = {
            "flags": int(MapFlag.NO_PREALLOC),
            "key_size": 4,
            "value_size": 16,
            "max_entries": 0,
            "btf_fd": fd,
            "btf_key_type_id": info.btf_key_type_id,
            "btf_value_type_id": info.btf_value_type_id,
        }
        assert errno_of(lambda: kernel.close(kernel.bpf(MapCreate(int(type_), **{**asked, **change})))) == expected
        kernel.close(fd)


def test_a_field_that_a_task_does_not_have_is_named(kernel: Kernel) -> None:
    text = SOURCE.replace("int pid, tgid;", "int pid, tgid, no_such_field;").replace("tgid = task->tgid;", "tgid = task->no_such_field;")
    with pytest.raises(EbpfError, match="no_such_field"):
        Collection.load(read_object(compile_c("storage.bpf.c", text=text).object, "storage.o"), kernel).close()
