"""Events with fields → lines of JSON on stderr; ids and numbers, never a name, a body or a variable of the program."""

import sys
import traceback

import structlog


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


def where(error: BaseException) -> list[str]:
    """The way to an error, innermost last: file, line, function; messages and variables may hold anything."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
