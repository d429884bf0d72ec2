"""Command line → journeys: `lampyris journey | simulate | recon | assess | raw | doctor`."""

from lampyris.cli.main import main

__all__ = ["main"]
