"""The table of bpf_fib_lookup: routes as the caller gave them, as the runtime reads them."""

import ctypes
import ipaddress
from collections.abc import Sequence

from ebpf.engine.runtime.abi import Route as Row
from ebpf.sys.kernel import Route

_FAMILIES = {4: 2, 6: 10}


def route_table(routes: Sequence[Route]) -> "ctypes.Array[Row]":
    """Routes with the longest prefixes first, and an empty one at the end. Raises ValueError for what is no address."""
    rows = sorted((_row(route) for route in routes), key=lambda row: -row.bits)
    return (Row * (len(rows) + 1))(*rows)


def _row(route: Route) -> Row:
    network = ipaddress.ip_network(route.prefix)
    row = Row(family=_FAMILIES[network.version], bits=network.prefixlen, result=route.result, ifindex=route.ifindex)
    row.mtu, row.link_mtu, row.metric = route.mtu, route.link_mtu, route.metric
    _put(row.prefix, network.network_address.packed)
    if route.gateway:
        gateway = ipaddress.ip_address(route.gateway)
        row.gateway_family = _FAMILIES[gateway.version]
        _put(row.gateway, gateway.packed)
    if route.source:
        _put(row.source, ipaddress.ip_address(route.source).packed)
    if route.smac or route.dmac:
        if len(route.smac) != 6 or len(route.dmac) != 6:
            raise ValueError(f"route {route.prefix}: a link address has 6 bytes")
        row.neighbour = 1
        _put(row.smac, route.smac)
        _put(row.dmac, route.dmac)
    return row


def _put(place: "ctypes.Array[ctypes.c_uint8]", data: bytes) -> None:
    place[: len(data)] = list(data)
