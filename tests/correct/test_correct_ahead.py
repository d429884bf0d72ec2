"""Blocks of views that are corrected while the others are still coming: the same bits, or none."""

import numpy as np
import pytest

from lampyris.correct import ahead, correct, made_of
from lampyris.correct import block as blocks
from lampyris.model import Step
from lampyris.raw.lazy import LazyCounts

STEPS = (
    Step("dark_air"),
    Step("bad_cells"),
    Step("scatter"),
    Step.of("log", keep_quanta=True),
    Step("restore"),
    Step("ring"),
)
SHORT = (Step("dark_air"), Step("bad_cells"), Step("log"))
HALO = 9
"""Views beside a block that starved rays are mended with: twice 4 for two windows of 9, and 1 for a guide of 3."""


@pytest.fixture
def scan(known, rng, monkeypatch):
    """41 views with starved rays, in blocks of 16."""
    monkeypatch.setattr(blocks, "CELLS_PER_BLOCK", 1)
    scene = known(open_counts=900.0)
    return scene.scan(rng.poisson(scene.means))


def arriving(scan, views):
    """The scan of which no count behind the first `views` views can be read."""

    def load(chosen):
        assert max(chosen) < views, "a view that is not there was asked for"
        return np.asarray(scan.counts)[list(chosen)]

    from dataclasses import replace

    return replace(scan, counts=LazyCounts(scan.geometry.shape, scan.counts.dtype, load))


@pytest.mark.parametrize(
    ("views", "lasts"), [(15 + HALO, []), (16 + HALO, [16]), (32 + HALO - 1, [16]), (41, [16, 32, 41])]
)
def test_a_block_is_made_when_its_views_and_those_beside_it_are_there(scan, views, lasts, kept):
    shelf = kept()
    assert [one.last for one in ahead(arriving(scan, views), SHORT, views, shelf)] == lasts
    assert sorted(count for _, count in shelf) == sorted(min(last + HALO, 41) for last in lasts)
    assert [made_of((41, 6, 7), each) for each in (1, 16, 17, 41)] == [16 + HALO, 16 + HALO, 41, 41]


@pytest.mark.parametrize("steps", [STEPS, SHORT], ids=["all steps", "few steps"])
def test_corrected_views_are_the_same_to_the_last_bit_with_blocks_made_beforehand(scan, steps, kept):
    whole = correct(scan, steps)
    shelf = kept()
    assert len(list(ahead(arriving(scan, 30), steps, 30, shelf))) == len(shelf) == 1
    again = correct(scan, steps, shelf=shelf)
    assert shelf.taken == 1
    np.testing.assert_array_equal(again.integrals, whole.integrals)
    np.testing.assert_array_equal(again.weights, whole.weights)
    assert again.history == whole.history
    if whole.quanta is not None:
        np.testing.assert_array_equal(again.quanta.measured, whole.quanta.measured)
        np.testing.assert_array_equal(again.quanta.offset, whole.quanta.offset)


def test_integrals_are_given_again_without_being_made_again(scan, kept):
    shelf = kept()
    first = [one.integrals for one in ahead(scan, SHORT, 41, shelf, give=True)]
    second = list(ahead(scan, SHORT, 41, shelf, give=True, after=16))
    assert [one.first for one in second] == [16, 32]
    np.testing.assert_array_equal(first[1], second[0].integrals)
    np.testing.assert_array_equal(np.concatenate(first), correct(scan, SHORT).integrals)
    assert [one.integrals for one in ahead(scan, SHORT, 41, shelf)] == [None] * 3


def test_a_cell_that_turns_out_to_be_stuck_leaves_all_blocks_where_they_are(scan, kept):
    from dataclasses import replace

    counts = np.asarray(scan.counts).copy()
    counts[:, 3, 4] = counts[0, 3, 4] * 0 + 431.0
    stuck = replace(scan, counts=counts, id="")
    shelf = kept()
    assert len(list(ahead(stuck, SHORT, 30, shelf))) == 1
    again = correct(stuck, SHORT, shelf=shelf)
    found = next(dict(step.settings) for step in again.history if step.name == "bad_cells")
    assert (found["stuck"], shelf.taken) == (1, 0)
    np.testing.assert_array_equal(again.integrals, correct(stuck, SHORT).integrals)
