"""The first chunks of an open scan → what they determine, in the store; more of it with every further chunk."""

import shutil
from collections.abc import Callable
from pathlib import Path

from lampyris import raw
from lampyris.ahead import Ahead, no_slices
from lampyris.centre.jobs.early import FORMAT
from lampyris.centre.jobs.reconstruct import recipe_of
from lampyris.centre.jobs.shelf import EarlyShelf, UsedUpError
from lampyris.centre.recipes.choice import Library
from lampyris.centre.store import Store, raw_prefix
from lampyris.transfer import Chunk, Manifest

_FILE = "scan.lraw.arriving"


class Arriving:
    """One scan in a folder of its own, which is emptied for it; goes on where it was when there is more."""

    def __init__(
        self, store: Store, skeleton: Manifest, folder: Path, *, library: Library, engine: str = "cpu"
    ) -> None:
        self.skeleton = skeleton
        self._store, self._folder, self._library, self._engine = store, folder, library, engine
        self._laid: tuple[Chunk, ...] = ()
        self._ahead: Ahead | None = None
        self._begin()

    def go_on(self, chunks: tuple[Chunk, ...], room: int, kept: Callable[[int], None]) -> str:
        """Make what these chunks determine; in words, how far that went. `kept` is told how many bytes were kept.

        Raises what reading and the stations raise.
        """
        if self.skeleton.format != FORMAT:
            return f"the format {self.skeleton.format} is not read before it is whole"
        if chunks[: len(self._laid)] != self._laid:
            self._begin()
        self._lay_out(chunks)
        coming = raw.coming(self._folder / _FILE)
        if coming is None:
            return "no turn is whole"
        recipe = recipe_of(self.skeleton, self._library, coming.scan)
        self._shelf.over(coming.scan, recipe, coming.ends, chunks)
        self._shelf.room, told = self._shelf.kept_bytes + room, self._shelf.kept_bytes
        began = told
        if self._ahead is None:
            self._ahead = Ahead(recipe, self._shelf, engine=self._engine)
        try:
            for _ in self._ahead.go_on(coming.scan, coming.views):
                if self._shelf.kept_bytes > told:
                    told = self._shelf.kept_bytes
                    kept(told - began)
        except UsedUpError:
            return f"{coming.views} of {coming.scan.views} views: the site's share is used up"
        reason = no_slices(coming.scan, recipe, self._engine)
        what = "corrections and slices" if reason is None else f"corrections alone: {reason}"
        return f"{coming.views} of {coming.scan.views} views: {what}"

    def _begin(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._laid, self._ahead = (), None
        self._shelf = EarlyShelf(self._store, self.skeleton.site, self.skeleton.scan)

    def _lay_out(self, chunks: tuple[Chunk, ...]) -> None:
        with (self._folder / _FILE).open("ab") as file:
            for chunk in chunks[len(self._laid) :]:
                file.write(self._store.get(raw_prefix(self.skeleton.site, self.skeleton.scan), chunk.digest))
        self._laid = chunks
