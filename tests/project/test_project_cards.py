"""What a province would need of cards: the figures of one that was measured, multiplied; nothing where none was."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    import bench.gpu.figures
    import bench.province.page

    assert bench.gpu.figures.__name__ in sys.modules
    return bench


def test_cards_at_the_peak_are_scans_a_second_over_what_one_card_makes(bench: ModuleType, tmp_path: Path) -> None:
    """1000 scanners × 100 scans in 10 hours, twice the mean at the peak: 20 000 an hour, 70 % of each card."""
    figures, assumed = bench.gpu.figures, bench.province.model.Assumed()
    seconds = {"opening": 0.5, "correct": 1.0, "reconstruct": 2.5}
    recipes = (
        figures.RecipeFigures("routine", seconds, 3 << 30, 1250.0),
        figures.RecipeFigures("micro", {"reconstruct": 55.0}, 9 << 30, None),
    )
    made = figures.Figures("a card", "driver 580.65", 80 << 30, "abc", "a chest", recipes)
    made.write(tmp_path / "card.json")
    told = bench.province.page.cards(assumed, figures.Figures.read(tmp_path / "card.json"))
    assert "a card, driver 580.65" in told[0]
    assert "`routine` takes 4.0 s from the container to the volume; a card makes 1250 an hour: 23 of them" in told[1]
    assert "`micro` takes 55.0 s" in told[2]
    assert "was not measured" in told[2]


def test_without_a_card_s_figures_none_is_assumed(bench: ModuleType) -> None:
    (told,) = bench.province.page.cards(bench.province.model.Assumed(), None)
    assert "none was measured" in told
    assert "none is assumed" in told


def test_another_file_is_no_figures(bench: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"card": "a card"}', "utf-8")
    with pytest.raises(SystemExit, match="holds no figures"):
        bench.gpu.figures.Figures.read(tmp_path / "other.json")
