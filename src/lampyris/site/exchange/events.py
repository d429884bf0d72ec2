"""The centre's stream of events → states of this site's scans as they change (section 8 of the protocol)."""

from collections.abc import Iterator

from lampyris.site.exchange.link import Link
from lampyris.transfer import ScanStatus


class Events:
    """What the centre tells of this site's scans. A site that only polls misses nothing; this is for who watches."""

    def __init__(self, link: Link) -> None:
        self._link, self._last = link, ""

    def heard(self) -> Iterator[ScanStatus]:
        """Changes as they come, from the last one that was heard on, until the centre ends the stream with its token.

        Raises LinkError, or Refusal, when the line breaks: ask again.
        """
        for line in self._link.lines("/events", {"Last-Event-ID": self._last} if self._last else {}):
            name, _, value = line.partition(": ")
            if name == "id":
                self._last = value
            elif name == "data":
                data = value.encode()
                yield self._link.understood(lambda data=data: ScanStatus.parse(data))  # type: ignore[misc]
