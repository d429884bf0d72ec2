"""Lampyris: the open cloud-CT centre. Raw counts in, a calibrated and judged CT series out."""
