"""What a browser says when it asks for a page."""

PAGE = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
SCANS = """
    INSERT INTO scan (site, id, priority, skeleton, state, signed, opened, committed, finished, reason_code, reason,
                      verdict)
    SELECT %(site)s, lpad(to_hex(n), 8, '0') || repeat('e', 24), %(priority)s,
           json_build_object('recipe', %(recipe)s::text)::text, %(state)s, 'signed', now() - n * interval '1 min',
           now() - n * interval '1 min', CASE WHEN %(state)s IN ('done', 'refused', 'failed') THEN now() END,
           CASE WHEN %(state)s IN ('refused', 'failed') THEN %(code)s END, %(reason)s,
           CASE WHEN %(state)s = 'done' THEN 'pass' END
    FROM generate_series(%(first)s::int, %(first)s::int + %(count)s::int - 1) n
"""
"""Scans as the database holds them, without what a site and a worker would have done for them."""


def scans_of(
    rows, site: str, count: int = 1, *, first: int = 0, state: str = "queued", **more: str | None
) -> list[str]:
    """Put scans of a site there; their ids. `more`: priority, recipe, code and reason."""
    told = {"priority": "routine", "recipe": None, "code": "MACHINE", "reason": None} | more
    rows(SCANS, site=site, count=count, first=first, state=state, **told)
    return [f"{n:08x}" + "e" * 24 for n in range(first, first + count)]
