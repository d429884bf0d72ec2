"""Instances and a node → each sent, by C-STORE or by STOW-RS, and what became of each.

C-STORE for whoever speaks DICOM; STOW-RS where the operator says that a node takes it: ten times as fast between
servers, for it waits for no answer to each object.
"""

import json
import secrets
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
from pynetdicom import AE
from pynetdicom.association import Association

from lampyris.centre.archive.queries import FoundInstance
from lampyris.centre.dimse import contexts, nodes
from lampyris.centre.dimse.nodes import Node, NodeError
from lampyris.centre.dimse.objects import UntakenError, fitted, load
from lampyris.centre.settings import Settings
from lampyris.centre.store import Store

_WAIT_S = 10.0
_TAKES_S = 120.0
_BATCH_BYTES = 32 << 20
_OUT_OF_RESOURCES = range(0xA700, 0xA800)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one instance: taken, or why not."""

    instance: FoundInstance
    refused: str | None = None


def send(settings: Settings, store: Store, node: Node, instances: Sequence[FoundInstance]) -> Iterator[Outcome]:
    """Send these in their order; what became of each, as it becomes known. Raises NodeError, StorageError."""
    yield from (_stow if node.stow else _c_store)(settings, store, node, instances)


def _c_store(settings: Settings, store: Store, node: Node, instances: Sequence[FoundInstance]) -> Iterator[Outcome]:
    proposals = contexts.proposed(((one.class_uid, one.syntax_uid) for one in instances), node.syntaxes)
    entity = AE(settings.aet)
    entity.connection_timeout = entity.acse_timeout = _WAIT_S
    entity.dimse_timeout = entity.network_timeout = _TAKES_S
    for proposed in proposals:
        classes = {one.abstract_syntax for one in proposed}
        association = nodes.reach(entity, settings, node, contexts=proposed, max_pdu=0)
        try:
            for one in instances:
                if one.class_uid in classes:
                    yield Outcome(one, _stored(association, node, store, one))
        finally:
            if association.is_established:
                association.release()


def _stored(association: Association, node: Node, store: Store, instance: FoundInstance) -> str | None:
    """Send one; None when it was taken, warnings included, else why not."""
    try:
        dataset = fitted(load(store, instance), association.accepted_contexts)
        status = getattr(association.send_c_store(dataset), "Status", None)
    except UntakenError as error:
        return str(error)
    except (RuntimeError, ValueError) as error:
        raise NodeError(f"the association with {node.aet} ended ({type(error).__name__})") from error
    if status is None:
        raise NodeError(f"node {node.aet} did not answer within {_TAKES_S:g} s")
    if status in _OUT_OF_RESOURCES:
        raise NodeError(f"node {node.aet} has no room (status {status:04X})")
    return None if status == 0 or status >> 12 == 0xB else f"status {status:04X}"


def _stow(settings: Settings, store: Store, node: Node, instances: Sequence[FoundInstance]) -> Iterator[Outcome]:
    assert node.stow is not None
    verify = ssl.create_default_context()
    if settings.dicom_tls is not None:
        verify = nodes.trusting(settings)
    limits, key = httpx.Timeout(_TAKES_S, connect=_WAIT_S), nodes.stow_key(settings, node)
    headers = {} if key is None else {"Authorization": key}
    with httpx.Client(verify=verify, trust_env=False, timeout=limits, headers=headers) as client:
        for batch in _batches(instances):
            refused = _posted(client, node, store, batch)
            for one in batch:
                yield Outcome(one, refused.get(one.uid))


def _batches(instances: Sequence[FoundInstance]) -> Iterator[list[FoundInstance]]:
    batch: list[FoundInstance] = []
    for one in instances:
        if batch and sum(each.bytes for each in batch) + one.bytes > _BATCH_BYTES:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _posted(client: httpx.Client, node: Node, store: Store, batch: Sequence[FoundInstance]) -> dict[str, str]:
    """Post some; why which were refused, by their UIDs (PS3.18 10.5)."""
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    parts = (piece for one in batch for piece in (head, store.get(one.prefix, one.sha256), b"\r\n"))

    def body() -> Iterator[bytes]:
        yield from parts
        yield f"--{boundary}--\r\n".encode()

    assert node.stow is not None
    told = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Accept": "application/dicom+json",
    }
    try:
        answer = client.post(node.stow, content=body(), headers=told)
    except httpx.HTTPError as error:
        raise NodeError(f"STOW-RS of {node.aet} does not answer ({type(error).__name__})") from error
    if answer.status_code in (429, 500, 502, 503, 504, 507):
        raise NodeError(f"STOW-RS of {node.aet} answers {answer.status_code}")
    if answer.status_code not in (200, 202, 409):
        return dict.fromkeys((one.uid for one in batch), f"STOW-RS answers {answer.status_code}")
    return _refused(answer)


def _refused(answer: httpx.Response) -> dict[str, str]:
    try:
        failed = answer.json().get("00081198", {}).get("Value", [])
        return {one["00081155"]["Value"][0]: f"reason {int(one['00081197']['Value'][0]):04X}" for one in failed}
    except (json.JSONDecodeError, AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise NodeError("the answer of STOW-RS is not that of PS3.18: is the address that of a STOW-RS?") from None
