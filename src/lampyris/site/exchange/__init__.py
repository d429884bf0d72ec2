"""The site's half of the transfer protocol: enrolment, requests, sending, listening and fetching."""

from lampyris.site.exchange.enrolment import Site, enrol
from lampyris.site.exchange.events import Events
from lampyris.site.exchange.link import Backoff, Bucket, Link, LinkError, Preempted, Refusal, client
from lampyris.site.exchange.returns import Returns
from lampyris.site.exchange.upload import Upload

__all__ = [
    "Backoff", "Bucket", "Events", "Link", "LinkError", "Preempted", "Refusal", "Returns", "Site", "Upload", "client",
    "enrol",
]  # fmt: skip
