"""What would a fifth have looked like? One scan, its dose lowered by noise insertion, both reconstructed and judged."""

import numpy as np

from lampyris import path, phantom, simulate
from lampyris.model import Assessment

body = phantom.water_cylinder(160.0, 40.0)
full = simulate.scan(body, simulate.scanner("mdct16"), simulate.Protocol("axial", mas=200.0), seed=1)
fifth = simulate.lower_dose(full, 0.2, np.random.default_rng(2))

noise = {}
for scan in (full, fifth):
    given = (scan, path.recipe("routine"), path.Reference(inserts=body.inserts))
    assessment = path.travel(given, Assessment).the(Assessment)
    noise[scan.acquisition.dose_fraction] = assessment.figure("noise").value

ratio = noise[0.2] / noise[1.0]
print(f"noise {noise[1.0]:.1f} HU at full dose, {noise[0.2]:.1f} HU at a fifth: × {ratio:.2f}, √5 = 2.24")
