"""How fast do big blobs go to OSS and come from it, beside oss2's own transfers and beside bare requests to the same server?

The server is the stand-in of the tests, a process of its own: no network and no disk of a cloud, so what the client costs shows.
It sums what is uploaded, and forgets it: its disk would be this machine's.
"""

from __future__ import annotations

import asyncio
import functools
import http.client
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import oss2
import pytest
from _harness import MIB, race, random_pieces, report, report_value, sized

from blobstore.backends._multipart import PARTS_AT_ONCE
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.backends._retrying import RetryingClient
from blobstore.backends.oss import OssClient, OssSettings
from blobstore.digest import Digest
from blobstore.generation import Generation
from blobstore.layout import blob_key
from tests.servers.oss_standin import KEY_ID, REGION, SECRET, OssStandin, running_standin

SIZE_BYTES = sized(1024, 64) * MIB
PART_BYTES = 8 * MIB
ROUNDS = sized(5, 1)


@pytest.fixture(scope="module")
def server() -> Iterator[OssStandin]:
    with running_standin() as standin:
        yield standin


class _Costs:
    """Processor seconds of this process, by contestant: less shaken than a clock by who else is on the machine."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def counted(self, name: str, work: Callable[[int], object]) -> Callable[[int], object]:
        def run(number: int) -> None:
            start = time.process_time()
            work(number)
            self.seconds.setdefault(name, []).append(time.process_time() - start)

        return run

    def report(self, case: str) -> None:
        text = ", ".join(f"{name} {sorted(each)[len(each) // 2]:.2f} s" for name, each in self.seconds.items())
        report_value(f"{case}, client's processor time", text)


def _key(number: int) -> str:
    return blob_key(Digest.of(b""), Generation(1, number))


def _backend(server: OssStandin, bucket: str, directory: Path) -> ObjectStoreBackend:
    settings = OssSettings(
        bucket=bucket, endpoint=server.endpoint, region=REGION, access_key_id=KEY_ID, access_key_secret=SECRET
    )
    client = RetryingClient(OssClient(settings))
    return ObjectStoreBackend(client, prefix="", spool_directory=str(directory / "spool"))


def _oss2_bucket(server: OssStandin, bucket: str, *, has_crc: bool) -> Any:
    credentials = oss2.credentials.StaticCredentialsProvider(KEY_ID, SECRET)
    session = oss2.Session(pool_size=16)
    auth = oss2.ProviderAuthV4(credentials)
    return oss2.Bucket(auth, server.endpoint, bucket, region=REGION, session=session, enable_crc=has_crc)


async def _upload(backend: ObjectStoreBackend, pieces: list[bytes], number: int) -> None:
    upload = await backend.open_upload(str(Generation(1, number)), key=_key(number))
    for piece in pieces:
        await upload.write(piece)
    await upload.commit(_key(number))


def _checksum_speed() -> str:
    """Of oss2's checksums, which must be the compiled ones: without a compiler crcmod falls back to Python, unsaid."""
    # Not by attributes: crcmod's package hides its module of the same name.
    module = import_module("crcmod.crcmod")
    assert module._usingExtension, "oss2's checksums are not compiled, which would make it look worse than it is"
    checksum, data = oss2.utils.Crc64(), bytes(64 * MIB)
    start = time.perf_counter()
    checksum(data)
    return f"{64 / (time.perf_counter() - start):,.0f} MiB/s, {Path(module._crcfun.__file__).name}"


def bench_oss_upload(benchmark: Any, server: OssStandin, tmp_path: Path) -> None:
    crcmod_speed = _checksum_speed()
    pieces = random_pieces(SIZE_BYTES, "oss")
    source = tmp_path / "source"
    with open(source, "wb") as file:
        file.writelines(pieces)
    parts = [b"".join(pieces[at : at + PART_BYTES // MIB]) for at in range(0, 64, PART_BYTES // MIB)]
    bucket = server.new_bucket()
    server.ask("bucket", name=bucket, forgets=True)
    checked = _oss2_bucket(server, bucket, has_crc=True)
    plain = _oss2_bucket(server, bucket, has_crc=False)
    resuming = oss2.ResumableStore(root=str(tmp_path / "resumable"))
    costs = _Costs()

    def with_oss2(number: int) -> None:
        oss2.resumable_upload(
            checked,
            f"oss2/{number}",
            str(source),
            store=resuming,
            multipart_threshold=1,
            part_size=PART_BYTES,
            num_threads=PARTS_AT_ONCE,
        )

    def with_puts(number: int) -> None:
        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            done = [
                pool.submit(plain.put_object, f"raw/{number}/{at}", parts[at % len(parts)])
                for at in range(SIZE_BYTES // PART_BYTES)
            ]
            for each in done:
                each.result()

    def clear(_: int, __: str) -> None:
        server.ask("bucket", name=bucket, forgets=True)

    with asyncio.Runner() as runner:
        backend = _backend(server, bucket, tmp_path)
        runner.run(backend.open())
        ours, floors = race(
            benchmark,
            costs.counted("blobstore", lambda number: runner.run(_upload(backend, pieces, number))),
            {
                "oss2 resumable_upload with CRC": costs.counted("oss2", with_oss2),
                "raw puts": costs.counted("raw puts", with_puts),
            },
            rounds=ROUNDS,
            before=clear,
        )
        runner.run(backend.aclose())
    case = f"oss: upload {SIZE_BYTES // MIB} MiB"
    speeds = functools.partial(report, case, ours, work=SIZE_BYTES / MIB, unit="MiB")
    speeds([floors[0]], target=2.0)
    speeds([floors[1]], target=0.80)
    costs.report(case)
    report_value("oss: oss2's checksums (crcmod's extension)", crcmod_speed)


async def _download(backend: ObjectStoreBackend, key: str) -> None:
    size = 0
    async with backend.read(key) as chunks:
        async for chunk in chunks:
            size += len(chunk)
    assert size == SIZE_BYTES


def bench_oss_download(benchmark: Any, server: OssStandin, tmp_path: Path) -> None:
    bucket = server.new_bucket()
    checked = _oss2_bucket(server, bucket, has_crc=True)
    plain = _oss2_bucket(server, bucket, has_crc=False)
    buffer = bytearray(MIB)
    costs = _Costs()

    def with_oss2(_: int) -> None:
        result = checked.get_object(_key(0))
        while result.read(MIB):
            pass
        assert result.client_crc == result.server_crc

    def with_http(_: int) -> None:
        url = plain.sign_url("GET", _key(0), 600, slash_safe=True).removeprefix(server.endpoint)
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", url)
        answer = connection.getresponse()
        assert answer.status == 200
        while answer.readinto(buffer):
            pass
        connection.close()

    with asyncio.Runner() as runner:
        backend = _backend(server, bucket, tmp_path)
        runner.run(backend.open())
        runner.run(_upload(backend, random_pieces(SIZE_BYTES, "oss"), 0))
        ours, floors = race(
            benchmark,
            costs.counted("blobstore", lambda _: runner.run(_download(backend, _key(0)))),
            {
                "oss2 get_object with CRC": costs.counted("oss2", with_oss2),
                "raw get": costs.counted("raw get", with_http),
            },
            rounds=ROUNDS,
        )
        runner.run(backend.aclose())
    server.ask("drop_bucket", name=bucket)
    case = f"oss: download {SIZE_BYTES // MIB} MiB"
    speeds = functools.partial(report, case, ours, work=SIZE_BYTES / MIB, unit="MiB")
    speeds([floors[0]], target=2.0)
    speeds([floors[1]], target=None)
    costs.report(case)
