"""The client of aioboto3, and who it asks as: the one place that makes them.

The client only. Its transfer helpers leave tasks and multipart uploads behind when they are cancelled, and queue hundreds of
mebibytes (https://github.com/terrycain/aioboto3); bodies go over `_http`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aioboto3  # type: ignore[import-untyped]
import msgspec
from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from botocore.exceptions import NoCredentialsError  # type: ignore[import-untyped]

from blobstore.backends._s3_signing import S3Credentials

DEFAULT_REGION = "us-east-1"


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Which bucket, where, as whom, and how objects are kept.

    Without keys the SDK's chain is asked: the environment, the shared files (`profile`), the machine's or the pod's role.
    """

    bucket: str
    endpoint: str | None = None
    """Empty: AWS."""
    presign_endpoint: str | None = None
    """Put into URLs that are handed out, where clients can't reach the other one; unset: the same."""
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    profile: str | None = None
    is_path_style: bool | None = None
    """`endpoint/bucket/key` rather than `bucket.endpoint/key`; unset: where an endpoint is set."""
    encryption: str | None = None
    """`AES256`, `aws:kms` or `aws:kms:dsse`; unset: as the bucket says."""
    kms_key_id: str | None = None
    storage_class: str | None = None
    ca_bundle: str | None = None
    connect_timeout_s: float = 5
    read_timeout_s: float = 60
    connections_max: int = 64

    @property
    def uses_path_style(self) -> bool:
        """Which of the two forms URLs have."""
        return self.is_path_style if self.is_path_style is not None else self.endpoint is not None


class S3Session(Protocol):
    """What makes a client; another SDK's session can stand in here."""

    def client(self, endpoint: str | None = None) -> Any:
        """An async context manager whose value has botocore's methods for S3, as coroutines; of another endpoint than that of the
        settings if one is given."""

    async def credentials(self) -> S3Credentials:
        """Those to sign with now; renewed by themselves if they expire."""


def make_sdk_session(settings: S3Settings) -> Any:
    """One of aioboto3, for these credentials."""
    return aioboto3.Session(
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        aws_session_token=settings.session_token,
        region_name=settings.region,
        profile_name=settings.profile,
    )


class AwsSession:
    """aioboto3's. Making the first client of one costs a tenth of a second, so who makes many may hand in `sdk_session`."""

    def __init__(self, settings: S3Settings, sdk_session: Any = None) -> None:
        self._settings = settings
        self._session: Any = sdk_session
        self._credentials: Any = None

    @asynccontextmanager
    async def client(self, endpoint: str | None = None) -> AsyncIterator[Any]:
        """See `S3Session.client`."""
        settings = self._settings
        if self._session is None:
            self._session = make_sdk_session(settings)
        async with self._session.client(
            "s3",
            region_name=self._session.region_name or DEFAULT_REGION,
            endpoint_url=endpoint or settings.endpoint,
            verify=settings.ca_bundle,
            config=AioConfig(
                # Without it URLs are presigned the old way in some regions.
                signature_version="s3v4",
                s3={"addressing_style": "path" if settings.uses_path_style else "virtual"},
                # One layer repeats requests, and it is not this one.
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=settings.connections_max,
                connect_timeout=settings.connect_timeout_s,
                read_timeout=settings.read_timeout_s,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        ) as client:
            # Servers older than the SDK's new checksums want this one.
            client.meta.events.register("before-sign.s3.DeleteObjects", _add_md5)
            yield client

    async def credentials(self) -> S3Credentials:
        """See `S3Session.credentials`."""
        if self._credentials is None:
            self._credentials = await self._session.get_credentials()
            if self._credentials is None:
                raise NoCredentialsError
        frozen = await self._credentials.get_frozen_credentials()
        return S3Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def _add_md5(request: Any, **_: object) -> None:
    request.headers["Content-MD5"] = base64.b64encode(
        hashlib.md5(request.body, usedforsecurity=False).digest()
    ).decode()
