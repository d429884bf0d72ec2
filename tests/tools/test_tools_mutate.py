"""The mutation run on a toy package: what is tested is killed, what is not survives, what hangs is stopped."""

import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def mutate(tool) -> ModuleType:
    return tool("mutate")


TOY = '''"""Docstring with 1 + 1."""
def minus(a: int, b: int) -> int:
    return a - b


def triple(a: float) -> float:
    return a * 3
'''
TESTS = """from toy.arith import minus


def test_minus() -> None:
    assert minus(5, 3) == 2
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "src" / "toy").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "src" / "toy" / "__init__.py").write_text("")
    (root / "src" / "toy" / "arith.py").write_text(TOY)
    (root / "tests" / "test_arith.py").write_text(TESTS)
    return root


def changes(mutate: ModuleType, source: str) -> set[tuple[str, str]]:
    return {(one.before, one.after) for one in mutate.mutants(source)}


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("x = a + b", ("a + b", "a - b")),
        ("x = a * b", ("a * b", "a / b")),
        ("x = a < b", ("a < b", "a <= b")),
        ("x = a >= b", ("a >= b", "a > b")),
        ("x = np.sin(a)", ("np.sin(a)", "np.cos(a)")),
        ("x = cos(a)", ("cos(a)", "sin(a)")),
        ("x = abs(a)", ("abs(a)", "a")),
        ("x = np.sqrt(a)", ("np.sqrt(a)", "a")),
        ("x = -a", ("-a", "a")),
        ("x = not a", ("not a", "a")),
        ("x = a and b", ("a and b", "a or b")),
        ("x = a[1]", ("1", "2")),
        ("x = 0.5", ("0.5", "1.0")),
        ("x = 0.0", ("0.0", "1.0")),
        ("x = a[i, j]", ("a[i, j]", "a[j, i]")),
        ("x = np.arctan2(y, z)", ("np.arctan2(y, z)", "np.arctan2(z, y)")),
        ("x = np.minimum(a, b)", ("np.minimum(a, b)", "np.maximum(a, b)")),
        ("x = a.sum(axis=0)", ("0", "1")),
    ],
)
def test_every_kind_of_mistake_is_made(mutate: ModuleType, source: str, change: tuple[str, str]) -> None:
    assert change in changes(mutate, source)


@pytest.mark.parametrize(
    "source",
    [
        '"""1 + 1"""',
        'raise ValueError(f"{a + 1}")',
        "x = f'{a + 1}'",
        "x: Literal[1]",
        "def f(a: Annotated[int, 1]) -> Annotated[int, 2]: ...",
        "@cache(1)\ndef f(): ...",
        "x = 'a' + b",
        "x = True",
        "import a1",
    ],
)
def test_words_are_left_alone(mutate: ModuleType, source: str) -> None:
    assert not mutate.mutants(source)


def test_a_mutant_changes_one_place_and_nothing_else(mutate: ModuleType) -> None:
    source = "x = a + b\ny = a + b\n"
    first, second = mutate.mutants(source)
    assert mutate.applied(source, first) == "x = a - b\ny = a + b"
    assert mutate.applied(source, second) == "x = a + b\ny = a - b"
    assert (first.line, second.line) == (1, 2)


def test_every_mutant_of_this_project_can_be_written(mutate: ModuleType) -> None:
    source = (ROOT / "src/lampyris/model/volume.py").read_text("utf-8")
    plain = mutate.ast.unparse(mutate.ast.parse(source))
    found = mutate.mutants(source)
    assert len(found) > 30
    for one in found:
        changed = mutate.applied(source, one)
        compile(changed, "volume.py", "exec")
        assert changed != plain


def test_the_sample_is_the_seeds_and_takes_files_in_turn(mutate: ModuleType, toy: Path) -> None:
    (toy / "src" / "toy" / "other.py").write_text("x = [a + 1, b + 2, c + 3]\n")
    files = [toy / "src/toy/other.py", toy / "src/toy/arith.py"]
    one, same, other = (mutate.sample(files, toy, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert set(one) == set(other)
    assert [each.file for each in one[:2]] == ["src/toy/arith.py", "src/toy/other.py"]


def test_the_tested_is_killed_and_the_untested_survives(mutate: ModuleType, toy: Path, tmp_path: Path) -> None:
    before = (toy / "src/toy/arith.py").read_text()
    told = tmp_path / "mutation.json"
    page = tmp_path / "mutation.md"
    arguments = ["--root", str(toy), "--target", "toy=src/toy/*.py:tests", "--budget-seconds", "120", "--seed", "3"]
    assert mutate.main([*arguments, "--json", str(told), "--markdown", str(page)]) == 0
    outcome = {(one["before"], one["after"]): one["outcome"] for one in json.loads(told.read_text())["results"]}
    assert outcome == {
        ("a - b", "a + b"): "killed",
        ("a * 3", "a / 3"): "survived",
        ("3", "4"): "survived",
    }
    text = page.read_text("utf-8")
    assert "| all | 3 | 1 | 0 | 2 | 33 % |" in text
    assert "- `src/toy/arith.py:7` `a * 3` → `a / 3`" in text
    assert (toy / "src/toy/arith.py").read_text() == before


def test_a_mutant_that_hangs_is_stopped(mutate: ModuleType, toy: Path, tmp_path: Path) -> None:
    (toy / "src/toy/arith.py").write_text("def minus(a, b):\n    while a < b:\n        a = a + b\n    return a\n")
    (toy / "tests/test_arith.py").write_text(
        "from toy.arith import minus\ndef test_it():\n    assert minus(0, 1) == 1\n"
    )
    copy = mutate.Copy(toy, tmp_path, mutate.Target("toy", ("src/toy/*.py",), ("tests",)))
    hanging = next(
        one for one in mutate.mutants((toy / "src/toy/arith.py").read_text(), "src/toy/arith.py") if "-" in one.after
    )
    assert copy.judge(hanging, 6.0)[0] == "timeout"


def test_tests_that_fail_without_a_mutant_are_refused(mutate: ModuleType, toy: Path, tmp_path: Path) -> None:
    (toy / "tests/test_arith.py").write_text("def test_it():\n    assert False\n")
    copy = mutate.Copy(toy, tmp_path, mutate.Target("toy", ("src/toy/*.py",), ("tests",)))
    with pytest.raises(SystemExit, match="fail without any mutant"):
        copy.baseline()


def test_compiled_code_is_kept_only_from_below(mutate: ModuleType, toy: Path, tmp_path: Path) -> None:
    """Numba does not notice a change in an inlined function of another file; the copy's caches must not hide it."""
    (toy / "tests/test_arith.py").write_text(
        "import os, pathlib\n"
        "def test_it():\n"
        "    names = [one.name for one in pathlib.Path(os.environ['NUMBA_CACHE_DIR']).iterdir()]\n"
        "    assert names == ['lower_1a2b']\n"
    )
    copy = mutate.Copy(toy, tmp_path, mutate.Target("toy", ("src/toy/*.py",), ("tests",), below=("lower",)))
    for name in ("lower_1a2b", "toy_3c4d", "lower_too_5e6f"):
        (copy.compiled / name).mkdir()
    some = mutate.mutants(TOY, "src/toy/arith.py")[0]
    assert copy.judge(some, 60.0)[0] == "survived"


def test_every_target_of_this_project_has_files_and_tests(mutate: ModuleType) -> None:
    for target in mutate.TARGETS.values():
        for glob in target.files:
            assert list(ROOT.glob(glob)), f"{target.name}: {glob}"
        for tests in target.tests:
            assert list((ROOT / tests).glob("test_*.py")), f"{target.name}: {tests}"


def test_a_malformed_target_is_refused(mutate: ModuleType) -> None:
    with pytest.raises(SystemExit, match="expected NAME=FILES:TESTS"):
        mutate.main(["--target", "toy"])
