"""Command line → journeys and centres: `lampyris journey | simulate | recon | … | serve | work | up`."""

from lampyris.cli.main import main

__all__ = ["main"]
