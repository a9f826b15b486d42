"""A client of a registry in a few lines of Python's own library: pushes, pulls and deletes an image, as any other client does."""

from __future__ import annotations

import hashlib
import json
import sys
import urllib.error
import urllib.request
from http.client import HTTPMessage
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_BYTES = {"Content-Type": "application/octet-stream"}


class Registry:
    """The registry at a URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, HTTPMessage, bytes]:
        """One request."""
        request = urllib.request.Request(  # noqa: S310 - a URL of our own making
            urljoin(self._url, path), data=body, headers=headers or {}, method=method
        )
        try:
            with _OPENER.open(request) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def wanted(self, status: int, method: str, path: str, *rest: Any) -> tuple[HTTPMessage, bytes]:
        """One request that must be answered with this status."""
        found, headers, body = self.ask(method, path, *rest)
        if found != status:
            raise SystemExit(f"{method} {path}: {found} {body.decode(errors='replace')}")
        return headers, body

    # Pushing

    def push(self, layout: str, repository: str, tag: str, source: str | None) -> None:
        """An image of a layout: its blobs, then its manifest. What `source` has is taken over without sending it."""
        entry = json.loads(Path(layout, "index.json").read_text())["manifests"][0]
        manifest = _blob(layout, entry["digest"]).read_bytes()
        parsed = json.loads(manifest)
        for descriptor in (parsed["config"], *parsed["layers"]):
            how = self._push_blob(layout, repository, descriptor["digest"], source)
            print(f"  {descriptor['digest'][:19]}…  {descriptor['size']:>9,} bytes  {how}")
        path = f"/v2/{repository}/manifests/{tag}"
        headers, _ = self.wanted(201, "PUT", path, manifest, {"Content-Type": parsed["mediaType"]})
        print(f"  {repository}:{tag} is {headers['Docker-Content-Digest'][:19]}…")

    def _push_blob(self, layout: str, repository: str, digest: str, source: str | None) -> str:
        if self.ask("HEAD", f"/v2/{repository}/blobs/{digest}")[0] == 200:
            return "is there already"
        mount = f"?mount={digest}&from={source}" if source else ""
        status, headers, body = self.ask("POST", f"/v2/{repository}/blobs/uploads/{mount}", b"")
        if status == 201:
            return f"is in {source} already: mounted, no byte was sent"
        if status != 202:
            raise SystemExit(f"POST: {status} {body.decode(errors='replace')}")
        location = headers["Location"]
        closing = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        self.wanted(201, "PUT", closing, _blob(layout, digest).read_bytes(), _BYTES)
        return "sent"

    # Pulling

    def pull(self, repository: str, tag: str, layout: str) -> None:
        """An image into a layout, each byte checked against the digest it was asked for by."""
        blobs = Path(layout, "blobs", "sha256")
        blobs.mkdir(parents=True)
        headers, manifest = self.wanted(200, "GET", f"/v2/{repository}/manifests/{tag}")
        digests = {headers["Docker-Content-Digest"]: manifest}
        parsed = json.loads(manifest)
        for descriptor in (parsed["config"], *parsed["layers"]):
            digest = descriptor["digest"]
            digests[digest] = self.wanted(200, "GET", f"/v2/{repository}/blobs/{digest}")[1]
        for digest, data in digests.items():
            if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
                raise SystemExit(f"what was answered as {digest} is something else")
            (blobs / digest.removeprefix("sha256:")).write_bytes(data)
        print(
            f"  {len(digests)} blobs of {repository}:{tag}, {sum(map(len, digests.values())):,} bytes, each as its digest says"
        )

    def delete(self, repository: str, tag: str) -> None:
        """A tag; the manifest stays."""
        self.wanted(202, "DELETE", f"/v2/{repository}/manifests/{tag}")
        status = self.ask("GET", f"/v2/{repository}/manifests/{tag}")[0]
        print(f"  {repository}:{tag} is deleted; asked for again: {status}")

    # Operating

    def collect(self, policy: str, *, is_dry: bool) -> None:
        """A run of the collector inside the daemon, or what it would do; prints the report as JSON."""
        wanted = {"full": True, "dry_run": is_dry, "policy": json.loads(policy)}
        body = json.dumps(wanted).encode()
        _, answered = self.wanted(202, "POST", "/api/v1/runs", body, {"Content-Type": "application/json"})
        path = f"/api/v1/runs/{json.loads(answered)['run']}"
        while True:
            status, _, report = self.ask("GET", path)
            if status != 202:
                break
        if status != 200:
            raise SystemExit(report.decode())
        print(report.decode())


def _blob(layout: str, digest: str) -> Path:
    return Path(layout, "blobs", *digest.split(":"))


def main(url: str, command: str, *arguments: str) -> None:
    """Do one thing."""
    registry = Registry(url)
    if command == "push":
        layout, image, *source = arguments
        repository, _, tag = image.rpartition(":")
        registry.push(layout, repository, tag, source[0] if source else None)
    elif command == "pull":
        repository, _, tag = arguments[0].rpartition(":")
        registry.pull(repository, tag, arguments[1])
    elif command == "delete":
        repository, _, tag = arguments[0].rpartition(":")
        registry.delete(repository, tag)
    elif command in ("collect", "dry-run"):
        registry.collect(arguments[0], is_dry=command == "dry-run")
    else:
        raise SystemExit(f"there is no {command}")


if __name__ == "__main__":
    main(*sys.argv[1:])
