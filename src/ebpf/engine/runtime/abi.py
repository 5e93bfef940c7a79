"""The runtime's structs (c/rt.h, c/replay.c) as ctypes sees them."""

import ctypes
from ctypes import c_char, c_int32, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p


class Task(ctypes.Structure):
    """`struct rt_task`: who runs."""

    _fields_ = (
        ("tid", c_uint32),
        ("tgid", c_uint32),
        ("uid", c_uint32),
        ("gid", c_uint32),
        ("comm", c_char * 16),
        ("cpu", c_uint32),
        ("known", c_uint32),
        ("real_parent", c_void_p),
        ("parent", c_void_p),
        ("cgroups", c_void_p),
        ("began", c_uint32),
        ("spare", c_uint32),
    )


KNOW_ALL = 7


class Trace(ctypes.Structure):
    """`struct rt_trace`: the head of a ring of lines; its bytes follow."""

    _fields_ = (
        ("head", c_uint64),
        ("tail", c_uint64),
        ("lost", c_uint64),
        ("size", c_uint32),
        ("lock", c_uint32),
        ("event_fd", c_int32),
        ("waiting", c_uint32),
        ("spare", c_uint32),
        ("unused", c_uint32),
    )


class Route(ctypes.Structure):
    """`struct rt_route`: what bpf_fib_lookup finds."""

    _fields_ = (
        ("family", c_uint32),
        ("bits", c_uint32),
        ("result", c_uint32),
        ("ifindex", c_uint32),
        ("mtu", c_uint32),
        ("metric", c_uint32),
        ("gateway_family", c_uint32),
        ("neighbour", c_uint32),
        ("prefix", c_uint8 * 16),
        ("gateway", c_uint8 * 16),
        ("source", c_uint8 * 16),
        ("smac", c_uint8 * 6),
        ("dmac", c_uint8 * 6),
        ("link_mtu", c_uint32),
    )


class Tunnel(ctypes.Structure):
    """`struct rt_tunnel`: the tunnel that a packet is to go through."""

    _fields_ = (
        ("id", c_uint32),
        ("label", c_uint32),
        ("from_", c_uint8 * 16),
        ("to", c_uint8 * 16),
        ("flags", c_uint16),
        ("known", c_uint8),
        ("ipv6", c_uint8),
        ("tos", c_uint8),
        ("ttl", c_uint8),
        ("options_size", c_uint8),
        ("spare", c_uint8),
        ("options", c_uint8 * 256),
    )


class Env(ctypes.Structure):
    """`struct rt_env`: a program's surroundings."""

    _fields_ = (
        ("task", Task),
        ("trace", c_void_p),
        ("random", c_uint64),
        ("clock_offset", c_uint64),
        ("fixed_time", c_uint64),
        ("target", c_int32),
        ("ncpu", c_uint32),
        ("kernel_begin", c_void_p),
        ("kernel_end", c_void_p),
        ("packet", c_void_p),
        ("runs", c_uint64),
        ("tail_calls", c_uint32),
        ("stop", c_uint32),
        ("routes", c_void_p),
        ("user_ip", c_uint64),
        ("user_bp", c_uint64),
        ("parent", Task),
        ("cgroups", c_void_p),
        ("cgroup", c_void_p),
        ("cgroup_node", c_uint64),
        ("attach_cookie", c_uint64),
        ("socket_cookie", c_uint64),
        ("tunnel", Tunnel),
        ("to_ifindex", c_uint32),
        ("to_flags", c_uint32),
    )


class MapHeader(ctypes.Structure):
    """`struct rt_map`: a map's header."""

    _fields_ = (
        ("type", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("flags", c_uint32),
        ("elem_size", c_uint32),
        ("ncpu", c_uint32),
        ("cpu_stride", c_uint32),
        ("data", c_void_p),
        ("data_size", c_uint64),
        ("meta", c_void_p),
        ("meta_size", c_uint64),
        ("lock", c_uint32),
        ("count", c_uint32),
        ("free_head", c_uint32),
        ("buckets", c_uint32),
        ("event_fd", c_int32),
        ("fresh", c_uint32),
        ("seed", c_uint32),
        ("hand", c_uint32),
        ("seq", c_uint32),
        ("capacity", c_uint32),
        ("lock_at", c_uint32),
        ("timer_at", c_uint32),
        ("clock", c_void_p),
    )


class Xdp(ctypes.Structure):
    """`struct rt_xdp`: the context of XDP programs."""

    _fields_ = (
        ("data", c_uint64),
        ("data_end", c_uint64),
        ("data_meta", c_uint64),
        ("ingress_ifindex", c_uint32),
        ("rx_queue_index", c_uint32),
        ("egress_ifindex", c_uint32),
        ("unused", c_uint32),
        ("hard_begin", c_uint64),
        ("hard_end", c_uint64),
    )


class Skb(ctypes.Structure):
    """`struct rt_skb`: the context of programs above the driver."""

    _fields_ = (
        ("len", c_uint32),
        ("pkt_type", c_uint32),
        ("mark", c_uint32),
        ("queue_mapping", c_uint32),
        ("protocol", c_uint32),
        ("vlan", c_uint32 * 3),
        ("priority", c_uint32),
        ("ingress_ifindex", c_uint32),
        ("ifindex", c_uint32),
        ("tc_index", c_uint32),
        ("cb", c_uint32 * 5),
        ("hash", c_uint32),
        ("tc_classid", c_uint32),
        ("places", c_uint32 * 2),
        ("napi_id", c_uint32),
        ("socket", c_uint32 * 13),
        ("place", c_uint32),
        ("flow_keys", c_uint32 * 2),
        ("tstamp", c_uint64),
        ("wire_len", c_uint32),
        ("gso_segs", c_uint32),
        ("sk", c_uint64),
        ("gso_size", c_uint32),
        ("tstamp_type", c_uint32),
        ("hwtstamp", c_uint64),
        ("data", c_uint64),
        ("data_end", c_uint64),
        ("data_meta", c_uint64),
        ("link_header", c_uint64),
        ("network_header", c_uint64),
        ("hard_begin", c_uint64),
        ("hard_end", c_uint64),
    )


class Perf(ctypes.Structure):
    """`struct rt_perf`: one CPU's perf buffer."""

    _fields_ = (
        ("base", c_void_p),
        ("data_size", c_uint64),
        ("lost", c_uint64),
        ("lock", c_uint32),
        ("event_fd", c_int32),
    )


VERDICTS = 8


class Replay(ctypes.Structure):
    """`struct rt_replay`: what a replay is given, and what it counted."""

    _fields_ = (
        ("at", c_void_p),
        ("end", c_void_p),
        ("pcapng", c_uint32),
        ("swapped", c_uint32),
        ("buffer", c_void_p),
        ("buffer_size", c_uint64),
        ("limit", c_uint64),
        ("sinks", c_int32 * VERDICTS),
        ("ifindex", c_uint32),
        ("nanoseconds", c_uint32),
        ("packets", c_uint64),
        ("invalid", c_uint64),
        ("bytes", c_uint64),
        ("elapsed_ns", c_uint64),
        ("oversize", c_uint64),
        ("consumed", c_uint64),
        ("verdicts", c_uint64 * VERDICTS),
        ("torn", c_uint32),
    )


class Caller(ctypes.Structure):
    """`struct rt_caller`: a program as a function of Python."""

    _fields_ = (
        ("prog", c_void_p),
        ("env", c_void_p),
        ("buffer", c_void_p),
        ("buffer_size", c_uint64),
        ("bytes", c_void_p),
        ("number", c_void_p),
        ("fail", c_void_p),
        ("error", c_void_p),
        ("ifindex", c_uint32),
        ("forks", c_uint32),
    )


SKIPPED = 8


class Seize(ctypes.Structure):
    """`struct rt_seize`: what the loop over running processes is told, and what it tells."""

    _fields_ = (
        ("stop", c_uint32),
        ("begun", c_uint32),
        ("ended", c_uint32),
        ("tasks", c_uint32),
        ("refused", c_uint32),
        ("self", c_int32),
        ("root", c_int32),
        ("status", c_int32),
        ("root_ended", c_uint32),
        ("thread", c_int32),
        ("skip", c_int32 * SKIPPED),
        ("userns", ctypes.c_char * 64),
    )


class WireChain(ctypes.Structure):
    """`struct rt_wire_chain`: programs of one side of an interface, in order."""

    _fields_ = (("count", c_uint64), ("prog", c_void_p * 64))


class Wire(ctypes.Structure):
    """`struct rt_wire`: one direction of a wire, and what passed."""

    #: Where in `chains` the filters of either side stand.
    INGRESS, EGRESS = 0, 1

    _fields_ = (
        ("input", c_int32),
        ("output", c_int32),
        ("wake", c_int32),
        ("ifindex", c_uint32),
        ("stop", c_uint32),
        ("ended", c_uint32),
        ("lock", c_uint32),
        ("frames", c_uint32),
        ("ring", c_void_p),
        ("longest", c_void_p),
        ("prog", c_void_p),
        ("chains", WireChain * 2),
        ("mac", c_uint8 * 6),
        ("outward", c_uint8),
        ("both", c_uint8),
        ("packets", c_uint64),
        ("bytes", c_uint64),
        ("passed", c_uint64),
        ("dropped", c_uint64),
        ("sent_back", c_uint64),
        ("refused", c_uint64),
        ("lost", c_uint64),
    )
