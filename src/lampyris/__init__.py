"""Lampyris: the open cloud-CT centre. Raw counts in, a calibrated and judged CT series out."""

from importlib.metadata import version

__version__ = version("lampyris")
