"""bpftool's grammar as its 7.8 prints it: one text for each noun, with the name the command was called by and the noun as typed."""

_MAP = "       MAP := {{ id MAP_ID | pinned FILE | name MAP_NAME }}\n"
_PROG = "       PROG := {{ id PROG_ID | pinned FILE | tag PROG_TAG | name PROG_NAME }}\n"

# {0} stands for the command, {1} for the noun.
_TEXTS = {
    "": """\
Usage: {0} [OPTIONS] OBJECT {{ COMMAND | help }}
       {0} batch file FILE
       {0} version

       OBJECT := {{ prog | map | link | cgroup | perf | net | feature | btf | gen | struct_ops | iter | token }}
       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} |
                    {{-V|--version}} }}
""",
    "prog": """\
Usage: {0} {1} {{ show | list }} [PROG]
       {0} {1} dump xlated PROG [{{ file FILE | [opcodes] [linum] [visual] }}]
       {0} {1} dump jited  PROG [{{ file FILE | [opcodes] [linum] }}]
       {0} {1} pin   PROG FILE
       {0} {1} {{ load | loadall }} OBJ  PATH \\
                         [type TYPE] [{{ offload_dev | xdpmeta_dev }} NAME] \\
                         [map {{ idx IDX | name NAME }} MAP]\\
                         [pinmaps MAP_DIR]
                         [autoattach]
                         [kernel_btf BTF_FILE]
       {0} {1} attach PROG ATTACH_TYPE [MAP]
       {0} {1} detach PROG ATTACH_TYPE [MAP]
       {0} {1} run PROG \\
                         data_in FILE \\
                         [data_out FILE [data_size_out L]] \\
                         [ctx_in FILE [ctx_out FILE [ctx_size_out M]]] \\
                         [repeat N]
       {0} {1} profile PROG [duration DURATION] METRICs
       {0} {1} tracelog
       {0} {1} tracelog {{ stdout | stderr }} PROG
       {0} {1} help

"""
    + _MAP
    + _PROG
    + """\
       TYPE := {{ socket | kprobe | kretprobe | classifier | action |
                 tracepoint | raw_tracepoint | xdp | perf_event | cgroup/skb |
                 cgroup/sock | cgroup/dev | lwt_in | lwt_out | lwt_xmit |
                 lwt_seg6local | sockops | sk_skb | sk_msg | lirc_mode2 |
                 sk_reuseport | flow_dissector | cgroup/sysctl |
                 cgroup/bind4 | cgroup/bind6 | cgroup/post_bind4 |
                 cgroup/post_bind6 | cgroup/connect4 | cgroup/connect6 |
                 cgroup/connect_unix | cgroup/getpeername4 | cgroup/getpeername6 |
                 cgroup/getpeername_unix | cgroup/getsockname4 | cgroup/getsockname6 |
                 cgroup/getsockname_unix | cgroup/sendmsg4 | cgroup/sendmsg6 |
                 cgroup/sendmsg_unix | cgroup/recvmsg4 | cgroup/recvmsg6 | cgroup/recvmsg_unix |
                 cgroup/getsockopt | cgroup/setsockopt | cgroup/sock_release |
                 struct_ops | fentry | fexit | fsession | freplace | sk_lookup }}
       ATTACH_TYPE := {{ sk_msg_verdict | sk_skb_verdict | sk_skb_stream_verdict |
                        sk_skb_stream_parser | flow_dissector }}
       METRIC := {{ cycles | instructions | l1d_loads | llc_misses | itlb_misses | dtlb_misses }}
       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} |
                    {{-f|--bpffs}} | {{-m|--mapcompat}} | {{-n|--nomount}} |
                    {{-L|--use-loader}} | [ {{-S|--sign }} {{-k}} <private_key.pem> {{-i}} <certificate.x509> ]\x20
""",
    "map": """\
Usage: {0} {1} {{ show | list }}   [MAP]
       {0} {1} create     FILE type TYPE key KEY_SIZE value VALUE_SIZE \\
                                  entries MAX_ENTRIES name NAME [flags FLAGS] \\
                                  [inner_map MAP] [offload_dev NAME]
       {0} {1} dump       MAP
       {0} {1} update     MAP [key DATA] [value VALUE] [UPDATE_FLAGS]
       {0} {1} lookup     MAP [key DATA]
       {0} {1} getnext    MAP [key DATA]
       {0} {1} delete     MAP  key DATA
       {0} {1} pin        MAP  FILE
       {0} {1} event_pipe MAP [cpu N index M]
       {0} {1} peek       MAP
       {0} {1} push       MAP value VALUE
       {0} {1} pop        MAP
       {0} {1} enqueue    MAP value VALUE
       {0} {1} dequeue    MAP
       {0} {1} freeze     MAP
       {0} {1} help

"""
    + _MAP
    + """\
       DATA := {{ [hex] BYTES }}
"""
    + _PROG
    + """\
       VALUE := {{ DATA | MAP | PROG }}
       UPDATE_FLAGS := {{ any | exist | noexist }}
       TYPE := {{ hash | array | prog_array | perf_event_array | percpu_hash |
                 percpu_array | stack_trace | cgroup_array | lru_hash |
                 lru_percpu_hash | lpm_trie | array_of_maps | hash_of_maps |
                 devmap | devmap_hash | sockmap | cpumap | xskmap | sockhash |
                 cgroup_storage | reuseport_sockarray | percpu_cgroup_storage |
                 queue | stack | sk_storage | struct_ops | ringbuf | inode_storage |
                 task_storage | bloom_filter | user_ringbuf | cgrp_storage | arena |
                 insn_array | rhash }}
       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} |
                    {{-f|--bpffs}} | {{-n|--nomount}} }}
""",
    "link": """\
Usage: {0} {1} {{ show | list }}   [LINK]
       {0} {1} pin        LINK  FILE
       {0} {1} detach     LINK
       {0} {1} help

       LINK := {{ id LINK_ID | pinned FILE }}
       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} |
                    {{-f|--bpffs}} | {{-n|--nomount}} }}
""",
    "cgroup": """\
Usage: {0} {1} {{ show | list }} CGROUP [**effective**]
       {0} {1} tree [CGROUP_ROOT] [**effective**]
       {0} {1} attach CGROUP ATTACH_TYPE PROG [ATTACH_FLAGS]
       {0} {1} detach CGROUP ATTACH_TYPE PROG
       {0} {1} help

       ATTACH_TYPE := {{ cgroup_inet_ingress | cgroup_inet_egress |
                        cgroup_inet_sock_create | cgroup_sock_ops |
                        cgroup_device | cgroup_inet4_bind |
                        cgroup_inet6_bind | cgroup_inet4_post_bind |
                        cgroup_inet6_post_bind | cgroup_inet4_connect |
                        cgroup_inet6_connect | cgroup_unix_connect |
                        cgroup_inet4_getpeername | cgroup_inet6_getpeername |
                        cgroup_unix_getpeername | cgroup_inet4_getsockname |
                        cgroup_inet6_getsockname | cgroup_unix_getsockname |
                        cgroup_udp4_sendmsg | cgroup_udp6_sendmsg |
                        cgroup_unix_sendmsg | cgroup_udp4_recvmsg |
                        cgroup_udp6_recvmsg | cgroup_unix_recvmsg |
                        cgroup_sysctl | cgroup_getsockopt |
                        cgroup_setsockopt | cgroup_inet_sock_release }}
       ATTACH_FLAGS := {{ multi | override }}
"""
    + _PROG
    + """\
       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} |
                    {{-f|--bpffs}} }}
""",
    "perf": """\
Usage: {0} {1} {{ show | list }}
       {0} {1} help

       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} }}
""",
    "net": """\
Usage: {0} {1} {{ show | list }} [dev <devname>]
       {0} {1} attach ATTACH_TYPE PROG dev <devname> [ overwrite | prepend ]
       {0} {1} detach ATTACH_TYPE dev <devname>
       {0} {1} help

"""
    + _PROG
    + """\
       ATTACH_TYPE := {{ xdp | xdpgeneric | xdpdrv | xdpoffload | tcx_ingress
                        | tcx_egress }}
       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} }}

Note: Only xdp, tcx, tc, netkit, flow_dissector and netfilter attachments
      are currently supported.
      For progs attached to cgroups, use "{0} cgroup"
      to dump program attachments. For program types
      sk_{{filter,skb,msg,reuseport}} and lwt/seg6, please
      consult iproute2.
""",
    "feature": """\
Usage: {0} {1} probe [COMPONENT] [full] [unprivileged] [macros [prefix PREFIX]]
       {0} {1} list_builtins GROUP
       {0} {1} help

       COMPONENT := {{ kernel | dev NAME }}
       GROUP := {{ prog_types | map_types | attach_types | link_types | helpers }}
       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} }}
""",
    "btf": """\
Usage: {0} {1} {{ show | list }} [id BTF_ID]
       {0} {1} dump BTF_SRC [format FORMAT] [root_id ROOT_ID]
       {0} {1} help

       BTF_SRC := {{ id BTF_ID | prog PROG | map MAP [{{key | value | kv | all}}] |
                    file FILE [file FILE]... }}
       FORMAT  := {{ raw | c [unsorted] }}
"""
    + _MAP
    + _PROG
    + """\
       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} |
                    {{-B|--base-btf}} }}
""",
    "gen": """\
Usage: {0} {1} object OUTPUT_FILE INPUT_FILE [INPUT_FILE...]
       {0} {1} skeleton FILE [name OBJECT_NAME]
       {0} {1} subskeleton FILE [name OBJECT_NAME]
       {0} {1} min_core_btf INPUT OUTPUT OBJECT [OBJECT...]
       {0} {1} help

       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} |
                    {{-L|--use-loader}} | [ {{-S|--sign }} {{-k}} <private_key.pem> {{-i}} <certificate.x509> ]}}
""",
    "struct_ops": """\
Usage: {0} {1} {{ show | list }} [STRUCT_OPS_MAP]
       {0} {1} dump [STRUCT_OPS_MAP]
       {0} {1} register OBJ [LINK_DIR]
       {0} {1} unregister STRUCT_OPS_MAP
       {0} {1} help

       STRUCT_OPS_MAP := [ id STRUCT_OPS_MAP_ID | name STRUCT_OPS_MAP_NAME ]
       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} }}
""",
    "iter": """\
Usage: {0} {1} pin OBJ PATH [map MAP]
       {0} {1} help

"""
    + _MAP
    + """\
       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} }}
""",
    "token": """\
Usage: {0} {1} {{ show | list }}
       {0} {1} help
       OPTIONS := {{ {{-j|--json}} [{{-p|--pretty}}] | {{-d|--debug}} }}

""",
}

_TEXTS["daemon"] = """\
Usage: {0} {1} status        what it holds; exit status 1 if it does not run
       {0} {1} stop          end it, and all that is attached, or pinned and not saved
       {0} {1} log           what it wrote: starts, ends, refusals, faults

ebpfd keeps what `ebpf --kernel user prog load`, `map create` and the like make, for all commands of one user. It starts when it is
needed, and ends when nothing is pinned or attached and nobody is connected.
"""
_TEXTS["vm"] = """\
Usage: {0} {1} run FILE.bin [--mem FILE] [--engine jit|interp] [--unchecked] [--limit N]
       {0} {1} conformance [--engine jit|interp] [--elf] [MEMORY_HEX]

run carries out raw bytecode, r1 at the memory and r2 its size, and prints r0. Each access is checked; --limit ends loops, after
so many jumps backwards and calls (instructions with --engine interp). --unchecked tests no access: it is the fastest, and a
wild program ends the process.
conformance speaks the plug-in protocol of bpf_conformance: bytecode (with --elf an object) as hex on standard input, r0 as hex on
standard output. Its runner takes one file as the plug-in: a script of the line `exec {0} {1} conformance "$@"`.
"""
# What `ebpf` offers beyond it.
_MORE = {
    "gen": """
Beyond bpftool:
       {0} {1} python OBJ [-o FILE.py]
writes a Python module that holds the object, with its maps, programs and variables as attributes and its structs as dataclasses, and
a stub (FILE.pyi) that type checkers read. OBJ and FILE may be C files.
""",
    "prog": """
Beyond bpftool:
       {0} {1} run OBJ [PROGRAM] --pcap FILE [--repeat N] [--write DIR] [--limit N]
replays a capture (pcap or pcapng) through an XDP program and prints the verdicts, the packets per second and the program's
global variables; --write DIR stores each verdict's packets as DIR/XDP_PASS.pcap and so on.
       {0} {1} {{ load | loadall }} OBJ PATH ... target PROG
loads programs of SEC(freplace/FUNCTION), SEC(fentry/FUNCTION) and their like for functions of another program.
       {0} {1} profile PROG [duration SECONDS] cpu_clock
counts nanoseconds where a machine has no counters.
       {0} {1} unload PROG
takes a program off interfaces and links, and removes its pins and theirs; what else holds it is told.
       {0} {1} attach PROG HOOK [pin FILE]
attaches until Ctrl-C, or by a link that is pinned at FILE and stays. HOOK := {{ {{ kprobe | kretprobe }} FUNCTION |
       {{ kprobe.multi | kretprobe.multi | kprobe.session }} PATTERN | {{ ksyscall | kretsyscall }} NAME |
       tracepoint CATEGORY:NAME | raw_tp NAME | trace | freplace PROG FUNCTION | {{ uprobe | uretprobe }} PATH:FUNCTION [pid PID] |
       uprobe.multi PATH:PATTERN | usdt PATH:PROVIDER:NAME [pid PID] | perf_event EVENT {{ period | frequency }} N [pid PID] |
       xdp IF [generic | driver | offload] | {{ tcx_ingress | tcx_egress | tc_ingress | tc_egress }} IF |
       netkit IF {{ primary | peer }} | netfilter {{ ip | ip6 }} HOOK [priority N] | cgroup PATH ATTACH_TYPE |
       sk_lookup [NETNS] }}
""",
}


def grammar(command: str, noun: str = "", typed: str = "") -> str:
    """The grammar of a noun ("": of the whole command), for a command that was called `command`, the noun typed as `typed`."""
    text = _TEXTS[noun] + (_MORE.get(noun, "") if command != "bpftool" else "")
    return text.format(command, typed or noun)
