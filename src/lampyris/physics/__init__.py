"""Materials, tubes and detectors → attenuation, spectra and noise: tables and closed formulas, no data of a scan."""
