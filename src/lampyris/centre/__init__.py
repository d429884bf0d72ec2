"""What sites send → judged series: ingest, queue, workers and the HTTP interface of a centre."""

from lampyris.centre.service import Centre, opened
from lampyris.centre.settings import Settings

__all__ = ["Centre", "Settings", "opened"]
