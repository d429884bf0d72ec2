"""What site and centre agree on: manifests, signatures, tokens and messages of the transfer protocol, and its limits.

Light on purpose: the agent beside a gantry imports this, and neither a projector nor a database comes with it.
"""

from lampyris.transfer import limits
from lampyris.transfer.manifest import PRIORITIES, STUDY, Chunk, Manifest, Part, PlannedImage, Priority, parse_parts
from lampyris.transfer.messages import (
    STATES,
    TERMINAL,
    Enrolment,
    Problem,
    ReturnedFile,
    ReturnedSeries,
    ScanStatus,
    SiteReport,
    State,
)
from lampyris.transfer.signing import (
    PublicKey,
    SignatureError,
    SignedManifest,
    SiteKey,
    key_id,
    manifest_of,
    public_key,
    sign_manifest,
    verify_manifest,
)
from lampyris.transfer.strict import Fields, ManifestError, parse_object
from lampyris.transfer.tokens import (
    ASSERTION_TYPE,
    Assertion,
    EnrolmentRequest,
    assertion,
    check_assertion,
    check_enrolment,
    enrolment_request,
    new_code,
    plain_code,
)

__all__ = [
    "ASSERTION_TYPE", "PRIORITIES", "STATES", "STUDY", "TERMINAL", "Assertion", "Chunk", "Enrolment",
    "EnrolmentRequest", "Fields", "Manifest", "ManifestError", "Part", "PlannedImage", "Priority", "Problem",
    "PublicKey", "ReturnedFile", "ReturnedSeries", "ScanStatus", "SignatureError", "SignedManifest", "SiteKey",
    "SiteReport", "State",
    "assertion", "check_assertion", "check_enrolment", "enrolment_request", "key_id", "limits", "manifest_of",
    "new_code", "parse_object", "parse_parts", "plain_code", "public_key", "sign_manifest", "verify_manifest",
]  # fmt: skip
