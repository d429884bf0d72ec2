"""Recipes of the centre: which there are, which are active, and which of them a scan gets."""
