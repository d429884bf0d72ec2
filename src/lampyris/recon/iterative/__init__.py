"""Projections and a first image → the image that explains the counts best: fidelity, priors, certainty, solver, run."""
