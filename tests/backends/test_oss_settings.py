"""What is said of a bucket is checked before anything is sent, and completed from what is known."""

import pytest

from blobstore.backends._oss_settings import OssSettings
from blobstore.errors import ConfigInvalid


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("fields", "url", "region"),
    [
        ({"region": "cn-hangzhou"}, "https://oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
        ({"region": "oss-cn-hangzhou"}, "https://oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
        ({"region": "cn-beijing", "is_internal": True}, "https://oss-cn-beijing-internal.aliyuncs.com", "cn-beijing"),
        ({"endpoint": "oss-eu-central-1.aliyuncs.com"}, "https://oss-eu-central-1.aliyuncs.com", "eu-central-1"),
        (
            {"endpoint": "http://oss-ap-southeast-1.aliyuncs.com/", "is_internal": True},
            "http://oss-ap-southeast-1-internal.aliyuncs.com",
            "ap-southeast-1",
        ),
        (
            {"endpoint": "https://oss-cn-hangzhou-internal.aliyuncs.com", "is_internal": True},
            "https://oss-cn-hangzhou-internal.aliyuncs.com",
            "cn-hangzhou",
        ),
        ({"endpoint": "http://127.0.0.1:9000", "region": "cn-hangzhou"}, "http://127.0.0.1:9000", "cn-hangzhou"),
        ({"endpoint": "http://10.0.0.1", "signature": "v1"}, "http://10.0.0.1", None),
    ],
)
def test_endpoints(fields: dict[str, object], url: str, region: str | None) -> None:
    """The region tells the endpoint, or the endpoint the region; https is meant where nothing is said."""
    settings = OssSettings(bucket="images", **fields)  # type: ignore[arg-type]
    assert (settings.endpoint_url, settings.region_id) == (url, region)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "region"),
        ({"bucket": "No_Bucket", "region": "cn-hangzhou"}, "No_Bucket"),
        ({"region": "Hangzhou!"}, "Hangzhou!"),
        ({"endpoint": "https://host/path"}, "without bucket and path"),
        ({"endpoint": "https://storage.example.org"}, "signature v4"),
        ({"region": "cn-hangzhou", "addressing": "custom_domain"}, "custom domain"),
        ({"region": "cn-hangzhou", "endpoint": "https://images.example.org", "is_internal": True}, "internal"),
        ({"region": "cn-hangzhou", "access_key_id": "somebody"}, "secret"),
        ({"region": "cn-hangzhou", "kms_key_id": "key"}, "KMS"),
        ({"region": "cn-hangzhou", "threads": 0}, "threads"),
    ],
)
def test_what_cannot_be_used_is_refused(fields: dict[str, object], says: str) -> None:
    """With the value, or the name of what is missing."""
    with pytest.raises(ConfigInvalid, match=says):
        OssSettings(**{"bucket": "images", **fields})  # type: ignore[arg-type]


def test_credentials_come_from_the_settings_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings first; without either it is said which variables to set."""
    settings = OssSettings(bucket="images", region="cn-hangzhou")
    with pytest.raises(ConfigInvalid, match="OSS_ACCESS_KEY_ID"):
        settings.credentials()
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "id ")
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "secret")
    assert settings.credentials() == ("id", "secret", "")
    monkeypatch.setenv("OSS_SESSION_TOKEN", "token")
    assert settings.credentials() == ("id", "secret", "token")
    own = OssSettings(bucket="images", region="cn-hangzhou", access_key_id="own", access_key_secret="mine")
    assert own.credentials() == ("own", "mine", "")


def test_secrets_are_not_shown() -> None:
    """Not in what a log prints of the settings."""
    settings = OssSettings(
        bucket="images", region="cn-hangzhou", access_key_id="id", access_key_secret="hidden", security_token="veiled"
    )
    assert "hidden" not in f"{settings!r} {settings}"
    assert "veiled" not in f"{settings!r} {settings}"
