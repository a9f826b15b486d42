"""Where an OSS bucket is, and who we are there: settings, checked and completed."""

from __future__ import annotations

import os
import re
from typing import Literal

import msgspec

from blobstore.errors import ConfigInvalid

KEY_ID_VARIABLE = "OSS_ACCESS_KEY_ID"
KEY_SECRET_VARIABLE = "OSS_ACCESS_KEY_SECRET"  # noqa: S105 - a name
TOKEN_VARIABLE = "OSS_SESSION_TOKEN"  # noqa: S105 - a name

_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", re.ASCII)
_REGION = re.compile(r"[a-z]{2}-[a-z0-9-]+", re.ASCII)
_ENDPOINT = re.compile(r"(?:(https?)://)?([A-Za-z0-9._-]+)(:[0-9]{1,5})?/?", re.ASCII)
_REGIONAL = re.compile(r"oss-([a-z]{2}-[a-z0-9-]+?)(-internal)?\.aliyuncs\.com", re.ASCII)


class OssSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[oss]`: how to reach a bucket.

    Raises:
        ConfigInvalid: something in it can't be used.
    """

    bucket: str
    region: str | None = None
    """`cn-hangzhou`; read from the endpoint if that has it."""
    endpoint: str | None = None
    """Host or URL, without the bucket; https unless http:// is written. Without one, that of the region."""
    is_internal: bool = False
    """Use the region's endpoint inside of Aliyun's network, where traffic is free."""
    addressing: Literal["virtual", "custom_domain", "path"] = "virtual"
    """Where the bucket's name goes: before the endpoint's host (with an IP address: in the path), nowhere, as the endpoint is a
    domain of the bucket's own, or in the path."""
    signature: Literal["v4", "v1"] = "v4"
    access_key_id: str | None = None
    access_key_secret: str | None = None
    security_token: str | None = None
    """Of temporary credentials (STS). Without a key in the settings all three come from the environment, for each request."""
    server_side_encryption: Literal["AES256", "KMS", "SM4"] | None = None
    kms_key_id: str | None = None
    storage_class: Literal["Standard", "IA"] | None = None
    """Archived objects can't be read, so the archive classes are none of these."""
    presign_endpoint: str | None = None
    """The endpoint in URLs that are handed to clients, if they can't reach ours."""
    threads: int = 16
    """How many requests run at once, and as many downloads."""
    connect_timeout_s: float = 5
    """Also for each 256 KiB sent."""
    read_timeout_s: float = 60

    def __post_init__(self) -> None:
        if not _BUCKET.fullmatch(self.bucket):
            raise ConfigInvalid(f"{self.bucket!r:.80} is no OSS bucket: 3 to 63 lower-case letters, digits and hyphens")
        for endpoint in filter(None, (self.endpoint, self.presign_endpoint)):
            if not _ENDPOINT.fullmatch(endpoint):
                raise ConfigInvalid(
                    f"{endpoint!r:.200} is no OSS endpoint; write https://host, without bucket and path"
                )
        if self.region is not None and not _REGION.fullmatch(self.region.removeprefix("oss-")):
            raise ConfigInvalid(f"{self.region!r:.80} is no OSS region; write it as in cn-hangzhou")
        if self.endpoint is None and self.region is None:
            raise ConfigInvalid("OSS needs a region, such as cn-hangzhou, or an endpoint")
        if self.signature == "v4" and self.region_id is None:
            raise ConfigInvalid(f"the region of {self.endpoint} is not known; set it, as signature v4 needs it")
        if self.addressing == "custom_domain" and self.endpoint is None:
            raise ConfigInvalid("a custom domain is given as the endpoint")
        if self.is_internal and self.endpoint is not None and not _REGIONAL.search(self.endpoint):
            raise ConfigInvalid(f"{self.endpoint} has no internal twin; give the internal endpoint itself")
        if (self.access_key_id is None) != (self.access_key_secret is None):
            raise ConfigInvalid("an OSS access key needs both its id and its secret")
        if self.kms_key_id is not None and self.server_side_encryption != "KMS":
            raise ConfigInvalid('a KMS key is used with server_side_encryption = "KMS"')
        if self.threads < 1 or self.connect_timeout_s <= 0 or self.read_timeout_s <= 0:
            raise ConfigInvalid("threads and timeouts of OSS must be greater than 0")

    def __repr__(self) -> str:
        """Without secrets."""
        return f"OssSettings(bucket={self.bucket!r}, endpoint={self.endpoint_url!r})"

    @property
    def region_id(self) -> str | None:
        """The region without `oss-`; None if nothing tells it."""
        if self.region is not None:
            return self.region.removeprefix("oss-")
        match = _REGIONAL.search(self.endpoint or "")
        return match[1] if match else None

    @property
    def endpoint_url(self) -> str:
        """The endpoint with its scheme."""
        host = self.endpoint or f"oss-{self.region_id}.aliyuncs.com"
        if self.is_internal:
            host = _REGIONAL.sub(lambda match: f"oss-{match[1]}-internal.aliyuncs.com", host)
        return url_of(host)

    def credentials(self) -> tuple[str, str, str]:
        """Key id, secret and token ("" without one), from here or the environment.

        Raises:
            ConfigInvalid: there are none.
        """
        if self.access_key_id is not None and self.access_key_secret is not None:
            return self.access_key_id.strip(), self.access_key_secret.strip(), (self.security_token or "").strip()
        found = [os.environ.get(name, "").strip() for name in (KEY_ID_VARIABLE, KEY_SECRET_VARIABLE, TOKEN_VARIABLE)]
        if not found[0] or not found[1]:
            raise ConfigInvalid(f"no credentials for OSS; set {KEY_ID_VARIABLE} and {KEY_SECRET_VARIABLE}")
        return found[0], found[1], found[2]


def url_of(endpoint: str) -> str:
    """An endpoint with its scheme, without a slash behind it."""
    return (endpoint if "://" in endpoint else f"https://{endpoint}").rstrip("/")
