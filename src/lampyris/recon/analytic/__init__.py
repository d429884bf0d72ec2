"""Projections, kernel and grid request → the image in 1/mm and its grid: FBP, FDK and weighted helical FBP."""
