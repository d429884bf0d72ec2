"""`python -m bench.link.clients ours|put|tus URL PLACE` → a file at its server, and a line of JSON: how long it took.

`ours` is the site's agent with a scan that lies packed in its spool; the clock runs from its start until
the centre has committed the scan. `put` sends the whole file and begins again when it breaks. `tus` is tuspy, in pieces
as large as our chunks, and goes on where its server says that it ended. All wait a second after a break. `enrol` lets a
site in.
"""

import argparse
import functools
import json
import ssl
import threading
import time
from pathlib import Path

import httpx

from lampyris.model import MachineError
from lampyris.site import Agent, Config, Site, enrol
from lampyris.site import client as line_to
from lampyris.site.config import CentreLink, Folder, Keeping
from lampyris.transfer import limits

_AGAIN_S = 1.0
_STARTED_S = 60.0
_PIECE = 1 << 20


def enrolled(url: str, place: Path, ca: Path | None, code: str) -> None:
    """Keys of a site in the folder where its agent looks for them, as soon as the server answers."""
    deadline = time.monotonic() + _STARTED_S
    with line_to(CentreLink(url, ca_file=ca)) as http:
        while True:
            try:
                enrol(http, place, code, now=time.time)
                return
            except MachineError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_AGAIN_S)


def config_of(url: str, folder: Path, ca: Path | None) -> Config:
    """The agent's, as it is unless told otherwise."""
    return Config(
        folder, CentreLink(url, ca_file=ca), (Folder("archive", folder / "archive"),), spool=Keeping(free_gb=0.0)
    )


def ours(url: str, place: Path, ca: Path | None, *, control: bool = True) -> tuple[float, int]:
    """When the scan was committed, and how often the line broke; without `control` TCP's is the system's."""
    config, stop = config_of(url, place, ca), threading.Event()
    trusted = ssl.create_default_context(cafile=None if ca is None else str(ca))
    with line_to(config.centre, None if control else httpx.HTTPTransport(verify=trusted)) as http:
        agent = Agent(config, Site.load(place), http)
        (entry,) = agent.spool.having("packed")
        thread = threading.Thread(target=agent.run, args=(stop,))
        thread.start()
        breaks, trouble = 0, None
        while agent.spool.place(entry.scan).state == "packed":
            if agent.link.trouble != trouble:
                trouble = agent.link.trouble
                breaks += trouble is not None
            time.sleep(0.01)
    ended = time.monotonic()
    stop.set()
    thread.join()
    return ended, breaks


def put(url: str, place: Path, ca: Path | None) -> tuple[float, int]:
    verify = True if ca is None else str(ca)
    breaks = 0
    with httpx.Client(verify=verify, trust_env=False, timeout=60.0) as http:
        while True:
            try:
                with place.open("rb") as file:
                    content = iter(lambda: file.read(_PIECE), b"")
                    headers = {"Content-Length": str(place.stat().st_size)}
                    http.put(f"{url}/plain/scan", content=content, headers=headers).raise_for_status()
                return time.monotonic(), breaks
            except httpx.HTTPError:
                breaks += 1
                time.sleep(_AGAIN_S)


def tus(url: str, place: Path, _ca: Path | None) -> tuple[float, int]:
    """Its authority comes from the environment (REQUESTS_CA_BUNDLE): tuspy takes no other."""
    from tusclient import client
    from tusclient.exceptions import TusCommunicationError

    breaks, uploader = 0, None
    while True:
        try:
            if uploader is None:
                uploader = client.TusClient(f"{url}/files/").uploader(
                    str(place),
                    chunk_size=limits.CHUNK_BYTES,
                    metadata={"filename": "scan", "filetype": "application/octet-stream"},
                )
            elif uploader.url:
                uploader.offset = uploader.get_offset()
            uploader.upload()
            return time.monotonic(), breaks
        except TusCommunicationError:
            breaks += 1
            time.sleep(_AGAIN_S)


WAYS = {"ours": ours, "ours-system": functools.partial(ours, control=False), "put": put, "tus": tus}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.link.clients")
    parser.add_argument("kind", choices=("enrol", *WAYS))
    parser.add_argument("url")
    parser.add_argument("place", type=Path, help="the agent's folder, or the file")
    parser.add_argument("--ca", type=Path)
    parser.add_argument("--code")
    chosen = parser.parse_args()
    if chosen.kind == "enrol":
        enrolled(chosen.url, chosen.place, chosen.ca, chosen.code)
        return
    began, processor = time.monotonic(), time.process_time()
    ended, breaks = WAYS[chosen.kind](chosen.url, chosen.place, chosen.ca)
    told = {"seconds": ended - began, "cpu_s": time.process_time() - processor, "breaks": breaks}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
