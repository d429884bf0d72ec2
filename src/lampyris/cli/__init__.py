"""Command line → journeys: `lampyris journey | simulate | dose-study | recon | assess | raw | doctor`."""

from lampyris.cli.main import main

__all__ = ["main"]
