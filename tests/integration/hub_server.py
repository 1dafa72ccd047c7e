"""A model hub on this machine: what `snapshot_download` asks of one, and faults that a real one has."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

REVISION = "a" * 40


@dataclass
class Hub:
    """Its repositories, each a name and files; what it was asked, with the authorization that came along."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str | None = None  # who does not show it sees no repository
    holds_back: str = ""  # a file of which only the first half is sent
    cut_once: bool = False  # the next large file breaks off in its middle
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, authorization
    ranges: list[str] = field(default_factory=list)  # from where files were asked for, as `bytes=5-`

    def fetched(self) -> list[str]:
        """The files that were asked for whole or in part, in order."""
        return [path.rpartition("/")[2] for method, path, _ in self.asked if method == "GET" and "/resolve/" in path]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The one handler."""
        parts = request.path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        if not is_api and "resolve" not in parts:
            return web.Response(status=404)  # what the library asks besides is about no repository
        authorization = request.headers.get("authorization", "")
        self.asked.append((request.method, request.path, authorization))
        name = "/".join(parts[2:4] if is_api else parts[:2])
        files = self.repositories.get(name)
        if files is None or (self.token is not None and authorization != f"Bearer {self.token}"):
            # As the real one answers: it does not tell a stranger what there is.
            return web.json_response({"error": "who?"}, status=401, headers={"X-Error-Code": "RepoNotFound"})
        if is_api:
            return _described(name, files, parts[4:5] == ["tree"])
        content = files.get("/".join(parts[4:]))
        if content is None:
            return web.json_response({"error": "?"}, status=404, headers={"X-Error-Code": "EntryNotFound"})
        return await self._file(request, content)

    async def _file(self, request: web.Request, content: bytes) -> web.StreamResponse:
        start = request.http_range.start or 0
        headers = {
            "X-Repo-Commit": REVISION, "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes",
            "Content-Length": str(len(content) - start),
        }  # fmt: skip
        if "range" in request.headers:
            self.ranges.append(request.headers["range"])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        half = max(start, len(content) // 2)
        await response.write(content[start:half])
        if request.path.endswith(f"/{self.holds_back}"):
            await asyncio.Event().wait()
        if self.cut_once and len(content) > 1000:
            self.cut_once = False
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write(content[half:])
        return response


def _described(name: str, files: dict[str, bytes], as_tree: bool) -> web.Response:
    if not as_tree:
        siblings = [{"rfilename": path} for path in files]
        return web.json_response({"id": name, "modelId": name, "sha": REVISION, "siblings": siblings})
    entries = [
        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for path, content in files.items()
    ]
    return web.json_response(entries)


@asynccontextmanager
async def hub() -> AsyncIterator[Hub]:
    """A running one."""
    made = Hub()
    runner = web.ServerRunner(web.Server(made.answer), shutdown_timeout=0.1)  # type: ignore[arg-type]
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()
