"""A one-time code → a site that the centre knows: its key, made here, and the name that the centre gave it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from lampyris.durable import sync
from lampyris.model import FormatError, InputError, MachineError, StorageError
from lampyris.model.arrays import canonical_json
from lampyris.site.store.files import write
from lampyris.transfer import Enrolment, ManifestError, Problem, SiteKey, enrolment_request, limits

_KEY, _SITE = "site.key", "site.json"


@dataclass(frozen=True, slots=True)
class Site:
    """Who this is: the enrolment and the key that belongs to it."""

    enrolment: Enrolment
    key: SiteKey

    @staticmethod
    def load(folder: Path) -> "Site":
        """Raises InputError when the site is not enrolled, else what reading a key raises."""
        path = folder / _SITE
        if not path.exists():
            raise InputError(
                "this site is not enrolled: run `lampyris site enrol CODE` with the centre's one-time code"
            )
        try:
            enrolment = Enrolment.parse(path.read_bytes())
        except OSError as error:
            raise StorageError(f"{_SITE} cannot be read ({error.strerror})") from error
        key = SiteKey.load(folder / _KEY)
        if key.key_id != enrolment.key_id:
            raise FormatError(f"{_KEY} is not the key that was enrolled ({enrolment.key_id[:8]}…): enrol again")
        return Site(enrolment, key)


def enrol(http: httpx.Client, folder: Path, code: str, *, now: Callable[[], float]) -> Site:
    """Enrol this site; the same code may be tried again after a lost answer, the key stays the same.

    Raises InputError when the centre refuses the code, MachineError when it cannot be reached.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / _KEY
    if not path.exists():
        SiteKey.generate().save(path)
        sync(folder)
    key = SiteKey.load(path)
    body = enrolment_request(code, key, now=int(now()))
    try:
        answer = http.post(f"{limits.PREFIX}/enrolments", content=body, headers={"Content-Type": "application/jose"})
    except httpx.RequestError as error:
        raise MachineError(f"no answer from the centre ({type(error).__name__}): nothing was enrolled") from error
    if answer.status_code != 201:
        problem = Problem.parse(answer.status_code, answer.content)
        kind = MachineError if problem.retry else InputError
        raise kind(f"the centre did not enrol this site: {problem.detail} [{problem.code}]")
    try:
        enrolment = Enrolment.parse(answer.content)
    except ManifestError as error:
        raise MachineError("the answer is no enrolment: a machine in between, or another server?") from error
    if enrolment.key_id != key.key_id:
        raise MachineError("the centre enrolled another key than this site's: another server?")
    write(folder / _SITE, canonical_json(enrolment.as_dict()).encode())
    return Site(enrolment, key)
