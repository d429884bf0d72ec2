"""Dose reports → an index of what scans gave, reference levels to compare groups with, and figures of both."""
