"""Image and noise level in HU → the image with its noise lowered, by a network kept as an ONNX file and run on any CPU.

The network (docs/models, docs/decisions/0065) sees three neighbouring slices and the noise level, and takes noise away
from the middle one. It commutes with offsets and scales, and what it takes away has no mean over 16 pixels. The file is
named with its SHA-256, as a recipe must say exactly what was done to an image.
"""

import hashlib
import os
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from lampyris.model import EngineUnavailable, Float32, InputError, RecipeError

MULTIPLE = 16
"""Rows and columns that the network takes come in multiples of this."""
HALO = 160
"""Pixels beside a tile that the network sees of its neighbours: more than its field of view reaches."""
BLOCK_PIXELS = 2**20
"""Pixels handed to the network at once, some 250 bytes of memory each."""
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def known() -> tuple[str, ...]:
    """Names of the networks that come with the package."""
    found = (entry.name for entry in _folder().iterdir())
    return tuple(sorted(name.removesuffix(".onnx") for name in found if name.endswith(".onnx")))


def digest_of(name: str) -> str:
    """SHA-256 of the network of that name, for those who write recipes. Raises RecipeError for an unknown name."""
    return hashlib.sha256(_content(name)).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Denoiser:
    """A network ready to run. `tile` pixels is the side of the squares that a larger slice is cut into."""

    session: Any
    name: str
    sha256: str
    tile: int = 1024
    block_pixels: int = BLOCK_PIXELS

    @staticmethod
    def load(name: str, sha256: str, *, threads: int = 0, device: str = "cpu") -> "Denoiser":
        """The network of that name, if its file has that SHA-256.

        `threads` 0 takes as many as the process may run on; `device` is "cpu" or "cuda". Raises RecipeError for an
        unknown name or device and for another digest, EngineUnavailable where "cuda" cannot run.
        """
        content = _content(name)
        found = hashlib.sha256(content).hexdigest()
        if found != sha256.lower():
            raise RecipeError(
                f"network {name!r} has the SHA-256 {found}, the recipe asks for {sha256}: a recipe of another version?"
            )
        return Denoiser(_session(content, threads, device), name, found)

    def denoise(self, image_hu: Float32, noise_hu: Float32) -> Float32:
        """The image (slices, rows, columns) with its noise, of standard deviation `noise_hu` (same shape), lowered.

        Beyond the first and last slice, that slice stands for its neighbour. A noise of 0 leaves a voxel as it is.
        Raises InputError for other types or shapes, NaN, or a negative noise.
        """
        _check(image_hu, noise_hu)
        slices, rows, columns = image_hu.shape
        denoised = np.empty_like(image_hu)
        for top, bottom in _tiles(rows, self.tile):
            for left, right in _tiles(columns, self.tile):
                window = (_reach(top, bottom, rows), _reach(left, right, columns))
                inner = (slice(top - window[0].start, bottom - window[0].start),
                         slice(left - window[1].start, right - window[1].start))  # fmt: skip
                pixels = (window[0].stop - window[0].start) * (window[1].stop - window[1].start)
                step = max(1, self.block_pixels // pixels)
                for first in range(0, slices, step):
                    some = slice(first, min(first + step, slices))
                    beside = np.clip(np.arange(some.start - 1, some.stop + 1), 0, slices - 1)
                    part = self._run(image_hu[beside][:, *window], noise_hu[some, *window])
                    denoised[some, top:bottom, left:right] = part[:, *inner]
        return denoised

    def _run(self, image: Float32, noise: Float32) -> Float32:
        """Denoised slices (n, rows, columns) from n + 2 of them; reflected at the border up to whole multiples."""
        rows, columns = image.shape[1:]
        border = ((0, 0), (0, -rows % MULTIPLE), (0, -columns % MULTIPLE))
        padded = np.pad(image, border, mode="symmetric")
        triples = np.stack([padded[:-2], padded[1:-1], padded[2:]], axis=1)
        level = np.pad(noise, border, mode="symmetric")[:, None]
        (found,) = self.session.run(["denoised"], {"image": triples, "level": level})
        return np.asarray(found[:, 0, :rows, :columns], np.float32)


def _folder() -> Any:
    return files("lampyris.recon.learned").joinpath("models")


def _content(name: str) -> bytes:
    if name not in known():
        raise RecipeError(f"there is no network {name!r}; there are {', '.join(known()) or 'none'}")
    return bytes(_folder().joinpath(f"{name}.onnx").read_bytes())


def _session(content: bytes, threads: int, device: str) -> Any:
    import onnxruntime  # here, as it takes a third of a second that only those who denoise should pay

    if device not in _PROVIDERS:
        raise RecipeError(f"device {device!r} is unknown; known are {', '.join(_PROVIDERS)}")
    provider = _PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise EngineUnavailable(
            f"device {device!r} was asked for, onnxruntime here has {', '.join(onnxruntime.get_available_providers())}:"
            " install onnxruntime-gpu and a driver"
        )
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    # A number of its own choosing would be bound to cores, which containers refuse with a message on stderr.
    options.intra_op_num_threads = threads if threads > 0 else len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(content, options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise EngineUnavailable(f"device {device!r} was asked for, onnxruntime fell back to {session.get_providers()}")
    return session


def _check(image: Float32, noise: Float32) -> None:
    for name, array in (("image", image), ("noise", noise)):
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != 3 or array.size == 0:
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f"{name} is {found}, expected float32 (slices, rows, columns)")
        bad = int(array.size - np.isfinite(array).sum())
        if bad:
            raise InputError(f"{name} holds {bad} NaN or infinite of {array.size} values: a 0/0 upstream?")
    if image.shape != noise.shape:
        raise InputError(f"image is {image.shape}, its noise {noise.shape}: of another grid?")
    if noise.min() < 0:
        raise InputError(f"noise is {noise.min():.3g} HU at its least, expected a standard deviation ≥ 0")


def _tiles(size: int, tile: int) -> list[tuple[int, int]]:
    """Ranges that cover `size`, starting at multiples of `MULTIPLE`."""
    step = max(MULTIPLE, tile // MULTIPLE * MULTIPLE)
    return [(first, min(first + step, size)) for first in range(0, size, step)]


def _reach(first: int, last: int, size: int) -> slice:
    """A range with its neighbours, `HALO` pixels on either side."""
    return slice(max(0, first - HALO), min(size, last + HALO))
