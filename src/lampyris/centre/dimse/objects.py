"""Instances of the index → datasets as a peer takes them: as they are, or decompressed where it takes nothing else."""

import io
from collections.abc import Sequence

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pynetdicom.presentation import PresentationContext

from lampyris.centre.archive.queries import FoundInstance
from lampyris.centre.dimse.contexts import PLAIN, name_of
from lampyris.centre.store import Store
from lampyris.dicom.source import DECODING_ERRORS
from lampyris.model import InputError


class UntakenError(InputError):
    """A peer takes an object neither as it is nor uncompressed."""

    code = "INPUT_NOT_TAKEN"


def load(store: Store, instance: FoundInstance) -> Dataset:
    """An object, its bytes verified. Raises StorageError."""
    return pydicom.dcmread(io.BytesIO(store.get(instance.prefix, instance.sha256)))


def fitted(dataset: Dataset, accepted: Sequence[PresentationContext]) -> Dataset:
    """The object in a transfer syntax that was agreed on. Raises UntakenError.

    What is uncompressed is encoded anew by whoever sends it. What is compressed is sent as it is, or decompressed
    under its own UID: the pixels are the same.
    """
    uid, syntax = str(dataset.SOPClassUID), dataset.file_meta.TransferSyntaxUID
    agreed = {str(one.transfer_syntax[0]) for one in accepted if one.abstract_syntax == uid}
    if syntax in agreed or (syntax in PLAIN and agreed & set(PLAIN)):
        return dataset
    if not agreed & set(PLAIN):
        raise UntakenError(f"the node takes no {name_of(uid)} in {name_of(syntax)}, nor uncompressed")
    try:
        if syntax == DeflatedExplicitVRLittleEndian:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        else:
            dataset.decompress(generate_instance_uid=False)
    except (*DECODING_ERRORS, RuntimeError) as error:
        raise UntakenError(
            f"the node takes no {name_of(syntax)}, which cannot be decompressed here ({type(error).__name__})"
        ) from error
    return dataset
