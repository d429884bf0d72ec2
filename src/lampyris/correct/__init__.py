"""Raw counts → line integrals with their weights: one file for each correction, `chain` puts them in order."""

from lampyris.correct.bone import BONE, bone_beam_hardening
from lampyris.correct.chain import ORDER, correct

__all__ = ["BONE", "ORDER", "bone_beam_hardening", "correct"]
