"""Blocks of counts ↔ self-describing bytes: exactly, or in steps of the noise; and which of the two a scan is given."""

from lampyris.raw.codec.chunk import Chunk, decode, encode, unwrap, wrap
from lampyris.raw.codec.policy import CODINGS, Decision, Policy
from lampyris.raw.codec.steps import coding_of, quantise, restore

__all__ = [
    "CODINGS",
    "Chunk",
    "Decision",
    "Policy",
    "coding_of",
    "decode",
    "encode",
    "quantise",
    "restore",
    "unwrap",
    "wrap",
]
