"""What the centre will not do → a refusal with status, stable code and, where patience helps, the seconds to wait."""

from lampyris.transfer import Problem, limits


class Refusal(Exception):  # noqa: N818 - an answer to a site, not an error of the program
    """Ends a request with a problem; `retry_after` seconds become a header."""

    def __init__(self, problem: Problem, retry_after: int | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.retry_after = retry_after


def refusal(status: int, code: str, detail: str, *, retry: bool = False) -> Refusal:
    return Refusal(Problem(status, code, detail, retry))


def not_found() -> Refusal:
    """The same for what never was and for what belongs to another site."""
    return refusal(404, "NOT_FOUND", "there is no such thing of this site")


def conflict(detail: str) -> Refusal:
    return refusal(409, "CONFLICT", detail)


def unauthorised(code: str, detail: str) -> Refusal:
    return refusal(401, code, detail)


def wait(status: int, seconds: int, detail: str) -> Refusal:
    """429: this site has enough under way; 503: the centre has."""
    return Refusal(Problem(status, "WAIT", detail, True), seconds)


def missing(digests: list[str]) -> Refusal:
    named = tuple(digests[: limits.MISSING])
    detail = f"{len(digests)} chunks are missing: put them and commit again"
    return Refusal(Problem(409, "CHUNKS_MISSING", detail, True, named))
