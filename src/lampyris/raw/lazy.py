"""A function that loads some views → counts that behave like an array and are read only when they are indexed."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

Load: TypeAlias = Callable[[Sequence[int] | range], np.ndarray]
"""Views by number, ascending when a range → counts (len(views), rows, columns)."""


class LazyCounts:
    """Counts (views, rows, columns) that are loaded view by view.

    The first index chooses views as in numpy (slice, integer, array of integers or booleans), any further ones are
    applied to what was loaded.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: Any, load: Load) -> None:
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._load = load

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LazyCounts{self.shape} {self.dtype}"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("stored counts are read into a new array: copy=False cannot be had")
        return np.asarray(self[:], dtype)

    def __getitem__(self, index: Any, /) -> Any:
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        if first is Ellipsis or first is None:
            return self[:][index]
        views: Any = range(len(self))[first] if isinstance(first, slice) else np.arange(len(self))[first]
        if np.ndim(views) == 0:  # one view, by number
            block = self._checked([int(views)])[0]
            return block[tuple(rest)]
        if isinstance(views, range) and views.step < 0:
            block = self._checked(views[::-1])[::-1]
        else:
            block = self._checked(views if isinstance(views, range) else [int(view) for view in views])
        return block[(slice(None), *rest)]

    def _checked(self, views: Sequence[int] | range) -> np.ndarray:
        if not len(views):
            return np.empty((0, *self.shape[1:]), self.dtype)
        return np.asarray(self._load(views), self.dtype)
