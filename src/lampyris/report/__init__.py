"""Journeys → one page that a person reads: pictures, figures, plots, dose, times and the verdict."""

from lampyris.report.page import Column, write_page

__all__ = ["Column", "write_page"]
