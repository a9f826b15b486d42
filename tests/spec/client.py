"""A client that asks a registry without a network, and holds each answer against what all answers must be."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from blobstore.digest import Algorithm, Digest
from blobstore.server.protocol.messages import BodyInterrupted, FileSpan, Headers, Request, Response, Stream
from blobstore.server.protocol.registry import Registry
from blobstore.testing.fakes import image

NAME = "conformance/repo1"
OTHER = "conformance/repo2"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CODES = frozenset(
    [
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "UNAUTHORIZED",
        "DENIED",
        "UNSUPPORTED",
        "TOOMANYREQUESTS",
    ]
)
"""The specification's codes: a JSON answer of 4xx must have one of them."""


class Body:
    """What a client sends: its pieces, and whether anybody has begun to read them."""

    def __init__(self, *pieces: bytes, breaks_off: bool = False) -> None:
        self.pieces, self.breaks_off, self.was_read = pieces, breaks_off, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.was_read = True
        for piece in self.pieces:
            yield piece
        if self.breaks_off:
            raise BodyInterrupted("the client went away")


class Answer:
    """What came back, its payload read."""

    def __init__(self, response: Response, body: bytes) -> None:
        self.status, self.headers, self.body = response.status, response.headers, body

    def __repr__(self) -> str:
        return f"{self.status} {list(self.headers)} {self.body[:300]!r}"

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        assert value is not None, f"no {name} in {self}"
        return value

    def get(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for each, value in self.headers if each.lower() == name.lower()), None)

    def every(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for each, value in self.headers if each.lower() == name.lower()]

    @property
    def json(self) -> Any:
        """The document it is."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of its first error."""
        return str(self.json["errors"][0]["code"])

    @property
    def next(self) -> str:
        """Where its next page is."""
        link = self["Link"]
        assert link.endswith('>; rel="next"'), link
        return link[1:].partition(">")[0]


class Client:
    """Asks one registry."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.answered: list[Answer] = []

    async def ask(
        self,
        method: str,
        url: str,
        body: bytes | Body | None = None,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        sized: bool = True,
        **parameters: str,
    ) -> Answer:
        """The answer to a request; what is in every answer is checked here."""
        pieces = Body(body) if isinstance(body, bytes) else body
        # By hand: what parses URLs would mend what is to be refused.
        path, _, query = url.removeprefix("https://registry.example").partition("?")
        fields = headers.items() if isinstance(headers, Mapping) else headers
        size = sum(map(len, pieces.pieces)) if pieces is not None and sized and not pieces.breaks_off else None
        response = await self.registry.answer(
            Request(
                method=method,
                path=unquote(path),
                query=[*parse_qsl(query, keep_blank_values=True), *parameters.items()],
                headers=Headers(fields),
                body=aiter(pieces) if pieces is not None else None,
                size_bytes=size,
                scheme="https",
                host="registry.example",
            )
        )
        answer = Answer(response, await read(response))
        self._check(method, response, answer)
        self.answered.append(answer)
        return answer

    def _check(self, method: str, response: Response, answer: Answer) -> None:
        assert answer["Docker-Distribution-API-Version"] == "registry/2.0"
        if method == "HEAD":
            assert answer.body == b"", answer
            if response.status == 200:
                assert int(answer["Content-Length"]) >= 0
        elif not isinstance(response.payload, bytes):
            assert len(answer.body) == response.payload.size_bytes, answer
        if response.status >= 400 and method != "HEAD":
            assert answer["Content-Type"] == "application/json"
            assert answer.json["errors"]
            if response.status < 500:
                assert {each["code"] for each in answer.json["errors"]} <= CODES, answer
        if response.status == 405:
            assert answer.get("Allow") is not None
        if response.status in (204, 304):
            assert answer.body == b""
        for name, value in response.headers:
            assert value == value.strip(), (name, value)
            assert value.isprintable(), (name, value)

    async def get(self, url: str, **options: Any) -> Answer:
        """GET."""
        return await self.ask("GET", url, **options)

    async def head(self, url: str, **options: Any) -> Answer:
        """HEAD."""
        return await self.ask("HEAD", url, **options)

    async def delete(self, url: str, **options: Any) -> Answer:
        """DELETE."""
        return await self.ask("DELETE", url, **options)

    async def post(self, url: str, body: bytes | Body | None = None, **options: Any) -> Answer:
        """POST."""
        return await self.ask("POST", url, body, **options)

    async def put(self, url: str, body: bytes | Body | None = None, **options: Any) -> Answer:
        """PUT."""
        return await self.ask("PUT", url, body, **options)

    async def patch(self, url: str, body: bytes | Body | None = None, **options: Any) -> Answer:
        """PATCH."""
        return await self.ask("PATCH", url, body, **options)

    # What many tests need before they begin

    async def begin(self, name: str = NAME) -> str:
        """A new session; its location."""
        answer = await self.post(f"/v2/{name}/blobs/uploads/")
        assert answer.status == 202, answer
        return answer["Location"]

    async def push(self, data: bytes, name: str = NAME) -> str:
        """Push a blob; its digest."""
        found = digest(data)
        answer = await self.post(f"/v2/{name}/blobs/uploads/", data, digest=found)
        assert answer.status == 201, answer
        return found

    async def push_manifest(
        self, body: bytes, reference: str | None = None, name: str = NAME, media_type: str = OCI_MANIFEST
    ) -> str:
        """Push a manifest by digest, or by tag; its digest."""
        url = f"/v2/{name}/manifests/{reference or digest(body)}"
        answer = await self.put(url, body, headers={"Content-Type": media_type})
        assert answer.status == 201, answer
        return digest(body)

    async def push_image(self, tag: str | None = None, name: str = NAME, text: str = "one") -> str:
        """Push a small image; its digest."""
        config, layer = f"config {text}".encode(), f"layer {text}".encode()
        for data in (config, layer):
            await self.push(data, name)
        return await self.push_manifest(image(config, [layer]).body, tag, name)


def digest(data: bytes, algorithm: str = "sha256") -> str:
    """What `data` is called."""
    return str(Digest.of(data, Algorithm(algorithm)))


def chunk(start: int, data: bytes) -> dict[str, str]:
    """The header of a chunk."""
    return {"Content-Range": f"{start}-{start + len(data) - 1}"}


async def read(response: Response) -> bytes:
    """The payload of an answer, as a host would send it."""
    payload = response.payload
    if isinstance(payload, FileSpan):
        try:
            return os.pread(payload.handle, payload.size_bytes, payload.offset)
        finally:
            payload.close()
    if isinstance(payload, Stream):
        async with payload.chunks as chunks:
            return b"".join([each async for each in chunks])
    return payload
