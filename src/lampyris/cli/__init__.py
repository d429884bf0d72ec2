"""Command line → journeys, centres and sites: `lampyris journey | simulate | recon | … | serve | work | up | site`."""

from lampyris.cli.main import main

__all__ = ["main"]
