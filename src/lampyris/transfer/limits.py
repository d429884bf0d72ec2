"""The numbers and patterns of the transfer protocol, version 1: what both sides hold each other to.

`docs/protocol.md` is their meaning; a test keeps the two equal.
"""

import re

PROTOCOL = "lampyris/1"
"""Name and major version, written into every manifest; the path of every request begins with the same major version."""
MINOR = 2
PREFIX = "/v1"

CHUNK_BYTES = 8 << 20
"""Largest chunk, 8 MiB; every body of a PUT is at most this."""
CHUNKS = 32_768
"""Most chunks of one scan: 256 GiB at full size."""
PARTS = 4096
MANIFEST_BYTES = 4 << 20
"""Largest manifest, as the bytes that are signed; the signed form may be a third longer."""
REQUEST_BYTES = MANIFEST_BYTES
"""Largest JSON body of any request."""
SEALED_CHARACTERS = 16_384
PACKING_ENTRIES = 32
MISSING = 1000
"""Most digests that one answer names as missing."""
CALIBRATIONS = 32
"""Most scanners of which a site tells how old their calibration is."""
REPORT_BYTES = 8192
SPOOL_SCANS, SPOOL_BYTES, OLDEST_S = 1 << 30, 1 << 62, 3_200_000_000
"""Most that a site tells of its spool; the oldest is a hundred years."""
IN_FLIGHT = 8
"""Most requests that a site keeps in flight."""

ASSERTION_SECONDS = 300
"""Longest life of an assertion, from its `iat` to its `exp`."""
TOKEN_SECONDS = 300
"""Life of an access token."""
SKEW_SECONDS = 60
"""How far the clocks of site and centre may differ."""

DIGEST = re.compile(r"[0-9a-f]{64}")
"""SHA-256, lower-case hexadecimal."""
SCAN = re.compile(r"[0-9a-f]{32}")
"""A scan's id: 128 bits that the site chose, lower-case hexadecimal; also the trace id of everything done to it."""
SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(?:/[a-z0-9][a-z0-9._-]{0,63}){0,3}")
"""Name of a part or of a returned file: at most four levels, none beginning with a full stop, lower case alone."""
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,31}")
STATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A scanner, as its site names it."""
TOKEN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""A short word: format of the raw data, codec, recipe."""
MOMENT = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?Z")
"""RFC 3339 in UTC."""
JTI = re.compile(r"[A-Za-z0-9_-]{16,64}")
KEY_ID = re.compile(r"[A-Za-z0-9_-]{43}")
"""RFC 7638 thumbprint (SHA-256) of a public key."""
