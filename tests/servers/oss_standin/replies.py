"""What OSS answers: errors, and documents of XML, as text."""

from __future__ import annotations

import base64
import datetime as dt
import itertools
from urllib.parse import quote
from xml.sax.saxutils import escape

from aiohttp import web

_numbers = itertools.count(1)
Nested = dict[str, "str | int | bool | Nested | list[Nested]"]


class Refusal(Exception):
    """A request is answered with an error."""

    def __init__(
        self, status: int, code: str, message: str = "", headers: dict[str, str] | None = None, **details: str
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message
        self.headers, self.details = headers or {}, details


def request_id() -> str:
    """A new one, in the form of the real ones: 24 hexadecimal digits."""
    return f"{next(_numbers):024X}"


def refuse(refusal: Refusal, method: str) -> web.Response:
    """The answer of an error. One to a HEAD has no body: its document is in a header."""
    number = request_id()
    document = xml(
        "Error",
        {
            "Code": refusal.code,
            "Message": refusal.message,
            "RequestId": number,
            "HostId": "oss-standin",
            **refusal.details,
        },
    )
    headers = {"x-oss-request-id": number, **refusal.headers}
    if method == "HEAD":
        return web.Response(
            status=refusal.status, headers={**headers, "x-oss-err": base64.b64encode(document).decode()}
        )
    return web.Response(status=refusal.status, body=document, content_type="application/xml", headers=headers)


def answer(status: int = 200, body: bytes = b"", **headers: str) -> web.Response:
    """An answer; the names of headers are given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = web.Response(status=status, body=body, headers={"x-oss-request-id": request_id(), **named})
    if body:
        response.content_type = "application/xml"
    return response


def xml(name: str, content: Nested) -> bytes:
    """A document; lists become repeated elements."""
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + _element(name, content).encode()


def _element(name: str, content: object) -> str:
    if isinstance(content, list):
        return "".join(_element(name, each) for each in content)
    if isinstance(content, dict):
        inner = "".join(_element(key, value) for key, value in content.items())
    elif isinstance(content, bool):
        inner = str(content).lower()
    else:
        inner = escape(str(content))
    return f"<{name}>{inner}</{name}>"


def encoded(key: str) -> str:
    """A key as `encoding-type=url` has it."""
    return quote(key, safe="/")


def iso_time(moment: dt.datetime) -> str:
    """A time as listings have it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
