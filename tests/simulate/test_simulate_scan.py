"""The virtual scanner: counts have the mean, the variance and the correlation that physics says, and only those."""

from dataclasses import replace

import numba as nb
import numpy as np
import pytest

from lampyris.model import GeometryError, Grid, InputError, Volume
from lampyris.phantom import Cylinder, Ellipsoid, Part, Phantom, path_lengths_mm, voxelise, water_cylinder
from lampyris.physics.attenuation import linear_attenuation_per_mm
from lampyris.physics.detector import detected_weights
from lampyris.projector.operator import Projector
from lampyris.simulate import Protocol, Scanner, scan, scanner, subjects
from lampyris.simulate.scatter import forward_scatter
from lampyris.simulate.subjects import TISSUES, VolumeSubject, refuse_truncated, tissue_nodes

AXIAL = Protocol(kind="axial", mas=8.0)
BODY = Phantom(
    (
        Part(Ellipsoid((12, 3, -9), (83, 190, 62)), "soft_tissue"),
        Part(Cylinder((-20, 0, 14), (11, 8), 150), "cortical_bone", "soft_tissue"),
        Part(Ellipsoid((55, 0, 0), (18, 24, 20)), "lung*0.6", "soft_tissue"),
    )
)


@pytest.fixture(scope="module")
def machine() -> Scanner:
    return scanner("small")


@pytest.fixture(scope="module")
def plain(machine: Scanner) -> Scanner:
    """No cross-talk and equal cells, so that every count can be computed by hand."""
    return replace(machine, cell_spread=0.0, detector=replace(machine.detector, cross_talk=(0.0, 0.0)))


def test_mean_counts_are_what_the_whole_spectrum_gives(plain):
    """Closed-form path lengths, all bins, the bowtie of every fan angle; rebinning is good to 1e−4 (and 1e−4 for the
    bowtie, which it was not searched for)."""
    protocol = replace(AXIAL, noise=False, start_angle_deg=20.0)
    raw = scan(BODY, plain, protocol, dose=0.7)
    assert raw.counts.dtype == np.float32
    view, row = 50, 2
    lengths = path_lengths_mm(BODY, raw.geometry, slice(view, view + 1))
    mu = {name: linear_attenuation_per_mm(name, raw.spectrum.energy_kev) for name in lengths}
    depth = sum(mu[name] * lengths[name][0, row][:, None] for name in lengths)
    fan = (np.arange(126) - plain.gantry.central_column) * 4.3 / 949.0
    cone = np.arctan((row - 2.5) * 3.1 / 949.0)
    air = detected_weights(raw.spectrum, fan, cone_angle_rad=float(cone))
    area = 3.1 * 4.3 * (541 / 949) ** 2 * np.cos(cone) ** 3
    expected = (air * np.exp(-depth)).sum(-1) * area * 0.7 * 8.0 / 174 * plain.detector.counts_per_kev
    net = raw.counts[view, row] - raw.dark[row]
    assert depth.max() > 4
    np.testing.assert_allclose(net, expected, rtol=3e-4, atol=0.02)
    assert raw.exposure_mas == pytest.approx(np.full(174, 0.7 * 8.0 / 174))


def test_an_empty_scan_equals_the_air_scan(machine):
    nothing = Phantom((Part(Ellipsoid((0, 0, 0), (1, 1, 1)), "air"),))
    raw = scan(nothing, machine, replace(AXIAL, flying_focal_spot="both"), dose=0.5, seed=4)
    assert raw.focal_spots == 4
    net = raw.counts.astype(float) - raw.dark
    for spot in range(4):
        air = (raw.air[spot].astype(float) - raw.dark) * 0.5
        mean = net[spot::4].mean(0)
        sigma = np.sqrt(raw.noise.gain_counts * air / len(net[spot::4]))
        off = (mean - air) / np.hypot(sigma, np.sqrt(raw.noise.gain_counts * air / 2 / 1000))
        assert np.abs(off.mean()) < 0.2  # 756 cells: 0.04 if all is well
        assert off.std() == pytest.approx(1.0, abs=0.15)


def _repeated(machine: Scanner, diameter_mm: float, mas: float, **options):
    """Ten turns about a centred cylinder: 1740 views that differ by their noise alone; net counts and theory."""
    protocol = replace(AXIAL, mas=mas, arc_deg=3600.0, **options)
    raw = scan(water_cylinder(diameter_mm, 400.0), machine, protocol, seed=11)
    exact = scan(water_cylinder(diameter_mm, 400.0), machine, replace(protocol, arc_deg=2.0, noise=False), seed=11)
    mean = exact.counts[0].astype(float) - exact.dark
    weights = detected_weights(raw.spectrum, (np.arange(126) - machine.gantry.central_column) * 4.3 / 949.0)
    lengths = path_lengths_mm(water_cylinder(diameter_mm, 400.0), exact.geometry)["water"][0]
    mu = linear_attenuation_per_mm("water", raw.spectrum.energy_kev)
    left = weights * np.exp(-mu * lengths[2][:, None])
    energy = (left * raw.spectrum.energy_kev).sum(-1) / left.sum(-1)
    return raw, raw.counts.astype(float) - raw.dark, mean, energy * machine.detector.counts_per_kev


def test_variance_is_compound_poisson_plus_electronic(plain):
    """Behind 160 mm of water: Σ w·E/Σ w per column, + σ² + 1/12; 104 400 samples: √(2/n) = 0.44 %, 4σ allowed."""
    raw, net, mean, gain = _repeated(plain, 160.0, 4.0)
    assert raw.counts.dtype == np.uint32 or raw.counts.dtype == np.uint16
    theory = gain * mean + plain.detector.electronic_counts**2 + 1 / 12
    for columns in (slice(20, 30), slice(60, 70), slice(100, 110)):
        ratio = (net.var(0) / theory)[:, columns].mean()
        assert ratio == pytest.approx(1.0, abs=0.018)
        assert net.mean(0)[:, columns].mean() == pytest.approx(mean[:, columns].mean(), rel=1e-3)
    assert raw.noise.electronic_counts == pytest.approx(np.sqrt(1.3**2 + 1 / 12))
    air_gain = (raw.noise.gain_counts / gain)[63]
    assert 0.8 < air_gain < 1.0  # the beam in air is softer than behind water


def test_starved_cells_keep_their_mean_variance_and_skewness(plain):
    """Some three photons a cell: m₁ = mean, m₂ = Σ w·E, and a third moment that no normal deviate has."""
    quiet = replace(plain, detector=replace(plain.detector, electronic_counts=0.0, counts_per_kev=0.05))
    _, net, mean, gain = _repeated(quiet, 260.0, 0.006)
    middle = (slice(None), slice(None), slice(58, 68))
    photons = mean[:, 58:68].mean() / gain[58:68].mean()
    assert 1 < photons < 30
    values, expected = net[middle], mean[:, 58:68].mean()
    n = values.size
    assert values.mean() == pytest.approx(expected, abs=4 * np.sqrt(gain[63] * expected / n))
    assert values.var() / (gain[63] * expected) == pytest.approx(1.0, abs=4 * np.sqrt((2 + 1 / photons) / n) + 0.01)
    skewness = ((values - values.mean()) ** 3).mean() / values.std() ** 3
    assert skewness > 0.9 / np.sqrt(photons)


def test_cross_talk_correlates_neighbours_and_conserves_the_signal(machine):
    """With share c to each side: correlation (2c·k₀ + …)/Σk² along a row of the kernel; hand-computed for (0, 0.03)."""
    smear = replace(machine, cell_spread=0.0, detector=replace(machine.detector, cross_talk=(0.0, 0.03)))
    _, net, _, _ = _repeated(smear, 160.0, 8.0)
    part = net[:, :, 50:80] - net[:, :, 50:80].mean(0)
    own, beside = (part**2).mean(), (part[:, :, 1:] * part[:, :, :-1]).mean()
    power = 0.94**2 + 2 * 0.03**2
    assert beside / own == pytest.approx(2 * 0.03 * 0.94 / power, abs=0.01)
    assert np.abs((part[:, 1:] * part[:, :-1]).mean() / own) < 0.01
    sharp = replace(smear, detector=replace(smear.detector, cross_talk=(0.0, 0.0)))
    options = replace(AXIAL, noise=False)
    spread, exact = (scan(BODY, each, options) for each in (smear, sharp))
    totals = [(raw.counts - raw.dark).sum(dtype=np.float64) for raw in (spread, exact)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-6)


def test_counts_depend_on_the_seed_and_not_on_blocks_or_threads(machine, monkeypatch):
    first = scan(BODY, machine, AXIAL, seed=5)
    monkeypatch.setattr(subjects.PhantomSubject, "views_at_once", 13)
    threads = nb.get_num_threads()
    nb.set_num_threads(1)
    try:
        again = scan(BODY, machine, AXIAL, seed=5)
    finally:
        nb.set_num_threads(threads)
    assert first.id == again.id
    assert scan(BODY, machine, AXIAL, seed=6).id != first.id


def test_progress_reaches_one(machine):
    told: list[float] = []
    scan(BODY, machine, AXIAL, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_modulation_changes_the_exposure_and_not_the_line_integrals(machine):
    protocol = replace(AXIAL, noise=False)
    flat, varied = (scan(BODY, machine, replace(protocol, modulation=mode)) for mode in ("none", "angular"))
    assert varied.exposure_mas.mean() == pytest.approx(flat.exposure_mas.mean())
    assert varied.exposure_mas.max() / varied.exposure_mas.min() > 1.3
    per_mas = [(raw.counts - raw.dark) / raw.exposure_mas[:, None, None] for raw in (flat, varied)]
    np.testing.assert_allclose(per_mas[0], per_mas[1], rtol=1e-4)


def test_a_dead_cell_counts_its_dark_current_alone(machine):
    raw = scan(BODY, replace(machine, bad_cells=((3, 70),)), AXIAL)
    assert np.argwhere(raw.bad_cells).tolist() == [[3, 70]]
    assert np.abs(raw.counts[:, 3, 70] - raw.dark[3, 70]).max() < 8


def test_scatter_fills_the_shadow_and_spares_the_air(machine):
    protocol = replace(AXIAL, noise=False)
    clean, hazy = (scan(BODY, machine, replace(protocol, scatter=on)).counts[20, 3] for on in (False, True))
    more = hazy - clean
    assert more.min() >= 0
    shadow = clean[:90].argmin()
    assert more[shadow] / (clean[shadow] - 200) > 3 * more[-1] / (clean[-1] - 200)


def test_scatter_inside_a_wide_uniform_shadow_is_its_closed_form(machine):
    """strength · air·r·(−ln r) where the blur sees no edge; 4σ from it, the Gaussian's tail is 6e−5."""
    wide = replace(machine, scatter=replace(machine.scatter, strength=0.07, sigma_mm=20.0))
    air = np.full((200, 300), 5e5, np.float32)
    found = forward_scatter(0.2 * air, air, 60.0, wide)
    assert found[0, 100, 150] == pytest.approx(0.07 * 5e5 * 0.2 * -np.log(0.2), rel=1e-3)
    assert found[0, 0, 150] < 0.6 * found[0, 100, 150]
    assert (found[1] == np.float32(54.0)).all()


def test_more_rays_per_cell_blur_edges_and_leave_the_rest(machine):
    protocol = replace(AXIAL, noise=False)
    sharp, soft = (
        scan(water_cylinder(160.0, 300.0), machine, replace(protocol, rays_per_cell=n)).counts[9, 2] for n in (1, 6)
    )
    step = np.abs(np.diff(sharp))
    edge = step[:40].argmax()
    assert np.abs(soft - sharp)[edge - 1 : edge + 3].max() > 50 * np.abs(soft - sharp)[61:64].max() / 10
    assert soft[63] == pytest.approx(sharp[63], rel=1e-3)


def test_what_cannot_be_scanned_is_refused(machine):
    with pytest.raises(InputError, match="has no 130 kV"):
        scan(BODY, machine, replace(AXIAL, tube_voltage_kv=130.0))
    with pytest.raises(InputError, match="has no bowtie 'teflon'; it has large, small"):
        scan(BODY, machine, replace(AXIAL, bowtie="teflon"))
    with pytest.raises(InputError, match="20-bit converter of small ends at 1048575: fewer mAs"):
        scan(BODY, machine, replace(AXIAL, mas=300.0))
    with pytest.raises(InputError, match="dose 0"):
        scan(BODY, machine, AXIAL, dose=0.0)


def test_every_voxel_keeps_its_attenuation_at_the_effective_energy():
    energy = 63.0
    nodes, amounts = tissue_nodes(energy)
    hu = np.linspace(-1000, 3000, 401)
    mixed = sum(
        np.interp(hu, nodes, amount) * float(linear_attenuation_per_mm(name, energy))
        for name, amount in zip(TISSUES, amounts, strict=True)
    )
    np.testing.assert_allclose(mixed, float(linear_attenuation_per_mm("water", energy)) * (1 + hu / 1000), atol=1e-9)
    assert amounts.min() >= 0


def _cylinder_volume(hu: float = 0.0, radius_mm: float = 70.0) -> Volume:
    grid = Grid.centred((12, 90, 92), (3.0, 2.0, 2.0))
    phantom = Phantom((Part(Cylinder((0, 0, 0), (radius_mm, radius_mm), 100), "water"),))
    values = voxelise(phantom, grid, per_mm={"water": 1.0}).values
    return Volume((values * (1000 + hu) - 1000).astype(np.float32), grid, "HU")


def test_a_volume_is_scanned_as_the_body_it_shows(machine):
    """A water cylinder of voxels against the closed form: its tissue mixture hardens the beam like water to 0.5 %."""
    protocol = replace(AXIAL, noise=False, arc_deg=40.0)
    voxels = scan(_cylinder_volume(), machine, protocol)
    exact = scan(Phantom((Part(Cylinder((0, 0, 0), (70, 70), 36), "water"),)), machine, protocol)
    integrals = [-np.log((raw.counts - raw.dark) / (raw.air[0] - raw.dark))[:, 1:5, 50:76] for raw in (voxels, exact)]
    assert integrals[1].min() > 2
    np.testing.assert_allclose(integrals[0], integrals[1], rtol=0.01)
    assert integrals[0].mean() == pytest.approx(integrals[1].mean(), rel=5e-3)


def test_what_was_not_measured_is_air(machine):
    volume = _cylinder_volume()
    valid = np.ones(volume.grid.shape, np.bool_)
    valid[:, :3] = False
    holes = np.where(valid, volume.values, np.float32(3000.0))
    clean = VolumeSubject(volume, 63.0)
    padded = VolumeSubject(replace(volume, values=holes, valid=valid), 63.0)
    for (grid, one), (same, two) in zip(clean.pieces, padded.pieces, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(grid.first_voxel_mm, same.first_voxel_mm)


def test_cropping_a_volume_to_its_body_loses_no_ray(machine, lopsided_helix):
    """Off-centre and wanting in every direction: the pieces project as the whole volume does."""
    volume = _cylinder_volume(radius_mm=31.0)
    volume = replace(volume, grid=Grid.centred(volume.grid.shape, volume.grid.spacing_mm, (37.0, -4.0, -22.0)))
    pieces = VolumeSubject(volume, 63.0)
    assert all(np.prod(piece.shape) < 0.3 * volume.values.size for _, piece in pieces.pieces)
    nodes, amounts = tissue_nodes(63.0)
    lengths = pieces.lengths_mm(lopsided_helix)
    for found, amount in zip(lengths, amounts, strict=True):
        whole = np.interp(volume.values, nodes, amount).astype(np.float32)
        np.testing.assert_allclose(found, Projector(lopsided_helix, volume.grid).forward(whole), atol=2e-3)
    assert lengths.max() > 30


def test_a_volume_that_cuts_the_body_is_refused(machine):
    cut = _cylinder_volume(radius_mm=110.0)
    with pytest.raises(InputError, match="edge of the field of view is flesh"):
        scan(cut, machine, AXIAL)
    assert scan(cut, machine, replace(AXIAL, truncated_ok=True, arc_deg=10.0)).views == 5
    inside = replace(cut, valid=np.broadcast_to(_disc(cut.grid), cut.grid.shape).copy())
    with pytest.raises(InputError, match="the body is cut"):
        refuse_truncated(inside)
    refuse_truncated(_cylinder_volume())


def _disc(grid: Grid) -> np.ndarray:
    rows, columns = np.meshgrid(np.arange(grid.shape[1]) - 44.5, np.arange(grid.shape[2]) - 45.5, indexing="ij")
    return np.hypot(rows, columns) < 40


def test_a_volume_must_be_in_hu_and_in_the_gantry_frame(machine):
    volume = _cylinder_volume()
    with pytest.raises(InputError, match="holds 1/mm in the gantry frame"):
        scan(replace(volume, quantity="1/mm"), machine, AXIAL)
    with pytest.raises(InputError, match="holds HU in the patient frame"):
        scan(volume.place("HFS", (0.0, 0.0, 0.0)), machine, AXIAL)


def test_a_volume_around_the_source_is_refused(machine):
    far = Grid.centred((4, 20, 60), (10.0, 20.0, 20.0), (0.0, 0.0, 0.0))
    with pytest.raises(GeometryError):
        scan(Volume(np.full(far.shape, -1000, np.float32), far, "HU"), machine, AXIAL)
