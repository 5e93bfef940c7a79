"""`ebpf explain E0006`: what a kind of refusal means, with code that is refused and code that is accepted."""

from ebpf.cli.context import Context
from ebpf.cli.jsonw import dumps
from ebpf.debug import PAGES, Page, page_of
from ebpf.errors import NotFoundError, UsageError, near

USAGE = """usage: ebpf explain [ID|NAME]

Print the page of a kind of refusal, as `ebpf verify` names it (E0006 or maybe-null); without one, list them."""


def run(context: Context, argv: list[str]) -> int:
    """Print one page or the list of them."""
    words = [word for word in argv if word not in ("-j", "--json")]
    as_json = context.json or len(words) != len(argv)
    if words and words[0] in ("help", "-h", "--help"):
        print(USAGE)
        return 0
    if len(words) > 1:
        raise UsageError(f"explain: unexpected '{words[1]}'; ebpf explain help")
    from ebpf.engine.verifier import REASONS

    if not words:
        rows = sorted(PAGES.values(), key=lambda page: page.id)
        if as_json:
            context.write(
                dumps([{"id": page.id, "name": page.name, "title": REASONS[page.name].title} for page in rows], pretty=context.pretty)
            )
        else:
            for page in rows:
                context.write(f"{page.id} {page.name:<22} {REASONS[page.name].title}")
        return 0
    found = page_of(words[0])
    if found is None:
        raise NotFoundError("refusal", words[0], near=near(words[0], [row.name for row in PAGES.values()], count=3))
    _write(context, found, as_json=as_json)
    return 0


def _write(context: Context, page: Page, *, as_json: bool) -> None:
    """Print one page."""
    from ebpf.engine.verifier import REASONS

    if as_json:
        reason = REASONS[page.name]
        context.write(
            dumps(
                {
                    "id": page.id,
                    "name": page.name,
                    "title": reason.title,
                    "meaning": page.meaning,
                    "refused": page.bad,
                    "accepted": page.good,
                    "versions": page.since,
                },
                pretty=context.pretty,
            )
        )
    else:
        context.write(page.text().rstrip())
