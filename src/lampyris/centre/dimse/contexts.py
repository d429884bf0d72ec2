"""Nothing → the presentation contexts that we accept and propose: the one list that code, tests and statement share.

SOP classes are those of PS3.4 as pynetdicom names them; a node is offered what it may ask for, nothing else.
"""

from collections.abc import Iterable, Sequence

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""For everything but stored objects, the preferred one first."""
COMPRESSED = (
    JPEGLosslessSV1, JPEGLossless, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL, RLELossless,
    JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K, DeflatedExplicitVRLittleEndian,
)  # fmt: skip
"""Kept as they come: an object is stored and given back in the transfer syntax that it was sent in."""
STORAGE: tuple[str, ...] = tuple(str(one.abstract_syntax) for one in AllStoragePresentationContexts)
FIND: tuple[str, ...] = (StudyRootQueryRetrieveInformationModelFind, PatientRootQueryRetrieveInformationModelFind)
MOVE: tuple[str, ...] = (StudyRootQueryRetrieveInformationModelMove, PatientRootQueryRetrieveInformationModelMove)
GET: tuple[str, ...] = (StudyRootQueryRetrieveInformationModelGet, PatientRootQueryRetrieveInformationModelGet)
PATIENT_ROOT = frozenset((FIND[1], MOVE[1], GET[1]))
WORKLIST: str = ModalityWorklistInformationFind
COMMITMENT: str = StorageCommitmentPushModel
_CLASSES: dict[str, tuple[str, ...]] = {
    "query": FIND,
    "retrieve": (*MOVE, *GET),
    "worklist": (WORKLIST,),
    "mpps": (ModalityPerformedProcedureStep,),
}
_MOST = 128
"""Presentation contexts of one association (PS3.8 section 9.3.2.2)."""


def accepted(may: Sequence[str], *, commits: bool) -> list[PresentationContext]:
    """What a node is offered that may do this; with `commits` it may report on what it was asked to commit to.

    Storage has the roles of both sides: a node that stores is SCU; one that retrieves by C-GET is SCP of what it gets.
    """
    found = [build_context(Verification, list(PLAIN))]
    for word, classes in _CLASSES.items():
        if word in may:
            found += [build_context(one, list(PLAIN)) for one in classes]
    if "commitment" in may or commits:
        one = build_context(COMMITMENT, list(PLAIN))
        one.scu_role, one.scp_role = "commitment" in may, commits
        found.append(one)
    if "store" in may or "retrieve" in may:
        for uid in STORAGE:
            one = build_context(uid, [*PLAIN, *COMPRESSED])
            one.scu_role, one.scp_role = "store" in may, "retrieve" in may
            found.append(one)
    return found


def proposed(objects: Iterable[tuple[str, str]], offered: Sequence[str]) -> list[list[PresentationContext]]:
    """What to propose for these pairs of SOP class and transfer syntax: for each association its contexts.

    Each class is proposed in the syntax of its objects, and uncompressed, in a context each, so that the peer's choice
    among syntaxes never loses one. With `offered` nothing but these is proposed.
    """
    wanted: dict[str, set[str]] = {}
    for uid, syntax in objects:
        wanted.setdefault(uid, set()).add(syntax)
    groups: list[list[PresentationContext]] = [[]]
    for uid in sorted(wanted):
        allowed = set(offered) or wanted[uid] | set(PLAIN)
        contexts = [build_context(uid, [one]) for one in sorted(allowed - set(PLAIN))]
        if plain := [one for one in PLAIN if one in allowed]:
            contexts.append(build_context(uid, plain))
        if len(groups[-1]) + len(contexts) > _MOST:
            groups.append([])
        groups[-1] += contexts
    return groups


def name_of(uid: str) -> str:
    """A UID's name in PS3.6."""
    return str(UID(uid).name)
