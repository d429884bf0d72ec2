"""`python -m bench.link.peers` → a server of the same stack as the centre's that takes a plain PUT, and tus.

The plain PUT is as simple as can be: the body goes into a file, which is synced before the answer. tus is that of
tuspyserver, in its storage that syncs before it advertises an offset. Neither looks at a digest, a token or a database.
"""

import argparse
import asyncio
import os
from pathlib import Path

from fastapi import FastAPI, Request, Response
from granian import Granian
from granian.constants import Interfaces, SSLProtocols

FOLDER = "LAMPYRIS_BENCH_FOLDER"


def application() -> FastAPI:
    from tuspyserver import create_tus_router
    from tuspyserver.storage.local import LocalFileStorage

    folder, app = Path(os.environ[FOLDER]), FastAPI()

    @app.put("/plain/{name}", status_code=204)
    async def put(name: str, request: Request) -> Response:
        with (folder / f"{name}.part").open("wb") as file:
            async for piece in request.stream():
                file.write(piece)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        (folder / f"{name}.part").replace(folder / name)
        return Response(status_code=204)

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        return {"alive": True}

    app.include_router(create_tus_router(prefix="files", files_dir=str(folder), storage=LocalFileStorage(str(folder))))
    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.link.peers")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    chosen = parser.parse_args()
    Granian(
        "bench.link.peers:application",
        factory=True,
        interface=Interfaces.ASGI,
        address=chosen.host,
        port=chosen.port,
        ssl_cert=chosen.tls_cert,
        ssl_key=chosen.tls_key,
        ssl_protocol_min=SSLProtocols.tls12,
        log_enabled=False,
    ).serve()


if __name__ == "__main__":
    main()
