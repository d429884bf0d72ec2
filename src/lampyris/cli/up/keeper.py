"""Numbers of process groups on stdin → when `lampyris up` is gone without a word, they end, and so does the database.

A program of its own, which the system runs with nothing but the standard library until it is needed. `up` holds the
other end of the pipe and nobody else does for longer than a moment, so the end of the file is the end of `up`, however
it came: SIGKILL, memory, a crash. A line is a group's number when it began, its negative when it ended, "done" when
all of it ended in order.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterable


def listen(lines: Iterable[str]) -> set[int] | None:
    """The groups that `up` has left behind; None when it ended in order."""
    groups: set[int] = set()
    for line in lines:
        if line.strip() == "done":
            return None
        number = int(line)
        if number > 0:
            groups.add(number)
        else:
            groups.discard(-number)
    return groups


def main() -> None:
    """Wait for the end of `up`, and clean up after it: scans lose nothing by it, whatever they were at."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    left = listen(sys.stdin)
    if left is None:
        return
    for group in left:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    from lampyris.centre import Settings, database
    from lampyris.centre.settings import VARIABLE

    database.stop(Settings.from_json(os.environ[VARIABLE]))


if __name__ == "__main__":
    main()
