"""Quanta beside the integrals: what they expect is what was counted, whatever was corrected after the logarithm."""

import dataclasses

import numpy as np
import pytest
from scipy.interpolate import make_interp_spline

from lampyris.correct import correct
from lampyris.model import Applied, InputError, Noise, Quanta, RecipeError, Step
from lampyris.physics.attenuation import linear_attenuation_per_mm
from lampyris.physics.detector import detected_weights, water_attenuation_per_mm
from lampyris.physics.tube import tube_spectrum

KEEP = (Step("dark_air"), Step.of("log", keep_quanta=True))


def shown(quanta, integrals):
    """−ln of transmission that the quanta expect at these integrals, by SciPy's own interpolation."""
    corrected = integrals - (0 if quanta.offset is None else quanta.offset)
    if quanta.hardening is None:
        return corrected
    nodes = np.arange(quanta.hardening.shape[1]) / quanta.nodes_per_unit
    curves = [make_interp_spline(nodes, table, k=1) for table in quanta.hardening]
    return np.stack([curve(corrected[..., c]) for c, curve in enumerate(curves)], -1)


def test_counts_and_open_beam_are_in_quanta(known):
    """Gain 7: quanta are counts over 7, electronics (21/7)² = 9; exposure and uneven air are in the open beam."""
    scene = known()
    made = correct(scene.scan(noise=Noise(7.0, 21.0)), KEEP)
    quanta = made.quanta
    assert quanta.shape == made.geometry.shape
    assert quanta.electronic == pytest.approx(9.0)
    assert quanta.measured == pytest.approx(scene.means / 7, rel=1e-4)
    assert quanta.open_beam(slice(3, 11)) == pytest.approx(scene.beam[3:11] / 7, rel=1e-4)
    assert quanta.open_beam([7, 2]) == pytest.approx(scene.beam[[7, 2]] / 7, rel=1e-4)


def test_only_those_who_ask_keep_quanta(known):
    scan = known().scan()
    assert correct(scan, (Step("dark_air"), Step("log"))).quanta is None
    assert correct(scan, (Step("dark_air"), Step("log"), Step("restore"))).quanta is None
    assert correct(scan, KEEP).history[1].as_dict()["keep_quanta"] is True


def test_every_focal_spot_keeps_its_own_air(known):
    scene = known()
    air = np.stack([scene.open_counts, 1.3 * scene.open_counts])
    made = correct(scene.scan(air=(air + scene.dark).astype(np.float32)), KEEP)
    lit = scene.beam * np.where(np.arange(41) % 2, 1.3, 1.0)[:, None, None]
    assert made.quanta.open_beam(slice(None)) == pytest.approx(lit, rel=1e-4)
    some = made.quanta.of_views([4, 9, 2])
    assert some.open_beam(slice(None)) == pytest.approx(lit[[4, 9, 2]], rel=1e-4)
    assert (some.measured == made.quanta.measured[[4, 9, 2]]).all()


def test_bad_cells_and_blind_cells_have_no_beam(known):
    scene = known()
    air = (scene.open_counts + scene.dark)[None].astype(np.float32)
    air[0, 3, 17] = scene.dark[3, 17]
    marked = np.zeros((5, 233), bool)
    marked[1, 40] = True
    made = correct(scene.scan(air=air, bad_cells=marked), (Step("dark_air"), Step("bad_cells"), KEEP[1]))
    beam = made.quanta.open_beam(slice(None))
    assert (beam[:, [3, 1], [17, 40]] == 0).all()
    assert (beam == 0).sum() == 2 * 41


def test_scatter_is_out_of_the_counts(known):
    made = correct(known().scan(), (Step("dark_air"), Step("scatter"), KEEP[1]))
    beam = made.quanta.open_beam(slice(None))
    t = made.quanta.measured / beam
    assert -np.log(t) == pytest.approx(made.integrals, abs=1e-3)


def test_water_hardening_is_turned_round(known):
    """Through L mm of water the beam shows −ln Σ w·e^(−µL)/Σ w; the table says so of µ_ref·L, to the 1e-5 of linear
    interpolation between nodes, in every column behind its own bowtie."""
    scene = known(views=6)
    spectrum = tube_spectrum(120.0)
    made = correct(scene.scan(spectrum=spectrum), (*KEEP, Step("water_beam_hardening")))
    mu = linear_attenuation_per_mm("water", spectrum.energy_kev)
    weights = detected_weights(spectrum, np.zeros(1))[0]
    depth = np.array([3.7, 51.3, 233.1, 411.9, 702.0])
    truth = -np.log((weights / weights.sum()) @ np.exp(-mu[:, None] * depth))
    asked = np.broadcast_to((water_attenuation_per_mm(spectrum) * depth)[:, None, None], (5, 1, 233))
    bare = dataclasses.replace(made.quanta, measured=made.quanta.measured[:5, :1], air=made.quanta.air[:, :1],
                               exposure=np.ones(5), spot=np.zeros(5, int))  # fmt: skip
    assert shown(bare, asked) == pytest.approx(np.broadcast_to(truth[:, None, None], (5, 1, 233)), abs=3e-5)


@pytest.mark.parametrize("ring", [(), (Step.of("ring", sigmas=0.5),)])
def test_what_quanta_expect_at_the_integrals_is_what_was_counted(known, rng, ring):
    """Log, water table and ring, then a correction made later: everywhere open·exp(−P(q − offset)) is the count, up to
    the log's bias term 0.5/quanta and float32 at an integral of 8."""
    scene = known(open_counts=4e8)
    gains = 1 + 0.004 * rng.standard_normal((1, 5, 233))
    scan = scene.scan(scene.means * gains, spectrum=tube_spectrum(120.0))
    made = correct(scan, (*KEEP, Step("water_beam_hardening"), *ring))
    assert (made.quanta.offset is not None) == bool(ring)
    later = made.with_correction(made.integrals + 0.03 * np.sin(made.integrals), Applied.of("bone_beam_hardening"))
    for one in (made, later):
        counted = -np.log(one.quanta.measured / one.quanta.open_beam(slice(None)))
        quanta = np.maximum(one.quanta.measured, 1)
        assert np.abs(shown(one.quanta, one.integrals) - counted).max() < 2e-5 + (1 / quanta).max()
    if ring:
        assert np.abs(made.quanta.offset).max() > 0.005


def test_a_step_that_knows_better_hands_on_its_own_quanta(known):
    made = correct(known().scan(), KEEP)
    assert made.with_correction(made.integrals, Applied.of("x"), quanta=None).quanta is None


def test_a_wrong_setting_is_refused(known):
    with pytest.raises(RecipeError, match="keep_quanta is 'yes', expected true or false"):
        correct(known().scan(), (Step("dark_air"), Step.of("log", keep_quanta="yes")))


def quanta(**changes):
    facts = {
        "measured": np.ones((4, 2, 3), np.float32), "air": np.ones((1, 2, 3)), "exposure": np.ones(4),
        "spot": np.zeros(4, int), "electronic": 2.0,
    }  # fmt: skip
    return Quanta(**(facts | changes))


def test_impossible_quanta_are_refused(known):
    bad = np.ones((4, 2, 3), np.float32)
    bad[2, 1, 0], bad[3, 0, 0] = np.nan, np.inf
    table = np.tile(np.arange(5.0), (3, 1))
    for found, match in (
        ({"measured": np.ones((4, 2, 3))}, "float64"),
        ({"measured": bad}, r"2 NaN or infinite, first at view, row, column \(2, 1, 0\)"),
        ({"air": np.ones((1, 3, 2))}, r"air quanta has shape \(1, 3, 2\)"),
        ({"air": -np.ones((1, 2, 3))}, "air quanta from -1"),
        ({"exposure": np.zeros(4)}, "exposure from 0"),
        ({"electronic": -1.0}, "electronic variance -1"),
        ({"electronic": np.nan}, "electronic variance nan"),
        ({"spot": np.array([0, 1, 0, 1])}, "spots 0 … 1, but there are 1 air maps"),
        ({"hardening": table[:, :2]}, "2 nodes"),
        ({"hardening": table[:2]}, "hardening table has shape"),
        ({"hardening": -table}, "must climb and bend downwards"),
        ({"hardening": table**1.3}, "must climb and bend downwards"),
        ({"hardening": table, "nodes_per_unit": 0.0}, "0.0 nodes per unit"),
        ({"offset": np.ones((4, 2, 2), np.float32)}, "offset is float32"),
    ):
        with pytest.raises(InputError, match=match):
            quanta(**found)
    made = correct(known().scan(), KEEP)
    with pytest.raises(InputError, match=r"quanta are .* other views"):
        dataclasses.replace(made, quanta=made.quanta.of_views(slice(1, None)))
