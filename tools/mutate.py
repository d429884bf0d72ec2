"""Source tree → which small mistakes its tests would not notice: a mutation run over the numerical core.

Every mutant is one change to one expression: an operator exchanged, a constant moved, sine for cosine, a sign dropped,
two indices swapped. It is written into a copy of the tree, never in place, the package's tests run on it, and a mutant
that they do not fail is listed with file, line and change. The sample is drawn by a seed, file by file in turn, until
the budget is spent, so that the same seed and a larger budget continue the same list.

    python tools/mutate.py --package quality --budget-seconds 600 --seed 1 --json mutation.json --markdown mutation.md
"""

import argparse
import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

ROOT = Path(__file__).resolve().parents[1]
Outcome: TypeAlias = Literal["killed", "survived", "timeout"]
Step: TypeAlias = tuple[str, int | None]


@dataclass(frozen=True)
class Target:
    """Files of one package (globs below the root), the tests that are to notice, and packages that cannot import it.

    The compiled code of those `below` may be kept from mutant to mutant; all other is compiled afresh, because Numba
    does not see that a function it has inlined was changed.
    """

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    below: tuple[str, ...] = ()


def _package(name: str, *files: str, below: tuple[str, ...]) -> Target:
    return Target(name, tuple(f"src/lampyris/{name}/{one}.py" for one in files), (f"tests/{name}",), below)


_STATION = ("model", "physics", "projector", "phantom")
TARGETS = {
    one.name: one
    for one in (
        _package("model", "geometry", "orbit", "volume", below=()),
        _package("physics", "*", below=("model",)),
        _package("projector", "ray", "footprint", "plan", "backprojection/*", below=("model", "physics")),
        _package("recon", "kernels", "noise", "analytic/*", "iterative/*", "iterative/priors/*", below=_STATION),
        _package("correct", "*", below=_STATION),
        _package("quality", "*", below=_STATION),
    )
}


@dataclass(frozen=True)
class Mutant:
    """One change: the path of fields from the module to the node, and which of the node's alternatives."""

    file: str
    line: int
    before: str
    after: str
    path: tuple[Step, ...]
    option: int


@dataclass(frozen=True)
class Result:
    package: str
    file: str
    line: int
    before: str
    after: str
    outcome: Outcome
    seconds: float


@dataclass
class Report:
    """What was run: results in order, how many mutants there are in all, and the run's settings."""

    seed: int
    budget_seconds: float
    possible: dict[str, int] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def survivors(self) -> list[Result]:
        return sorted((one for one in self.results if one.outcome == "survived"), key=lambda one: (one.file, one.line))


# ── mutants ──────────────────────────────────────────────────────────────────────────────────────────────────────

OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}  # fmt: skip
NAMES = {
    "sin": "cos", "cos": "sin", "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum",
    "floor": "ceil", "ceil": "floor", "argmin": "argmax", "argmax": "argmin", "any": "all", "all": "any",
    "mean": "median", "zeros": "ones", "ones": "zeros",
}  # fmt: skip
DROPPED = {"abs", "sqrt", "fabs", "square", "radians", "deg2rad", "conj", "flip", "ifftshift", "fftshift"}


def alternatives(node: ast.AST) -> list[ast.expr]:
    """What may stand in a node's place, in a fixed order; empty for nodes that are left alone."""
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS and not (_text(left) or _text(right)):
            return [ast.BinOp(left, OPERATORS[type(op)](), right)]
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            return [ast.Compare(left, [COMPARISONS[type(op)]()], [right])]
        case ast.BoolOp(op=op, values=values):
            return [ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)]
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            return [operand]
        case ast.Constant(value=bool()):
            return []
        case ast.Constant(value=int(value)):
            return [ast.Constant(value + 1)]
        case ast.Constant(value=float(value)):
            return [ast.Constant(value * 2 if value else 1.0)]
        case ast.Call():
            return _calls(node)
        case ast.Subscript(value=value, slice=ast.Tuple(elts=[first, second, *rest]), ctx=context):
            if ast.dump(first) != ast.dump(second):
                return [ast.Subscript(value, ast.Tuple([second, first, *rest], ast.Load()), context)]
    return []


def _calls(node: ast.Call) -> list[ast.expr]:
    """sin for cos, min for max …; a root or an absolute value dropped; the two arguments of arctan2 exchanged."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    found: list[ast.expr] = []
    if name in NAMES:
        other = NAMES[name]
        function: ast.expr = ast.Name(other, ast.Load())
        if isinstance(node.func, ast.Attribute):
            function = ast.Attribute(node.func.value, other, ast.Load())
        found.append(ast.Call(function, node.args, node.keywords))
    if name in DROPPED and len(node.args) == 1 and not node.keywords:
        found.append(node.args[0])
    if name in ("arctan2", "atan2") and len(node.args) == 2:
        found.append(ast.Call(node.func, node.args[::-1], node.keywords))
    return found


def _text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _children(node: ast.AST) -> Iterator[tuple[Step, ast.AST]]:
    """Child nodes that are computed with: no messages, annotations, decorators or imports."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    hidden = {"annotation", "returns", "decorator_list", "type_params"}
    for name, value in ast.iter_fields(node):
        if name in hidden:
            continue
        if isinstance(value, ast.AST):
            yield (name, None), value
        elif isinstance(value, list):
            for index, one in enumerate(value):
                if isinstance(one, ast.AST):
                    yield (name, index), one


def mutants(source: str, file: str = "") -> list[Mutant]:
    """Every mutant of a module, in the order of its text."""
    found: list[Mutant] = []

    def walk(node: ast.AST, path: tuple[Step, ...]) -> None:
        for option, other in enumerate(alternatives(node)):
            before, after = ast.unparse(node), ast.unparse(ast.fix_missing_locations(other))
            if before != after:
                found.append(Mutant(file, getattr(node, "lineno", 0), before, after, path, option))
        for step, child in _children(node):
            walk(child, (*path, step))

    walk(ast.parse(source), ())
    return found


def applied(source: str, mutant: Mutant) -> str:
    """The module's text with one mutant in it; comments and layout are lost, the meaning is otherwise the same."""
    tree = ast.parse(source)
    parent: ast.AST = tree
    for name, index in mutant.path[:-1]:
        child = getattr(parent, name)
        parent = child if index is None else child[index]
    name, index = mutant.path[-1]
    holder = getattr(parent, name)
    node = alternatives(holder if index is None else holder[index])[mutant.option]
    if index is None:
        setattr(parent, name, node)
    else:
        holder[index] = node
    return ast.unparse(ast.fix_missing_locations(tree))


def sample(files: Sequence[Path], root: Path, seed: int) -> list[Mutant]:
    """All mutants of some files: shuffled within each file, then one of each file in turn, so that none is starved."""
    queues = []
    for path in sorted(files):
        name = path.relative_to(root).as_posix()
        own = mutants(path.read_text("utf-8"), name)
        random.Random(f"{seed}:{name}").shuffle(own)
        queues.append(own)
    longest = max((len(one) for one in queues), default=0)
    return [own[turn] for turn in range(longest) for own in queues if turn < len(own)]


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Copy:
    """A copy of the tree in a temporary folder, in which tests run with their own caches."""

    def __init__(self, root: Path, folder: Path, target: Target) -> None:
        self.root, self.target = root, target
        self.tree = folder / "tree"
        self.compiled = folder / "compiled"
        skip = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "*.egg-info", "out")
        shutil.copytree(root, self.tree, ignore=skip, symlinks=True)
        self.compiled.mkdir()

    def judge(self, mutant: Mutant, timeout: float) -> tuple[Outcome, float]:
        """Write one mutant, run the tests, put the file back."""
        path = self.tree / mutant.file
        original = path.read_text("utf-8")
        cache = Path(tempfile.mkdtemp(dir=self.tree.parent))
        for kept in self.compiled.iterdir():
            if kept.name.rpartition("_")[0] in self.target.below:
                shutil.copytree(kept, cache / kept.name)
        try:
            path.write_text(applied(original, mutant), "utf-8")
            code, seconds = self.run(cache, timeout, first=mutant.file)
        finally:
            path.write_text(original, "utf-8")
            shutil.rmtree(cache)
        if code is None:
            return "timeout", seconds
        if code in (3, 4, 5):
            raise SystemExit(f"pytest ended with {code} on {mutant.file}:{mutant.line}: no tests, or it cannot run")
        return ("survived" if code == 0 else "killed"), seconds

    def baseline(self) -> float:
        """Seconds of the unchanged tests, Numba's compilation included; they must pass in the copy."""
        shutil.rmtree(self.compiled)
        self.compiled.mkdir()
        code, seconds = self.run(self.compiled, None)
        if code != 0:
            raise SystemExit(f"the tests of {self.target.name} fail without any mutant (pytest ended with {code})")
        return seconds

    def run(self, cache: Path, timeout: float | None, first: str = "") -> tuple[int | None, float]:
        """Exit code of pytest (None: out of time) and seconds. Tests named after the mutated file run first."""
        stem = Path(first).stem
        tests = [self.tree / one for one in self.target.tests]
        near = sorted(path for folder in tests if stem for path in folder.glob(f"test_*{stem}*.py"))
        arguments = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
        environment = os.environ | {
            "PYTHONPATH": str(self.tree / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",  # bytecode is told apart by whole seconds and size: mutants are not
            "NUMBA_CACHE_DIR": str(cache),
            "LAMPYRIS_DATA": os.environ.get("LAMPYRIS_DATA", str(self.root.parent / "shared" / "data")),
        }
        began = time.monotonic()
        process = subprocess.Popen(
            [*arguments, *map(str, near), *map(str, tests)],
            cwd=self.tree,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
        return code, time.monotonic() - began


def run(root: Path, targets: Sequence[Target], report: Report, *, say: bool = True) -> Report:
    """Mutate each target for its share of the budget; the results are added to the report."""
    for position, target in enumerate(targets):
        files = [path for glob in target.files for path in root.glob(glob) if path.name != "__init__.py"]
        if not files:
            raise SystemExit(f"no file of {target.name} matches {', '.join(target.files)}")
        chosen = sample(files, root, report.seed)
        report.possible[target.name] = len(chosen)
        spent = sum(one.seconds for one in report.results)
        share = (report.budget_seconds - spent) / (len(targets) - position)
        with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
            copy = Copy(root, Path(folder), target)
            normal = copy.baseline()
            limit = 3 * normal + 10
            began = time.monotonic()
            for mutant in chosen:
                if time.monotonic() - began > share:
                    break
                outcome, seconds = copy.judge(mutant, limit)
                own = (mutant.file, mutant.line, mutant.before, mutant.after)
                report.results.append(Result(target.name, *own, outcome, round(seconds, 2)))
                if say:
                    print(
                        f"{outcome:9s}{seconds:6.1f} s  {mutant.file}:{mutant.line}  {mutant.before} → {mutant.after}"
                    )
    return report


def markdown(report: Report) -> str:
    """The report as a page: a table by file, and every survivor."""
    lines = [
        "# Mutants of the numerical core",
        "",
        f"Made by `python tools/mutate.py --seed {report.seed} --budget-seconds {report.budget_seconds:g}`: one small"
        " change at a time, in a copy of the tree; killed = the package's tests fail or run out of time.",
        "",
        "| file | mutants run | killed | timed out | survived | killed |",
        "|---|---|---|---|---|---|",
    ]
    for file in sorted({one.file for one in report.results}):
        lines.append(_row(f"`{file}`", [one for one in report.results if one.file == file]))
    lines.append(_row("all", report.results))
    possible = ", ".join(f"{name} {number}" for name, number in report.possible.items())
    lines += ["", f"Possible mutants: {possible}.", "", "## Survivors", ""]
    lines += [f"- `{one.file}:{one.line}` `{one.before}` → `{one.after}`" for one in report.survivors()] or ["None."]
    return "\n".join(lines) + "\n"


def _row(name: str, results: Sequence[Result]) -> str:
    count = {kind: sum(one.outcome == kind for one in results) for kind in ("killed", "timeout", "survived")}
    caught = count["killed"] + count["timeout"]
    share = f"{100 * caught / len(results):.0f} %" if results else "–"
    return f"| {name} | {len(results)} | {count['killed']} | {count['timeout']} | {count['survived']} | {share} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--package", action="append", choices=sorted(TARGETS), help="may be repeated; default: all")
    parser.add_argument(
        "--target", action="append", default=[], metavar="NAME=FILES:TESTS", help="globs below the root"
    )
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--budget-seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--list", action="store_true", help="print the mutants in the order of the run, run none")
    chosen = parser.parse_args(arguments)
    targets = [_target(text) for text in chosen.target]
    targets = targets or [TARGETS[name] for name in chosen.package or TARGETS]
    root = chosen.root.resolve()
    if chosen.list:
        for target in targets:
            files = [path for glob in target.files for path in root.glob(glob) if path.name != "__init__.py"]
            for mutant in sample(files, root, chosen.seed):
                print(f"{mutant.file}:{mutant.line}  {mutant.before} → {mutant.after}")
        return 0
    report = run(root, targets, Report(chosen.seed, chosen.budget_seconds))
    if chosen.json:
        chosen.json.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", "utf-8")
    if chosen.markdown:
        chosen.markdown.write_text(markdown(report), "utf-8")
    print(markdown(report))
    return 0


def _target(text: str) -> Target:
    name, equal, rest = text.partition("=")
    files, colon, tests = rest.partition(":")
    if not (equal and colon):
        raise SystemExit(f"--target {text!r}: expected NAME=FILES:TESTS")
    return Target(name, tuple(files.split(",")), tuple(tests.split(",")))


if __name__ == "__main__":
    raise SystemExit(main())
