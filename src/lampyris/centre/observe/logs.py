"""Events with fields → lines of JSON on stderr; ids and numbers, never a name, a body or a variable of the program."""

import sys
import traceback
from collections.abc import Callable

import structlog

from lampyris.model import LampyrisError


def to_stderr() -> None:
    """Let every event of this process be one line of JSON, with its time in UTC."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def ended(program: Callable[[], None]) -> int:
    """Run a program of the centre, its log on stderr: the exit code that says who can put right what ended it."""
    to_stderr()
    try:
        program()
    except LampyrisError as error:
        structlog.get_logger().error("the program ends", code=error.code, reason=str(error), retry=error.retry)
        return error.exit_code
    return 0


def where(error: BaseException) -> list[str]:
    """The way to an error, innermost last: file, line, function; messages and variables may hold anything."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
