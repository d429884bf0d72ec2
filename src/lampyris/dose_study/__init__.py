"""One source at many doses, by many recipes, with many seeds → figures with their uncertainty, tables and one page."""

from lampyris.dose_study.engine import Results, run
from lampyris.dose_study.equal import equal_doses
from lampyris.dose_study.page import write_page
from lampyris.dose_study.plan import Original, Study
from lampyris.dose_study.tables import summarise, write_tables

__all__ = ["Original", "Results", "Study", "equal_doses", "run", "summarise", "write_page", "write_tables"]
