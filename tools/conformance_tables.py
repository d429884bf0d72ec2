"""The code's presentation contexts, limits and objects → the tables of docs/dicom-conformance.md.

`python tools/conformance_tables.py` writes them between their marks; a test fails when they are not what stands there.
"""

import dataclasses
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
from fastapi.routing import APIRoute
from pydicom.dataset import Dataset
from pydicom.uid import UID

from lampyris import __version__
from lampyris.centre.archive import dicomweb
from lampyris.centre.dimse import contexts, nodes
from lampyris.centre.dimse.orders import Order
from lampyris.centre.dimse.scp import server
from lampyris.centre.dimse.scp.worklist import step_of
from lampyris.dicom import (
    MAPS,
    Dose,
    Exposure,
    Irradiation,
    Occasion,
    Provenance,
    choose,
    upright,
    write_documents,
    write_map,
    write_series,
)
from lampyris.dicom.ids import IMPLEMENTATION_CLASS_UID
from lampyris.model import (
    Acquisition,
    Applied,
    Assessment,
    Figure,
    Gantry,
    Geometry,
    Grid,
    Projections,
    Recipe,
    Spectrum,
    Step,
    Study,
    Volume,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "dicom-conformance.md"
_MARKED = re.compile(r"(<!-- begin (\S+) -->\n)(.*?)(<!-- end \2 -->)", re.DOTALL)
_NOW = datetime(2026, 11, 21, 8, 30, 15, tzinfo=UTC)


def blocks() -> dict[str, str]:
    """Every table, by the name of its place."""
    return {
        "entity": _table(("", ""), _entity()),
        "accepted": _table(("a node that may", "abstract syntax", "UID", "transfer syntaxes", "role"), _accepted()),
        "uncompressed": _syntaxes(contexts.PLAIN),
        "stored": _syntaxes((*contexts.PLAIN, *contexts.COMPRESSED)),
        "storage": _table(("SOP class", "UID"), ((contexts.name_of(uid), uid) for uid in contexts.STORAGE)),
        "worklist": _table(("attribute", "tag", "in"), _worklist()),
        "web": _table(("request", "path"), _web()),
        **_objects(),
    }


def written(text: str, made: dict[str, str]) -> str:
    """The page with these tables in their places. KeyError for a place that has no table."""
    return _MARKED.sub(lambda found: found[1] + made[found[2]] + found[4], text)


def places(text: str) -> set[str]:
    """The places of a page."""
    return {found[2] for found in _MARKED.finditer(text)}


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def _entity() -> Iterator[tuple[object, ...]]:
    yield "Implementation Class UID", IMPLEMENTATION_CLASS_UID
    yield "Implementation Version Name", f"LAMPYRIS_{__version__}"[:16]
    yield "AE title", "LAMPYRIS, or what LAMPYRIS_AET says"
    yield "Application Context", "1.2.840.10008.3.1.1.1"
    yield "Maximum PDU received", f"{server.PDU_BYTES} bytes"
    yield "Associations at a time", server.ASSOCIATIONS
    yield "Associations of one node at a time", server.PER_NODE
    yield "Asynchronous operations", "none (one outstanding)"
    yield "Time to request an association, after connecting", f"{server.ACSE_S:g} s"
    yield "Time to answer a message", f"{server.DIMSE_S:g} s"
    yield "Silence after which an association is ended", f"{server.NETWORK_S:g} s"


def _accepted() -> Iterator[tuple[object, ...]]:
    yield "anything", contexts.name_of("1.2.840.10008.1.1"), "1.2.840.10008.1.1", "uncompressed", "SCP"
    for word in nodes.MAY:
        for one in contexts.accepted((word,), commits=False)[1:]:
            uid = str(one.abstract_syntax)
            if uid not in contexts.STORAGE:
                yield word, contexts.name_of(uid), uid, "uncompressed", "SCP"
        if word in ("store", "retrieve"):
            role = "SCP" if word == "store" else "SCU, by role selection in C-GET"
            yield word, f"{len(contexts.STORAGE)} storage classes: the list below", "", "as stored", role
    yield "be asked for commitment", contexts.name_of(contexts.COMMITMENT), contexts.COMMITMENT, "uncompressed", "SCU"


def _syntaxes(uids: Sequence[str]) -> str:
    return _table(("transfer syntax", "UID"), ((UID(uid).name, uid) for uid in uids))


def _worklist() -> Iterator[tuple[object, ...]]:
    order = Order("site", "P-1", "Zhang^San", "20261121")
    step = step_of(dataclasses.asdict(order))
    for element in step:
        if element.VR != "SQ":
            yield element.keyword, _tag(element.tag), "the procedure"
    for element in step.ScheduledProcedureStepSequence[0]:
        yield element.keyword, _tag(element.tag), "Scheduled Procedure Step Sequence"


def _web() -> Iterator[tuple[object, ...]]:
    for router in dicomweb.ROUTERS:
        for route in router.routes:
            if isinstance(route, APIRoute):
                yield ", ".join(sorted(route.methods)), f"`{route.path.replace(':path', '')}`"


def _tag(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _objects() -> dict[str, str]:
    """Each kind of object written twice, with all that can be known and with next to nothing, and compared."""
    with tempfile.TemporaryDirectory() as folder:
        rich = _written(Path(folder) / "rich", *_known())
        poor = _written(Path(folder) / "poor", *_unknown())
    titles = ("attribute", "tag", "VR", "value")
    return {name: _table(titles, _presence(made, poor[name])) for name, made in rich.items()}


def _presence(rich: Dataset, poor: Dataset) -> Iterator[tuple[object, ...]]:
    """Presence of values in the words of PS3.2: ALWAYS, VNAP (may be empty), ANAP (may be absent), EMPTY."""
    for tag in sorted({*rich.keys(), *poor.keys()}):
        one = rich.get(tag) or poor[tag]
        there = [found is not None and not found.is_empty for found in (rich.get(tag), poor.get(tag))]
        if tag not in rich or tag not in poor:
            presence = "ANAP"
        else:
            presence = "ALWAYS" if all(there) else "VNAP" if any(there) else "EMPTY"
        yield one.keyword or "private", _tag(tag), one.VR, presence


def _known() -> tuple[Study, Provenance]:
    study = Study(
        PatientName="Zhang^San=张^三", PatientID="P-1", PatientSex="F", PatientBirthDate="19700102",
        StudyDate="20261120", StudyTime="101500", StudyDescription="chest", AccessionNumber="A-1",
        InstitutionName="hospital",
    )  # fmt: skip
    acquisition = Acquisition(
        PatientPosition="HFS", DataCollectionCenterPatient=(-3.0, 11.0, 250.0), Manufacturer="maker",
        ManufacturerModelName="model", DeviceSerialNumber="1", StationName="CT3", ProtocolName="Chest",
        BodyPartExamined="CHEST", AcquisitionDateTime="20261120101112.5", AcquisitionType="SPIRAL", KVP=120.0,
        RevolutionTime=0.5, SpiralPitchFactor=1.2, TableFeedPerRotation=48.0, SingleCollimationWidth=0.625,
        TotalCollimationWidth=40.0, DataCollectionDiameter=500.0, GantryDetectorTilt=0.0, FilterType="BODY",
        CTDIvol=0.32, CTDIPhantomDiameter=320.0, dose_fraction=0.1,
    )  # fmt: skip
    recipe = Recipe("routine", "1.0", "soft tissue", (Step.of("dark_air"), Step.of("log")), Step.of("wfbp"), "body")
    provenance = Provenance(
        scan_id="5f" * 32, acquisition=acquisition, recipe=recipe,
        history=(Applied.of("dark_air"), Applied.of("log")), exposure=Exposure(80.0, 500.0, 40.25, "NONE"),
        dose=Dose(0.33, 12.5, 0.45, 301.0), SliceThickness=2.5, ReconstructionAngle=300.0, verdict="look",
        reasons=("noise above 40 HU",),
    )  # fmt: skip
    return study, provenance


def _unknown() -> tuple[Study, Provenance]:
    return Study(), Provenance(scan_id="5f" * 32, acquisition=Acquisition())


def _written(folder: Path, study: Study, provenance: Provenance) -> dict[str, Dataset]:
    """One object of each kind that we write."""
    folder.mkdir()
    values = np.random.default_rng(20261121).normal(20, 300, (4, 6, 9)).astype(np.float32)
    volume = Volume(values, Grid.centred((4, 6, 9), (2.5, 0.75, 0.5), (7.0, -31.0, 4.0)), "HU").place(
        "HFS", (1.0, 2.0, 3.0)
    )
    said = {"study": study, "provenance": provenance, "now": _NOW}
    files = {kind: write_series(volume, folder / kind, kind=kind, **said) for kind in ("ct", "enhanced")}
    files["map"] = write_map(volume, folder / "map", MAPS["noise"], **said)
    assessment = _assessment(known=provenance.recipe is not None)
    documents = write_documents(
        folder / "documents",
        Occasion(study, provenance, _NOW),
        irradiation=Irradiation.of(_projections(provenance), provenance, assessment, "reported"),
        assessment=assessment,
        images=files["ct"],
        keys=choose(upright(volume), None),
    )
    made = {name: pydicom.dcmread(paths[0]) for name, paths in files.items()}
    return made | {path.stem: pydicom.dcmread(path) for path in documents}


def _assessment(*, known: bool) -> Assessment:
    figures = (
        Figure("noise", 31.25, "HU", "computed", (("method", "Christianson 2015"),)),
        Figure("ctdivol", 0.73, "mGy", "reported", (("phantom_mm", 320.0),)),
        Figure("dlp", 4.38, "mGy·cm", "computed", (("over_ranging", "included"),)),
        Figure("ssde", 0.91, "mGy", "estimated", (("factors", "TG-204/220"),)),
        Figure("wed", 29.5, "cm", "computed", (("report", "AAPM 220"),)),
    )
    return Assessment(figures if known else figures[:1], verdict="look", reasons=("look: noise",))


def _projections(provenance: Provenance) -> Projections:
    gantry = Gantry(541.0, 949.0, 7, 11, (1.7, 2.9))
    geometry = Geometry.helical(gantry, views=90, views_per_turn=36, table_feed_mm=-24.0, start_axial_mm=13.0)
    flat = np.zeros(geometry.shape, np.float32)
    energies = np.array([40.0, 80.0])
    known = provenance.recipe is not None
    spectrum = Spectrum(energies, np.array([1e4, 2e4]), energies, 100.0) if known else None
    return Projections(
        flat, flat + 1, geometry, spectrum=spectrum, acquisition=provenance.acquisition,
        exposure_mas=np.full(90, 0.4), scan_id=provenance.scan_id,
    )  # fmt: skip


def main() -> None:
    PAGE.write_text(written(PAGE.read_text("utf-8"), blocks()), "utf-8")


if __name__ == "__main__":
    main()
