"""Presets and protocols: what a scanner is, where its views lie, what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lampyris.model import FormatError, InputError
from lampyris.simulate import Protocol, scanner, scanner_names
from lampyris.simulate.exposure import relative_current
from lampyris.simulate.protocol import acquisition, plan
from lampyris.simulate.scanners import from_json


def test_the_presets_are_there_and_others_are_refused_with_the_list():
    assert scanner_names() == ("cbct", "mdct16", "mdct64", "small")
    with pytest.raises(InputError, match="'mdct640' is not known; known are cbct, mdct16, mdct64, small"):
        scanner("mdct640")


def test_the_64_row_scanner_has_its_published_dimensions():
    gantry = scanner().gantry
    assert (gantry.rows, gantry.columns, scanner().views_per_turn) == (64, 736, 1152)
    assert gantry.row_at_isocentre_mm == pytest.approx(0.6, abs=5e-5)
    assert gantry.collimation_mm == pytest.approx(38.4, abs=3e-3)
    assert gantry.central_column == 367.75  # the middle 367.5 and a quarter


@pytest.mark.parametrize("name", scanner_names())
def test_every_preset_sees_its_scan_field(name):
    machine = scanner(name)
    half = machine.columns / 2 - abs(machine.quarter_offset_columns)
    angle = half * machine.cell_mm[1] / machine.source_to_detector_mm
    reach = machine.source_to_isocentre_mm * (np.sin(angle) if machine.curved else np.sin(np.arctan(angle)))
    assert reach > machine.scan_field_mm / 2


def test_a_preset_with_a_wrong_entry_is_refused():
    text = json.loads('{"name": "x", "colour": "red"}')
    with pytest.raises(FormatError, match="unknown entries \\['colour'\\]"):
        from_json(json.dumps(text))
    with pytest.raises(FormatError, match="cannot be read"):
        from_json('{"name": "x"}')
    with pytest.raises(InputError, match="at least eight times the noise"):
        replace(scanner("small"), dark_counts=5.0)
    with pytest.raises(InputError, match="lie outside the 6 × 126 detector"):
        replace(scanner("small"), bad_cells=((6, 3),))


@pytest.mark.parametrize("pitch", [0.9, -1.3])
def test_a_helix_begins_and_ends_where_its_rays_no_longer_see_the_range(pitch):
    """At the far rim of the scan field the beam is (1 + r/SID) as tall as at the isocentre."""
    machine = scanner("small")
    planned = plan(machine, Protocol(pitch=pitch, first_mm=-31.0, last_mm=44.0), (-500.0, 500.0))
    y = planned.geometry.source[:, 1]
    half = machine.gantry.collimation_mm / 2 * (1 + 140.0 / 541.0)
    assert y.min() < -31 - half
    assert y.max() > 44 + half
    assert y.max() - y.min() < 75 + 2 * half + 0.21 * abs(pitch) * machine.gantry.collimation_mm + 1
    assert np.sign(y[-1] - y[0]) == np.sign(pitch)
    assert y[174] - y[0] == pytest.approx(pitch * machine.gantry.collimation_mm)


def test_the_whole_subject_is_scanned_unless_a_range_is_given():
    machine = scanner("small")
    whole = plan(machine, Protocol(), (-70.0, 20.0)).geometry.source[:, 1]
    part = plan(machine, Protocol(last_mm=-30.0), (-70.0, 20.0)).geometry.source[:, 1]
    assert whole[0] == part[0] < -70
    assert -30 < part[-1] < 0 < 20 < whole[-1]


def test_an_axial_turn_lies_in_the_middle_of_its_range():
    machine = scanner("small")
    geometry = plan(machine, Protocol(kind="axial", start_angle_deg=30.0), (-12.0, 40.0)).geometry
    assert geometry.views == 174
    assert set(geometry.source[:, 1]) == {14.0}
    np.testing.assert_allclose(geometry.source[0], [541 * 0.5, 14.0, 541 * np.sqrt(0.75)])
    assert plan(machine, Protocol(kind="axial", arc_deg=240.0), (0.0, 1.0)).geometry.views == 116


def test_flying_spots_interleave_their_rays_at_the_isocentre():
    """The rays of two spots to the same cell pass the isocentre half a cell apart."""
    machine = scanner("mdct16")
    for mode, axis, cell in (("z", 1, machine.cell_mm[0]), ("inplane", 0, machine.cell_mm[1])):
        geometry = plan(machine, Protocol(kind="axial", flying_focal_spot=mode), (0.0, 0.0)).geometry
        at = []
        for view in (0, 1):
            turn = -2 * np.pi * view / machine.views_per_turn  # back into the first view's frame
            back = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
            source, cell_at = back @ geometry.source[view], back @ geometry.cells_mm(view)[8, 336]
            place = source + (cell_at - source) * (570.0 / 1040.0)
            at.append(place[axis])
        assert at[0] - at[1] == pytest.approx(-cell * 570 / 1040 / 2, rel=2e-3), mode
    assert plan(machine, Protocol(kind="axial", flying_focal_spot="both"), (0.0, 0.0)).spots == 4


def test_modulation_keeps_the_mean_and_follows_the_patient():
    """An ellipse: depth 6 + 1.2·cos 2φ over three turns, and thicker along z."""
    at = np.arange(0.0, 522.0, 5.0)
    angle = 2 * np.pi * at / 174
    along = at / 522
    depth = 6 + 1.2 * np.cos(2 * angle) + 1.0 * along
    for mode in ("none", "angular", "z", "both"):
        current = relative_current(depth, at, 522, 174, mode)
        assert current.mean() == pytest.approx(1.0, abs=1e-12)
    angular, z = (relative_current(depth, at, 522, 174, mode) for mode in ("angular", "z"))
    peak, valley = 174 + 87, 174 + 87 + 43.5  # φ = 180° and 270° of the middle turn
    ratio = np.interp(peak, np.arange(522), angular) / np.interp(valley, np.arange(522), angular)
    assert ratio == pytest.approx(np.exp(0.5 * 2.4), rel=0.01)
    assert z[400] / z[130] == pytest.approx(np.exp(0.5 * 270 / 522), rel=0.03)
    steep = relative_current(4 * depth, at, 522, 174, "both")
    assert steep.max() / steep.min() == pytest.approx(2.0 / 0.3)  # what the tube can follow


def test_facts_for_dicom_follow_the_protocol():
    machine, protocol = scanner("mdct64"), Protocol(pitch=0.8, mas=160.0, tube_voltage_kv=100.0)
    facts = acquisition(machine, protocol, plan(machine, protocol, (0.0, 100.0)), 0.25)
    assert facts.CTDIvol == pytest.approx(4.2 * 1.6 / 0.8 * 0.25)
    assert facts.TableFeedPerRotation == pytest.approx(0.8 * 38.4, abs=3e-3)
    assert (facts.KVP, facts.SpiralPitchFactor, facts.dose_fraction) == (100.0, 0.8, 0.25)
    head = Protocol(kind="axial", bowtie="small", mas=100.0, arc_deg=180.0)
    facts = acquisition(machine, head, plan(machine, head, (0.0, 1.0)), 1.0)
    assert (facts.CTDIvol, facts.CTDIPhantomDiameter) == (pytest.approx(14.2 / 2), 160.0)
    assert facts.SpiralPitchFactor is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "spiral"}, "kind 'spiral': known are helical, axial"),
        ({"modulation": "care"}, "modulation 'care'"),
        ({"flying_focal_spot": "xyz"}, "flying_focal_spot 'xyz'"),
        ({"mas": 0.0}, "expected mAs > 0"),
        ({"pitch": 3.0}, "pitch 3.0"),
        ({"rays_per_cell": 0}, "0 rays per cell"),
        ({"arc_deg": 0.0}, "arc of 0.0°"),
        ({"first_mm": 10.0, "last_mm": 2.0}, "runs backwards"),
    ],
)
def test_an_impossible_protocol_is_refused(wrong, says):
    with pytest.raises(InputError, match=says):
        Protocol(**wrong)


def test_what_the_scanner_cannot_do_is_refused():
    machine = scanner("small")
    with pytest.raises(InputError, match=r"does not turn in 0.33 s"):
        plan(machine, Protocol(rotation_time_s=0.33), (0.0, 10.0))
    with pytest.raises(InputError, match=r"an axial turn covers 10.6 mm, the range 40.0 mm"):
        plan(machine, Protocol(kind="axial", first_mm=0.0, last_mm=40.0), (0.0, 10.0))
