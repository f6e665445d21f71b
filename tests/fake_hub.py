"""A model hub by script: the routes that `huggingface_hub` 2 asks, answered as huggingface.co does.

From its documentation and its client's own error handling (read 2026-11): an unknown or private
repository is 401 with `X-Error-Code: RepoNotFound` to a client without a token, a gated one 403
with `GatedRepo`, an unknown file 404 with `EntryNotFound`; large files are a 302 to a CDN with
`X-Linked-Etag` and `X-Linked-Size`; a renamed repository is a 307. And two things that stand
between a user and the hub: a proxy that answers with a page of its own, and silence.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

Mood = Literal["gated", "limited", "proxy", "proxy_refuses", "silent", "down", "bad_token"]
COMMIT = "c0ffee" + "0" * 34


@dataclass
class FakeHub:
    """`repositories` are folders by name; `moods` what befalls requests for one of them, "" for
    all; `renamed` new names by old ones. `requests` are the paths that were asked for."""

    repositories: dict[str, Path] = field(default_factory=dict)
    moods: dict[str, Mood] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def app(self) -> Starlette:
        api = "/api/models/{name:path}"
        return Starlette(
            routes=[
                Route("/api/models", self._guarded(self._list)),
                Route(f"{api}/tree/{{revision}}", self._guarded(self._tree)),
                Route(f"{api}/revision/{{revision}}", self._guarded(self._info)),
                Route(api, self._guarded(self._info)),
                Route("/cdn/{name:path}/-/{file:path}", self._from_cdn),
                Route("/{name:path}/resolve/{revision}/{file:path}", self._guarded(self._resolve)),
            ]
        )

    def _guarded(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            self.requests.append(request.url.path)
            name = request.path_params.get("name", "")
            mood = self.moods.get(name) or self.moods.get("")
            if mood is not None:
                return await _moody(mood, request)
            if name in self.renamed:
                url = str(request.url).replace(name, self.renamed[name], 1)
                return RedirectResponse(url, 307)
            if name and name not in self.repositories:
                return _refused(401, "RepoNotFound", "Invalid username or password.")
            return await answer(request)

        return guarded

    async def _list(self, request: Request) -> Response:
        return JSONResponse([{"id": name} for name in self.repositories])

    async def _info(self, request: Request) -> Response:
        name = request.path_params["name"]
        if request.path_params.get("revision", "main") not in ("main", COMMIT):
            return _refused(404, "RevisionNotFound", "Invalid rev id: it does not exist")
        folder = self.repositories[name]
        files = [{"rfilename": file} for file in _files(folder)]
        config = {"model_type": "bert", "architectures": ["BertModel"]}
        made = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "gated": False}
        return JSONResponse({**made, "siblings": files, "config": config})

    async def _tree(self, request: Request) -> Response:
        folder = self.repositories[request.path_params["name"]]
        return JSONResponse([_entry(folder, file) for file in _files(folder)])

    async def _resolve(self, request: Request) -> Response:
        name, file = request.path_params["name"], request.path_params["file"]
        path = self.repositories[name] / file
        if not path.is_file():
            return _refused(404, "EntryNotFound", "Entry not found")
        data = path.read_bytes()
        if _is_large(file):
            cdn = str(request.base_url).replace(
                "127.0.0.1", "localhost"
            )  # another host to a client
            return RedirectResponse(
                f"{cdn}cdn/{name}/-/{file}",
                302,
                headers={
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
                    "X-Linked-Size": str(len(data)),
                },
            )
        etag = f'"{_blob_id(data)}"'
        return Response(data, headers={"X-Repo-Commit": COMMIT, "ETag": etag})

    async def _from_cdn(self, request: Request) -> Response:
        data = (
            self.repositories[request.path_params["name"]] / request.path_params["file"]
        ).read_bytes()
        return Response(data, headers={"ETag": f'"{hashlib.sha256(data).hexdigest()}"'})


async def _moody(mood: Mood, request: Request) -> Response:
    match mood:
        case "gated":
            return _refused(403, "GatedRepo", "Access to this model is restricted.")
        case "limited":
            return Response("We had to rate limit you.", 429, {"retry-after": "300"})
        case "proxy":
            return HTMLResponse("<html><title>Sign in to the network</title></html>")
        case "proxy_refuses":
            return HTMLResponse("<html>This site is blocked.</html>", 403)
        case "silent":
            while not await request.is_disconnected():
                await asyncio.sleep(0.05)
            return Response()
        case "down":
            return Response("Bad gateway", 502)
        case "bad_token":
            return _refused(401, "", "Invalid credentials in Authorization header")


def _refused(status: int, code: str, message: str) -> Response:
    headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
    return JSONResponse({"error": message}, status, headers)


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def _is_large(file: str) -> bool:
    return file.endswith((".safetensors", ".bin", ".gguf"))


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _entry(folder: Path, file: str) -> dict[str, Any]:
    data = (folder / file).read_bytes()
    made: dict[str, Any] = {"type": "file", "path": file, "size": len(data), "oid": _blob_id(data)}
    if _is_large(file):
        digest = hashlib.sha256(data).hexdigest()
        made["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
    return made
