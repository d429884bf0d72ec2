"""Requests of DICOMweb (PS3.18: QIDO-RS, WADO-RS, STOW-RS) → answers from the index and the store."""

from lampyris.centre.archive.dicomweb import capabilities, frames, removing, rendered, retrieve, search, storing

_SERVICES = tuple(each.router for each in (search, retrieve, frames, rendered, storing, removing))
ROUTERS = (capabilities.router_of(_SERVICES), *_SERVICES)
"""Everything under /dicomweb."""
