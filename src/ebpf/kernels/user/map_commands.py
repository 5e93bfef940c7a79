"""The commands of bpf(2) on maps."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ebpf.btf import kernel_fields
from ebpf.errors import EbpfError
from ebpf.kernels.user import holders
from ebpf.kernels.user.maps import create
from ebpf.kernels.user.objects import READ, WRITE, BtfObject, MapObject, access
from ebpf.sys import calls
from ebpf.sys.calls import Call

if TYPE_CHECKING:
    from ebpf.kernels.user.kernel import UserKernel


def _map_create(kernel: "UserKernel", call: calls.MapCreate) -> int:
    made = create(call, kernel.possible_cpus, lambda fd: kernel.map_at(fd, "bpf(MAP_CREATE)").map)
    try:
        btf = kernel.table.get(call.btf_fd, BtfObject, "bpf(MAP_CREATE)") if call.btf_fd else None
        if btf is not None and call.btf_value_type_id:
            made.set_fields(kernel_fields(btf.btf, call.btf_value_type_id))
        if made.header.timer_at:
            made.clock = kernel.state.timers.clock()
    except EbpfError:
        made.close()
        raise
    return kernel.table.add(MapObject(made, btf), access(call.flags))


def _lookup(kernel: "UserKernel", call: calls.MapLookup) -> bytes:
    return kernel.map_at(call.map_fd, "map_lookup_elem", READ).map.lookup(call.key, call.flags, call.value)


def _update(kernel: "UserKernel", call: calls.MapUpdate) -> None:
    held = kernel.map_at(call.map_fd, "map_update_elem", WRITE).map
    if not holders.put(kernel, held, call):
        held.update(call.key, call.value, call.flags)


def _delete(kernel: "UserKernel", call: calls.MapDelete) -> None:
    held = kernel.map_at(call.map_fd, "map_delete_elem", WRITE).map
    if not holders.drop(kernel, held, call.key):
        held.delete(call.key)


def _next_key(kernel: "UserKernel", call: calls.MapNextKey) -> bytes:
    return kernel.map_at(call.map_fd, "map_get_next_key", READ).map.next_key(call.key)


def _take(kernel: "UserKernel", call: calls.MapLookupAndDelete) -> bytes:
    call_ = "map_lookup_and_delete_elem"
    kernel.map_at(call.map_fd, call_, READ)
    return kernel.map_at(call.map_fd, call_, WRITE).map.take(call.key, call.flags)


def _freeze(kernel: "UserKernel", call: calls.MapFreeze) -> None:
    kernel.map_at(call.map_fd, "bpf(MAP_FREEZE)", WRITE).map.freeze()


def _batch(kernel: "UserKernel", call: calls.MapLookupBatch) -> calls.Batch:
    return kernel.map_at(call.map_fd, "map_lookup_batch", READ).map.batch(call.start, call.count, call.flags, take=False)


def _take_batch(kernel: "UserKernel", call: calls.MapTakeBatch) -> calls.Batch:
    call_ = "map_lookup_and_delete_batch"
    kernel.map_at(call.map_fd, call_, READ)
    held = kernel.map_at(call.map_fd, call_, WRITE).map
    return holders.take_batch(kernel, held, call) or held.batch(call.start, call.count, call.flags, take=True)


def _update_batch(kernel: "UserKernel", call: calls.MapUpdateBatch) -> int:
    held = kernel.map_at(call.map_fd, "map_update_batch", WRITE).map
    return holders.put_batch(kernel, held, call) or held.put_many(call.keys, call.values, call.count, call.flags)


def _delete_batch(kernel: "UserKernel", call: calls.MapDeleteBatch) -> int:
    held = kernel.map_at(call.map_fd, "map_delete_batch", WRITE).map
    return holders.drop_batch(kernel, held, call) or held.remove_many(call.keys, call.count, call.flags)


MAP_COMMANDS: Final[dict[type[Call[Any]], Callable[["UserKernel", Any], Any]]] = {
    calls.MapCreate: _map_create,
    calls.MapLookup: _lookup,
    calls.MapUpdate: _update,
    calls.MapDelete: _delete,
    calls.MapNextKey: _next_key,
    calls.MapLookupAndDelete: _take,
    calls.MapFreeze: _freeze,
    calls.MapLookupBatch: _batch,
    calls.MapTakeBatch: _take_batch,
    calls.MapUpdateBatch: _update_batch,
    calls.MapDeleteBatch: _delete_batch,
}
