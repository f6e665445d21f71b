"""A model hub by script: the routes that `huggingface_hub` 2 asks, answered as huggingface.co does.

From its documentation and its client's own error handling (read 2026-11): an unknown or private
repository is 401 with `X-Error-Code: RepoNotFound` to a client without a token, a gated one 403
with `GatedRepo`, an unknown file 404 with `EntryNotFound`; large files are a 302 to a CDN with
`X-Linked-Etag` and `X-Linked-Size`; a renamed repository is a 307. Who writes needs a token: a
repository that is there already is a 409, its files are told apart by `preupload`, large ones are
put where the LFS batch says, and a commit names them by their digest. And two things that stand
between a user and the hub: a proxy that answers with a page of its own, and silence.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

Mood = Literal[
    *("gated", "limited", "proxy", "proxy_refuses", "silent", "down", "bad_token"),
    *("drips", "other_json", "list", "null", "config_list"),
]
OTHER_JSON = {
    "other_json": {"error": "login"},
    "list": [],
    "null": None,
    "config_list": {"id": "x", "config": [1, 2]},
}
"""What a server that is no hub answers with status 200."""
COMMIT = "c0ffee" + "0" * 34


@dataclass
class FakeHub:
    """`repositories` are folders by name; `moods` what befalls requests for one of them, "" for
    all; `renamed` new names by old ones. `requests` are the paths that were asked for."""

    repositories: dict[str, Path] = field(default_factory=dict)
    moods: dict[str, Mood] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    token: str = "hf_writes"
    """Who has it may write to the repositories of `root`'s owner `acme`."""
    root: Path | None = None
    """Where repositories are made; None: nobody may write."""
    private: set[str] = field(default_factory=set)
    cdn_host: str = "localhost"
    """Where large files are: another host to a client than the one that it asks."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files that were put, by their SHA-256, which no commit may name before."""

    def app(self) -> Starlette:
        api = "/api/models/{name:path}"
        return Starlette(
            routes=[
                Route("/api/models", self._guarded(self._list)),
                Route("/api/validate-yaml", self._validate, methods=["POST"]),
                Route("/api/repos/create", self._writing(self._create), methods=["POST"]),
                Route(
                    f"{api}/preupload/{{revision}}",
                    self._writing(self._preupload),
                    methods=["POST"],
                ),
                Route(f"{api}/commit/{{revision}}", self._writing(self._commit), methods=["POST"]),
                Route(
                    "/{name:path}.git/info/lfs/objects/batch",
                    self._writing(self._lfs_batch),
                    methods=["POST"],
                ),
                Route("/lfs/{oid}", self._put_object, methods=["PUT"]),
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

    def _writing(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def writing(request: Request) -> Response:
            self.requests.append(request.url.path)
            if (mood := self.moods.get("")) is not None:
                return await _moody(mood, request)
            if request.headers.get("authorization") != f"Bearer {self.token}":
                return _refused(401, "", "Invalid credentials in Authorization header")
            name = request.path_params.get("name")
            if name is not None and name not in self.repositories:
                return _refused(404, "RepoNotFound", "Repository not found")
            return await answer(request)

        return writing

    async def _create(self, request: Request) -> Response:
        asked = await request.json()
        name = f"{asked['organization']}/{asked['name']}"
        if self.root is None or asked["organization"] != "acme":
            return _refused(403, "", "You don't have the rights to create a model under it")
        made = {"url": f"{request.base_url}{name}", "name": name, "id": name}
        if name in self.repositories:
            message = "You already created this model repo"
            return JSONResponse({"error": message, **made}, 409, {"X-Error-Message": message})
        if asked.get("visibility") == "private":
            self.private.add(name)
        self.repositories[name] = self.root / name
        self.repositories[name].mkdir(parents=True)
        return JSONResponse(made)

    async def _validate(self, request: Request) -> Response:
        """The head of a card; the hub knows more that is wrong."""
        head = (await request.json())["content"].split("---")[1]
        base = yaml.safe_load(head).get("base_model", "")
        if " " in base:
            message = f'"base_model" with value "{base}" is not valid.'
            return JSONResponse({"errors": [{"message": message}], "warnings": []}, 400)
        return JSONResponse({"errors": [], "warnings": []})

    async def _preupload(self, request: Request) -> Response:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if _is_large(file["path"]) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in (await request.json())["files"]
        ]
        return JSONResponse({"files": files, "commitOid": COMMIT})

    async def _lfs_batch(self, request: Request) -> Response:
        objects = []
        for one in (await request.json())["objects"]:
            href = f"{request.base_url}lfs/{one['oid']}"
            upload = {} if one["oid"] in self.objects else {"actions": {"upload": {"href": href}}}
            objects.append({"oid": one["oid"], "size": one["size"], **upload})
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _put_object(self, request: Request) -> Response:
        data, oid = await request.body(), request.path_params["oid"]
        if hashlib.sha256(data).hexdigest() != oid:
            return Response("XAmzContentSHA256Mismatch", 400)
        self.objects[oid] = data
        return Response()

    async def _commit(self, request: Request) -> Response:
        """All of its files or none."""
        name = request.path_params["name"]
        files: dict[str, bytes] = {}
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    return _refused(400, "", f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = self.objects[value["oid"]]
        for path, data in files.items():
            target = self.repositories[name] / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        url = f"{request.base_url}{name}/commit/{COMMIT}"
        return JSONResponse({"success": True, "commitOid": COMMIT, "commitUrl": url})

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
            cdn = request.base_url.replace(hostname=self.cdn_host)
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
        case "drips":

            async def drip() -> AsyncIterator[bytes]:
                for _ in range(10_000):
                    yield b" "
                    await asyncio.sleep(0.1)

            return StreamingResponse(drip(), media_type="application/json")
        case "other_json" | "list" | "null" | "config_list":
            return JSONResponse(OTHER_JSON[mood])
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
