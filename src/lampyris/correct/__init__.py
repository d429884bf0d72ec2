"""Raw counts → line integrals with their weights: one file for each correction, `chain` puts them in order."""

from lampyris.correct.bone import BONE, bone_beam_hardening
from lampyris.correct.chain import ORDER, WHOLE_SCAN, ahead, correct, made_of

__all__ = ["BONE", "ORDER", "WHOLE_SCAN", "ahead", "bone_beam_hardening", "correct", "made_of"]
