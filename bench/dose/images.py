"""Scene, method, dose and seed → the image, made once and kept under build/dose: an interrupted study goes on.

An image's file bears the digests of its raw scan and of its recipe, so that another recipe never finds it.
"""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from bench.dose.scenes import Scene, quiet_scan, scene
from lampyris import path, raw, simulate
from lampyris.model import Grid, RawScan, Recipe, Step, Volume
from lampyris.model.arrays import new_digest, update_digest

STORE = Path("build/dose")
TV = Step.of("pwls", prior="tv", strength=100.0, edge=0.066)
"""Pulls at an edge as hard as the prior of `model`, 100 · 0.066 = 20 · 0.33, and is straight from a fifth of it on."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """An image in HU with its grid."""

    volume: Volume


def recipe_of(name: str, place: Scene) -> Recipe:
    """A recipe for a scene's slices; "tv" is total variation with the data term and solver of `model`."""
    chosen = path.recipe("model" if name == "tv" else name)
    if name == "tv":
        chosen = dataclasses.replace(chosen, name="tv", method=TV)
    return dataclasses.replace(chosen, grid=place.grid())


def image(name: str, method: str, dose: float, seed: int) -> Image:
    """The image of one realisation; dose inf stands for the scan without noise."""
    recipe = recipe_of(method, scene(name))
    file = STORE / name / f"{method}-{dose:g}-{seed}-{recipe.digest()[:12]}-{quiet(name).id[:12]}.npz"
    if not file.is_file():
        scan = realisation(name, dose, seed)
        made = path.travel((scan, recipe), Volume).the(Volume)
        place = {"spacing": made.grid.spacing_mm, "first": made.grid.first_voxel_mm, "axes": made.grid.axes}
        _keep(file, values=made.values, **place)
    with np.load(file) as kept:
        values = kept["values"]
        grid = Grid(values.shape, tuple(kept["spacing"]), kept["first"], kept["axes"])
        return Image(Volume(values, grid, "HU"))


@lru_cache(maxsize=2)
def realisation(name: str, dose: float, seed: int) -> RawScan:
    """The raw scan at a dose; all methods meet the same."""
    if np.isinf(dose):
        return quiet(name)
    stream = np.random.SeedSequence([seed, round(1e6 * dose)])
    return simulate.realise(quiet(name), dose, np.random.default_rng(stream))


@lru_cache(maxsize=1)
def quiet(name: str) -> RawScan:
    """The scan without noise, kept as a container."""
    place = scene(name)
    key = new_digest()
    key.update(repr((place.machine, place.protocol(noise=False), place.y_mm)).encode())
    if isinstance(place.subject, Volume):
        update_digest(key, "subject", place.subject.values)
    else:
        key.update(repr(place.subject.parts).encode())
    file = STORE / name / f"quiet-{key.hexdigest()[:12]}.lraw"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        raw.write(quiet_scan(place), file)
    return raw.read(file)


def _keep(file: Path, **arrays: object) -> None:
    """Write an .npz that is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.rename(file)
