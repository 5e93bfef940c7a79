"""bpftool's transcripts made comparable: what differs from one run to the next is taken out of a text."""

import json
import re
from collections.abc import Set

_BYTE = "[0-9a-f]{2}"
_VOLATILE = (
    # Objects' ids, wherever they are said.
    (r'("(?:id|btf_id|prog_id|link_id|inner_map_id)":\s*)\d+', r"\1N"),
    (r"^(\d{1,7}): ", "N: "),
    (r"\b(btf_id|inner_map_id:|prog_id|link_id|prog|id) \d+", r"\1 N"),
    (r"map\[id:\d+\]", "map[id:N]"),
    (r"btf: type \[\d+\]", "btf: type [N]"),
    (r"by id \(\d+\)", "by id (N)"),
    # The path of the source is in an object's types.
    (r"(\.BTF, size) \d+", r"\1 N"),
    # Times, sizes of memory and of machine code.
    (r'("(?:bytes_memlock|bytes_jited|loaded_at|ifindex|netns_ino|duration)":\s*)\d+', r"\1N"),
    (r"(memlock|jited) \d+B", r"\1 NB"),
    (r"loaded_at \S+", "loaded_at T"),
    (r"netns_ino \d+", "netns_ino N"),
    (r"(\b(?:v[01]|lo|eth0))\(\d+\)", r"\1(N)"),
    (r"duration( \(average\))?: \d+ns", r"duration\1: Nns"),
    (r"(?:\w+|<\.\.\.>)-\d+ +\[\d+\] \S+ +[\d.]+: bpf_trace_printk: Hello World \d+", "LINE"),
    (rf"({_BYTE}:){{5}}{_BYTE}", "MAC"),
    # Where the kernel's own things lie: in helpers' calls, in logs, in machine code.
    (r"(call \w+)#-?\d+", r"\1#N"),
    (r"0xffff[0-9a-f]{12}", "0xPTR"),
    (r"\$-\d{12,}", "$PTR"),
    (rf"\b(48 b[0-9a-f]|e8|e9)( {_BYTE}){{4,8}} ?$", r"\1 PTR"),
    (r'("0x48","0xb.",|"0xe[89]",)("0x..",?){4,8}', r"\1PTR"),
    (rf"\b(18 [12][0-9a-f] 00 00|85 00 00 00)( {_BYTE}){{4}}", r"\1 N"),
    (r'("code":\s*"0x(?:18|85)",(?:\s*"\w+":[^:]*?){3}"imm":\s*\[)"0x..","0x..","0x..","0x.."', r"\1N"),
    (r"\(18\) (r\d) = 0x\w+ +; (?=R\d=map_)", r"(18) \1 = 0xPTR ; "),
    (r"\bfd=\d+", "fd=N"),
    (r"verification time \d+ usec", "verification time N usec"),
    # An image in a file.
    (r"^[0-9a-f]{8}: (?:[0-9a-f]{4} |[0-9a-f]{2} )+ .*$", "XXD"),
)
_COMPILED = tuple((re.compile(pattern, re.MULTILINE), to) for pattern, to in _VOLATILE)
# Lists of ids keep their length.
_LISTS = re.compile(r'(map_ids |prog_ids |"map_ids":\s*\[|"prog_ids":\s*\[)([\d,]+)')
# The id of a map or program, as the bytes of a value.
_ID_BYTES = re.compile(rf"(?:{_BYTE} ){{4}}|{_BYTE} {_BYTE} {_BYTE} 00(?=\n)")
_ID_LIST = re.compile(r'"value":\s*\["0x..","0x..","0x..","0x00"\s*\]')


def without(text: str, ids: Set[int]) -> str:
    """A text without the entries of objects with these ids, in lists as they are printed plainly and as JSON."""
    text = re.sub(r"^(\d+): .*\n(?:\t.*\n)*", lambda found: "" if int(found[1]) in ids else found[0], text, flags=re.MULTILINE)
    for start in reversed([found.end() for found in re.finditer(r"^\[(?=\{)", text, re.MULTILINE)]):
        spans, at = [], start
        while at < len(text) and text[at] == "{":
            try:
                row, end = json.JSONDecoder().raw_decode(text, at)
            except ValueError:
                break
            spans.append((at, end, row.get("id") in ids))
            at = end + len(re.match(r",?\s*", text[end:])[0])  # type: ignore[index]
        if any(gone for _, _, gone in spans):
            between = text[spans[0][1] : spans[1][0]] if len(spans) > 1 else ""
            text = text[:start] + between.join(text[first:last] for first, last, gone in spans if not gone) + text[spans[-1][1] :]
    return text


def normal(text: str, command: str) -> str:
    """A text without what differs each time: ids, addresses, times, and the order of a hash's elements."""
    for pattern, to in _COMPILED:
        text = pattern.sub(to, text)
    text = _LISTS.sub(lambda found: found[1] + re.sub(r"\d+", "N", found[2]), text)
    if re.search(r"name (mprogs|maom)", command):
        text = _ID_LIST.sub('"value": [ID]', _ID_BYTES.sub("ID", text))
    if re.search(r"btf (list|show)", command):
        # The size of types includes the path of the source, and each build of a kernel has its own; other objects of the
        # machine are none of this.
        text = re.sub(r'(size |"size":\s*)\d+', r"\1N", text)
        text = re.sub(r'\{"id":N,"size":N,"prog_ids":\[\],"map_ids":\[[N,]*\],"kernel":false\},', "", text)
        text = re.sub(r'\{\s*"id": N,\s*"size": N,\s*"prog_ids": \[\],\s*"map_ids": \[[N,]*\s*\],\s*"kernel": false\s*\},', "", text)
    if "wc -l" in command:
        # How many types there are is the kernel's own affair.
        text = re.sub(r"^\d{5,}$", "N", text, flags=re.MULTILINE)
    if "getnext pinned /sys/fs/bpf/hash" in command:
        # Which key follows which depends on the hash's random seed.
        text = re.sub(r"(next key:\n|\"next_key\": \[)[^\n]*", r"\1KEY", text)
    if "tracelog" in command:
        text = re.sub(r'( *LINE\n|"? *LINE\\n",?)+', "LINES", text)
    if re.search(r"dump (pinned /sys/fs/bpf/hash|name mhash|name mphash)", command):
        if text.startswith("["):
            return json.dumps(sorted(json.loads(text), key=json.dumps))
        return "\n".join(sorted(text.splitlines()))
    return text
