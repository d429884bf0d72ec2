"""OHIF's published build and our configuration of it → the reading viewer under /viewer, against our own DICOMweb."""

from lampyris.centre.viewer.prepare import Release, prepare, release_of

__all__ = ["Release", "prepare", "release_of"]
