"""HTTP requests of sites and operators → the centre: the protocol of `docs/protocol.md`, health and metrics."""

from lampyris.centre.api.app import application, create

__all__ = ["application", "create"]
