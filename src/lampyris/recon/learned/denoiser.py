"""Image and noise level in HU → the image with its noise lowered, by a network kept as an ONNX file, where they lie.

The network (docs/models, docs/decisions/0065) sees three neighbouring slices and the noise level, and takes noise away
from the middle one. It commutes with offsets and scales, and what it takes away has no mean over 16 pixels. The file is
named with its SHA-256, as a recipe must say exactly what was done to an image.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device

from lampyris.model import EngineUnavailable, InputError, RecipeError
from lampyris.projector import HOST, Engine, Memory, name_of

MULTIPLE = 16
"""Rows and columns that the network takes come in multiples of this."""
HALO = 160
"""Pixels beside a tile that the network sees of its neighbours: more than its field of view reaches."""
BLOCK_PIXELS = 2**20
"""Pixels handed to the network at once, some 250 bytes of memory each."""
_PROVIDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    # The processor's numbers: no 10-bit mantissas, and no algorithm that is chosen by a stopwatch.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}),
}


def known() -> tuple[str, ...]:
    """Names of the networks that come with the package."""
    found = (entry.name for entry in _folder().iterdir())
    return tuple(sorted(name.removesuffix(".onnx") for name in found if name.endswith(".onnx")))


def digest_of(name: str) -> str:
    """SHA-256 of the network of that name, for those who write recipes. Raises RecipeError for an unknown name."""
    return hashlib.sha256(_content(name)).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Denoiser:
    """A network ready to run. `tile` pixels is the side of the squares that a larger slice is cut into.

    `memory` is where it runs: images that lie there stay there, those on the host go there and back in blocks.
    """

    session: Any
    name: str
    sha256: str
    memory: Memory = HOST
    tile: int = 1024
    block_pixels: int = BLOCK_PIXELS

    @staticmethod
    def load(name: str, sha256: str, *, threads: int = 0, engine: Engine | None = None) -> "Denoiser":
        """The network of that name, if its file has that SHA-256, run where `engine` works (None: the processor).

        `threads` 0 takes as many as the process may run on. Raises RecipeError for an unknown name and for another
        digest, EngineUnavailable where onnxruntime cannot run there.
        """
        content = _content(name)
        found = hashlib.sha256(content).hexdigest()
        if found != sha256.lower():
            raise RecipeError(
                f"network {name!r} has the SHA-256 {found}, the recipe asks for {sha256}: a recipe of another version?"
            )
        memory = HOST if engine is None else engine.memory
        return Denoiser(_session(content, threads, memory.device), name, found, memory)

    def denoise(self, image_hu: Any, noise_hu: Any) -> Any:
        """The image (slices, rows, columns) with its noise, of standard deviation `noise_hu` (same shape), lowered.

        Beyond the first and last slice, that slice stands for its neighbour. A noise of 0 leaves a voxel as it is. Both
        may lie on the host or where the network runs; what is made lies where the image does. Raises InputError for
        other types or shapes, NaN, or a negative noise, and for arrays on a card where the network runs on the
        processor.
        """
        self._check(image_hu, noise_hu)
        slices, rows, columns = image_hu.shape
        denoised = array_namespace(image_hu).empty_like(image_hu)
        for tile, window, inner in _windows(rows, columns, self.tile):
            image, noise = image_hu[:, *window], noise_hu[:, *window]
            work = partial(self._block, image, noise, denoised[:, *tile], inner)
            most = max(1, self.block_pixels // math.prod(image.shape[1:]))
            for _ in self.memory.in_parts(slices, work, most=most, what=f"network {self.name!r} on slices"):
                pass
        return denoised

    def _block(self, image: Any, noise: Any, denoised: Any, inner: "Place", some: slice) -> None:
        """Some slices of a window, into those of its tile."""
        denoised[some, ...] = self._run(_with_neighbours(image, some), noise[some, ...])[:, *inner]

    def _run(self, image: Any, noise: Any) -> Any:
        """Denoised slices (n, rows, columns) from n + 2 of them; reflected at the border up to whole multiples."""
        rows, columns = image.shape[1:]
        there, told = (_padded(self.memory.up(each)) for each in (image, noise))
        xp = array_namespace(there)
        slices, high, wide = told.shape
        # Filled in place: onnxruntime is told where values begin, and takes them in C order whatever an image's is.
        triples, level, found = (
            xp.empty((slices, each, high, wide), dtype=xp.float32, device=device(there)) for each in (3, 1, 1)
        )
        level[:, 0, ...] = told
        for beside in range(3):
            triples[:, beside, ...] = there[beside : beside + slices, ...]
        binding = self.session.io_binding()
        for bind, name, array in (
            (binding.bind_input, "image", triples),
            (binding.bind_input, "level", level),
            (binding.bind_output, "denoised", found),
        ):
            bind(name, self.memory.device, 0, np.float32, tuple(array.shape), _address(array))
        self.memory.wait()  # onnxruntime has a stream of its own, which does not know what is still being worked out
        self.session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        done = found[:, 0, :rows, :columns]
        return done if name_of(image) == name_of(done) else self.memory.down(done)

    def _check(self, image: Any, noise: Any) -> None:
        for name, array in (("image", image), ("noise", noise)):
            known = isinstance(array, np.ndarray) or name_of(array) == self.memory.device
            if not known or array.dtype != np.float32 or array.ndim != 3 or array.size == 0:
                found = f"{array.dtype} {array.shape}" if known else type(array).__name__
                raise InputError(
                    f"{name} is {found}, expected float32 (slices, rows, columns) on the host or where the network runs"
                )
            bad = int(array.size - array_namespace(array).isfinite(array).sum())
            if bad:
                raise InputError(f"{name} holds {bad} NaN or infinite of {array.size} values: a 0/0 upstream?")
        if image.shape != noise.shape:
            raise InputError(f"image is {image.shape}, its noise {noise.shape}: of another grid?")
        if noise.min() < 0:
            raise InputError(f"noise is {float(noise.min()):.3g} HU at its least, expected a standard deviation ≥ 0")


def _folder() -> Any:
    return files("lampyris.recon.learned").joinpath("models")


def _content(name: str) -> bytes:
    if name not in known():
        raise RecipeError(f"there is no network {name!r}; there are {', '.join(known()) or 'none'}")
    return bytes(_folder().joinpath(f"{name}.onnx").read_bytes())


def _session(content: bytes, threads: int, device: str) -> Any:
    import onnxruntime  # here, as it takes a third of a second that only those who denoise should pay

    if device == "cuda":
        onnxruntime.preload_dlls()  # CUDA and cuDNN from wheels, where there are any
    provider, chosen = _PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise EngineUnavailable(
            f"the network is to run on {device!r}, onnxruntime here has"
            f" {', '.join(onnxruntime.get_available_providers())}: install onnxruntime-gpu in place of onnxruntime"
        )
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    # A number of its own choosing would be bound to cores, which containers refuse with a message on stderr.
    options.intra_op_num_threads = threads if threads > 0 else len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(content, options, providers=[(provider, chosen)])
    if session.get_providers()[0] != provider:
        raise EngineUnavailable(
            f"the network is to run on {device!r}, and onnxruntime fell back to {', '.join(session.get_providers())}:"
            " CUDA or cuDNN missing, or of another version than it was built for?"
        )
    return session


def _with_neighbours(image: Any, some: slice) -> Any:
    """These slices with one more on either side; beyond the ends stand the outermost."""
    xp = array_namespace(image)
    beside = np.clip(np.arange(some.start - 1, some.stop + 1), 0, image.shape[0] - 1)
    return xp.take(image, xp.asarray(beside, device=device(image)), axis=0)


def _padded(image: Any) -> Any:
    """Rows and columns reflected at their ends until there are whole multiples of them."""
    xp = array_namespace(image)
    for axis in (1, 2):
        n = image.shape[axis]
        if n % MULTIPLE:
            index = np.pad(np.arange(n), (0, -n % MULTIPLE), mode="symmetric")
            image = xp.take(image, xp.asarray(index, device=device(image)), axis=axis)
    return image


def _address(array: Any) -> int:
    """Where the values of an array in C order begin, in the memory that it lies in."""
    if isinstance(array, np.ndarray):
        return int(array.ctypes.data)
    return int(array.__cuda_array_interface__["data"][0])


Place: TypeAlias = tuple[slice, slice]
"""Rows and columns."""


def _windows(rows: int, columns: int, tile: int) -> Iterator[tuple[Place, Place, Place]]:
    """Tiles that cover a slice, the window that the network sees of each, and the tile within the window."""
    for top, bottom in _tiles(rows, tile):
        for left, right in _tiles(columns, tile):
            high, wide = _reach(top, bottom, rows), _reach(left, right, columns)
            inner = (slice(top - high.start, bottom - high.start), slice(left - wide.start, right - wide.start))
            yield (slice(top, bottom), slice(left, right)), (high, wide), inner


def _tiles(size: int, tile: int) -> list[tuple[int, int]]:
    """Ranges that cover `size`, starting at multiples of `MULTIPLE`."""
    step = max(MULTIPLE, tile // MULTIPLE * MULTIPLE)
    return [(first, min(first + step, size)) for first in range(0, size, step)]


def _reach(first: int, last: int, size: int) -> slice:
    """A range with its neighbours, `HALO` pixels on either side."""
    return slice(max(0, first - HALO), min(size, last + HALO))
