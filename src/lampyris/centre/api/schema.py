"""The shapes of the protocol's bodies → JSON Schema for the OpenAPI document, and how a route refers to them."""

from typing import Any

from lampyris.transfer import PRIORITIES, STATES, STUDY, limits

Schema = dict[str, Any]


def _text(pattern: str | None = None, **more: Any) -> Schema:
    return {"type": "string", **({} if pattern is None else {"pattern": f"^(?:{pattern})$"}), **more}


def _object(required: str, **properties: Schema) -> Schema:
    return {"type": "object", "required": required.split(), "properties": properties}


def _optional(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


DIGEST, SCAN, MOMENT = (_text(each.pattern) for each in (limits.DIGEST, limits.SCAN, limits.MOMENT))
NAME, WORD, SITE = (_text(each.pattern) for each in (limits.NAME, limits.TOKEN, limits.SITE))
NUMBER: Schema = {"type": "integer", "minimum": 0}
_AGE: Schema = {"type": "number", "minimum": 0, "maximum": limits.OLDEST_S}
CHUNK: Schema = {
    "type": "array",
    "prefixItems": [DIGEST, {"type": "integer", "minimum": 1, "maximum": limits.CHUNK_BYTES}],
    "minItems": 2,
    "maxItems": 2,
    "description": "[SHA-256, bytes]",
}
PART = _object(
    "name chunks",
    name=NAME,
    chunks={"type": "array", "items": CHUNK, "minItems": 1, "maxItems": limits.CHUNKS},
    views={"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2},
) | {"additionalProperties": False}
PARTS: Schema = {"type": "array", "items": PART, "maxItems": limits.PARTS}
_PLACE = {"type": "number", "minimum": -10_000, "maximum": 10_000}
MANIFEST = _object(
    "protocol scan site started format parts",
    protocol={"const": limits.PROTOCOL},
    scan=SCAN,
    site=SITE,
    started=MOMENT,
    format=WORD,
    priority={"enum": list(PRIORITIES)},
    recipe=WORD,
    image=_object(
        "field_of_view_mm centre_mm first_mm last_mm",
        field_of_view_mm={"type": "number", "minimum": 1, "maximum": 1000},
        centre_mm={"type": "array", "items": _PLACE, "minItems": 2, "maxItems": 2},
        first_mm=_PLACE,
        last_mm=_PLACE,
    )
    | {"additionalProperties": False},
    packing={
        "type": "object",
        "maxProperties": limits.PACKING_ENTRIES,
        "propertyNames": WORD,
        "additionalProperties": {"anyOf": [_text(r"[\x20-\x7e]{0,128}"), {"type": "number"}, {"type": "boolean"}]},
    },
    study={
        "type": "object",
        "properties": {name: _text(form.pattern) for name, form in STUDY.items()},
        "additionalProperties": False,
    },
    sealed=_text(r"[\x21-\x7e]+", maxLength=limits.SEALED_CHARACTERS),
    content=DIGEST,
    parts=PARTS,
) | {"additionalProperties": False}
STATUS = _object(
    "scan state priority updated received_bytes",
    scan=SCAN,
    state={"enum": list(STATES)},
    priority={"enum": list(PRIORITIES)},
    updated=MOMENT,
    received_bytes=NUMBER,
    manifest=_optional(DIGEST),
    reason=_optional(_object("code message", code=_text(), message=_text())),
    station=_optional(_text()),
    progress={"type": "number", "minimum": 0, "maximum": 1},
    returned={"type": "boolean"},
)
SERIES = _object(
    "scan cursor made verdict files digest",
    scan=SCAN,
    cursor=NUMBER,
    made=MOMENT,
    verdict=_text(),
    sealed=_optional(_text()),
    digest=DIGEST,
    files={"type": "array", "items": _object("name bytes sha256", name=NAME, bytes=NUMBER, sha256=DIGEST)},
)
PROBLEM = _object(
    "type status code detail retry",
    type=_text(),
    status=NUMBER,
    code=_text(),
    detail=_text(),
    retry={"type": "boolean"},
    missing={"type": "array", "items": DIGEST},
)
ENROLMENT = _object("site key_id audience", site=SITE, key_id=_text(limits.KEY_ID.pattern), audience=_text())
TOKEN = _object("access_token token_type expires_in", access_token=_text(), token_type=_text(), expires_in=NUMBER)
MISSING = _object("missing more", missing={"type": "array", "items": DIGEST}, more={"type": "boolean"})
REPORT = _object(
    "version spool_scans spool_bytes oldest_s",
    version=_text(limits.VERSION.pattern),
    spool_scans=NUMBER | {"maximum": limits.SPOOL_SCANS},
    spool_bytes=NUMBER | {"maximum": limits.SPOOL_BYTES},
    oldest_s=_AGE,
    calibrations={
        "type": "object",
        "maxProperties": limits.CALIBRATIONS,
        "propertyNames": _text(limits.STATION.pattern),
        "additionalProperties": _AGE,
    },
) | {"additionalProperties": False}
ABOUT = _object("protocol minor limits", protocol=_text(), minor=NUMBER, limits={"type": "object"})
JOSE, JSON, BYTES = "application/jose", "application/json", "application/octet-stream"
FORM, EVENTS, PROBLEMS = "application/x-www-form-urlencoded", "text/event-stream", "application/problem+json"
ANSWERS = {
    400: "malformed",
    401: "no access token, or not a good one",
    403: "the code is not good",
    404: "there is no such thing of this site",
    408: "the body stood still",
    409: "the scan's state or content does not allow it, or chunks are missing",
    411: "no Content-Length",
    413: "too long",
    415: "another media type than this one",
    416: "no such range",
    422: "it breaks a rule of the protocol",
    429: "this site has enough under way: wait",
    503: "the centre has enough under way: wait",
}


def listed(name: str, items: Schema) -> Schema:
    return _object(name, **{name: {"type": "array", "items": items}})


def described(
    answers: dict[int, Schema | str | None], refusals: tuple[int, ...] = (), *, body: tuple[str, Schema] | None = None
) -> dict[str, Any]:
    """Arguments of a route: what it answers (a schema, a media type, nothing), what it may refuse, what it is sent."""
    always = (503,) if not refusals else (*refusals, 429, 503)
    problem = {"content": {PROBLEMS: {"schema": PROBLEM}}}
    responses: dict[int | str, Any] = {each: {"description": ANSWERS[each], **problem} for each in always}
    for status, answer in answers.items():
        responses[status] = {"description": "done"}
        if isinstance(answer, str):
            responses[status]["content"] = {answer: {"schema": {"type": "string", "format": "binary"}}}
        elif answer is not None:
            responses[status]["content"] = {JSON: {"schema": answer}}
    extra = {} if body is None else {"requestBody": {"required": True, "content": {body[0]: {"schema": body[1]}}}}
    return {"responses": responses, "openapi_extra": extra}
