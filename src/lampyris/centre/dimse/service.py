"""A centre and an address → its DICOM node, answering and sending, for as long as somebody holds it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from lampyris.centre.dimse import commitment
from lampyris.centre.dimse.scp import query, storing, worklist
from lampyris.centre.dimse.scp.server import Door, Server
from lampyris.centre.dimse.work import working
from lampyris.centre.service import Centre


@asynccontextmanager
async def serve(centre: Centre, address: tuple[str, int], *, tls: bool = False) -> AsyncIterator[int]:
    """Answer nodes; the port. At the end no association is taken, and those that are busy may end.

    Raises MachineError when the address cannot be listened at, or TLS has no certificate.
    """
    door = Door(centre, asyncio.get_running_loop())
    services = (storing, query, worklist, commitment)
    handlers = door.guarded(one for service in services for one in service.handlers(door))
    server = Server(door, address, handlers, tls=tls)
    log = structlog.get_logger()
    log.info("node ready", aet=centre.settings.aet, port=server.port, tls=tls)
    try:
        async with working(door):
            yield server.port
    finally:
        await asyncio.to_thread(server.close)
        log.info("node ended")
