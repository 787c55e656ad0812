from __future__ import annotations

import multiprocessing
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from duccmake.errors import DigestMismatch, DuccmakeError, NotFound, RegistryUnavailable
from duccmake.oci.manifest import Descriptor
from duccmake.registry.client import Client
from duccmake.registry.settings import RegistrySettings
from support import faulty_registry as faults
from support.faulty_registry import FaultyRegistry
from support.servers import add_image, layer_of, reference

CONTENT = layer_of({"noise": random.Random(1).randbytes(2_000_000)})[0]


class Setting:
    """A registry with one layer, a client, and where the layer goes."""

    def __init__(self, registry: FaultyRegistry, tmp_path):
        self.registry = registry
        self.image = add_image(registry.store, "team/app", "1", layers=(CONTENT,))
        self.layer = self.image.layers[0]
        self.reference = reference(registry)
        self.path = tmp_path / "blobs" / "layer"
        self.part = tmp_path / "blobs" / "layer.part"
        self.settings = {registry.host: RegistrySettings(scheme="http", timeout_seconds=1.0)}
        self.client = Client(self.settings, backoff_seconds=0.001, tries=3)

    def fetch(self, **more) -> int:
        return self.client.fetch_blob(self.reference, self.layer, self.path, **more)

    def ranges(self) -> list[str]:
        return [r.range for r in self.registry.requests if "/blobs/" in r.path]

    def leave_part(self, content: bytes) -> None:
        self.part.parent.mkdir(parents=True)
        self.part.write_bytes(content)


@pytest.fixture
def here(tmp_path):
    with FaultyRegistry(tmp_path / "registry") as registry:
        setting = Setting(registry, tmp_path)
        with setting.client:
            yield setting


def test_a_blob_arrives_whole_and_nothing_else_is_left(here):
    assert here.fetch() == len(CONTENT)
    assert here.path.read_bytes() == CONTENT
    assert not here.part.exists()


def test_what_is_there_is_not_fetched_again(here):
    here.fetch()
    assert here.fetch() == 0
    assert len(here.ranges()) == 1


@pytest.mark.parametrize("fault", [faults.short, faults.stall])
def test_a_download_that_breaks_goes_on_from_where_it_broke(here, fault):
    here.registry.break_next("/blobs/", fault)
    received = here.fetch()
    assert here.path.read_bytes() == CONTENT
    assert received < 1.5 * len(CONTENT)
    assert here.ranges()[0] == ""
    assert here.ranges()[1].startswith("bytes=") and here.ranges()[1] != "bytes=0-"


@pytest.mark.parametrize(
    "fault",
    [
        faults.reset,
        faults.reset_in_body,
        faults.long,
        faults.wrong_bytes,
        faults.html,
        faults.short_and_sure,
        faults.status(500),
        faults.status(502),
        faults.status(503, Retry_After="0"),
        faults.status(429, Retry_After="0"),
        faults.status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    ],
)
def test_any_fault_that_happens_once_is_overcome(here, fault):
    plan = here.registry.break_next("/blobs/", fault)
    here.fetch()
    assert plan.seen == 1
    assert here.path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "fault",
    [
        faults.encoded,
        faults.encoded_without_length,
        faults.mislabelled,
        faults.mislabelled_without_length,
    ],
)
def test_a_content_encoding_does_not_change_the_blob(here, fault):
    plan = here.registry.break_next("/blobs/", fault, times=100)
    here.fetch()
    assert plan.seen
    assert here.path.read_bytes() == CONTENT


@pytest.mark.parametrize("fault", [faults.wrong_bytes, faults.long])
def test_a_source_that_always_sends_something_else_is_refused(here, fault):
    here.registry.break_next("/blobs/", fault, times=1000)
    with pytest.raises(DigestMismatch) as caught:
        here.fetch()
    assert str(here.layer.digest) in str(caught.value)
    assert not here.path.exists()
    assert here.ranges() == ["", ""]


def damaged_by(here, directory) -> str:
    """What is said of the layer by a client of its own, as a job has it."""
    with (
        Client(here.settings, backoff_seconds=0.001, damaged_directory=directory) as client,
        pytest.raises(DigestMismatch) as caught,
    ):
        client.fetch_blob(here.reference, here.layer, here.path)
    return str(caught.value)


@pytest.mark.parametrize("fault", [faults.wrong_bytes, faults.long])
def test_damaged_content_is_fetched_whole_twice_in_a_run_by_all_its_jobs(here, tmp_path, fault):
    here.registry.break_next("/blobs/", fault, times=1000)
    damaged_by(here, tmp_path / "run1")
    for _ in range(3):
        assert "2 times in this run" in damaged_by(here, tmp_path / "run1")
    assert here.ranges() == ["", ""]
    damaged_by(here, tmp_path / "run2")
    assert here.ranges() == [""] * 4, "another run begins anew"


def test_a_registry_that_has_a_layer_in_several_repositories_sends_it_damaged_twice(here):
    add_image(here.registry.store, "team/other", "1", layers=(CONTENT,))
    here.registry.break_next("/blobs/", faults.wrong_bytes, times=1000)
    for name in ("team/app:1", "team/other:1"):
        here.reference = reference(here.registry, name)
        with pytest.raises(DigestMismatch):
            here.fetch()
    assert here.ranges() == ["", ""]


def test_a_mirror_that_sends_damaged_content_keeps_nobody_from_the_registry(here, tmp_path):
    with FaultyRegistry(tmp_path / "mirror") as mirror:
        add_image(mirror.store, "team/app", "1", layers=(CONTENT,))
        mirror.break_next("/blobs/", faults.wrong_bytes, times=1000)
        settings = {here.registry.host: RegistrySettings(scheme="http", mirrors=(mirror.url,))}
        with Client(settings, backoff_seconds=0.001) as client:
            client.fetch_blob(here.reference, here.layer, here.path)
        assert here.path.read_bytes() == CONTENT
        assert len(mirror.requests) == 2


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without"])
def test_a_blob_that_a_registry_has_cut_short_is_fetched_twice_at_most(here, tmp_path, ranges):
    def cut(handler, answer):
        whole = handler.whole()[: len(CONTENT) // 2]
        wanted = handler.headers.get("Range")
        if wanted and ranges:
            handler.send(faults.Answer(416, {"Content-Range": f"bytes */{len(whole)}"}, b""))
        else:
            handler.send(faults.Answer(200, {"Content-Length": str(len(whole))}, whole))

    here.registry.break_next("/blobs/", cut, times=1000)
    for _ in range(3):
        damaged_by(here, tmp_path / "run")
    assert len(here.ranges()) == 2


def test_a_page_for_people_is_no_damaged_layer(here):
    here.registry.break_next("/blobs/", faults.html, times=2)
    here.fetch()
    assert here.path.read_bytes() == CONTENT
    assert len(here.ranges()) == 3


def test_a_source_that_gives_less_of_the_rest_than_is_left_is_asked_for_more(here):
    here.leave_part(CONTENT[:500_000])

    def some(handler, answer):
        piece = handler.whole()[500_000:900_000]
        where = {"Content-Range": f"bytes 500000-899999/{len(CONTENT)}"}
        where["Content-Length"] = str(len(piece))
        handler.send(faults.Answer(206, where, piece))

    here.registry.break_next("/blobs/", some)
    assert here.fetch() == len(CONTENT) - 500_000
    assert here.path.read_bytes() == CONTENT
    assert [asked.partition("-")[0] for asked in here.ranges()] == ["bytes=500000", "bytes=900000"]


def test_a_source_that_begins_anew_and_breaks_is_hashed_from_its_beginning(here):
    """Or what is right in the end would count as damaged."""
    here.leave_part(CONTENT[:500_000])

    def anew(handler, answer):
        faults.short(handler, faults.Answer(200, {}, handler.whole()))

    here.registry.break_next("/blobs/", anew)
    assert here.fetch() < 1.6 * len(CONTENT)
    assert len(here.ranges()) == 2


def test_a_mirror_that_breaks_off_leaves_its_part_to_the_registry(here, tmp_path):
    with FaultyRegistry(tmp_path / "mirror") as mirror:
        add_image(mirror.store, "team/app", "1", layers=(CONTENT,))
        mirror.break_next("/blobs/", faults.short)
        mirror.break_next("/blobs/", faults.status(500), times=99)
        settings = {here.registry.host: RegistrySettings(scheme="http", mirrors=(mirror.url,))}
        with Client(settings, backoff_seconds=0.001) as client:
            assert client.fetch_blob(here.reference, here.layer, here.path) == len(CONTENT)
        assert here.ranges() == [f"bytes={len(CONTENT) // 2}-{len(CONTENT) - 1}"]


def test_a_descriptor_that_lies_of_the_size_costs_two_downloads_in_a_run(here, tmp_path):
    here.layer = Descriptor(here.layer.media_type, here.layer.digest, len(CONTENT) + 5)
    for _ in range(4):
        damaged_by(here, tmp_path / "run")
    assert here.ranges().count("") == 2


def test_a_blob_that_is_shorter_than_promised_is_refused(here):
    here.layer = Descriptor(here.layer.media_type, here.layer.digest, len(CONTENT) + 5)
    with pytest.raises((DigestMismatch, RegistryUnavailable)):
        here.fetch()
    assert not here.path.exists()
    assert len(here.ranges()) < 20


def test_a_later_run_goes_on_with_the_part_that_an_earlier_one_left(here):
    here.leave_part(CONTENT[:1_500_000])
    assert here.fetch() == len(CONTENT) - 1_500_000
    assert here.ranges() == [f"bytes=1500000-{len(CONTENT) - 1}"]
    assert here.path.read_bytes() == CONTENT


def test_a_part_that_is_whole_needs_no_request(here):
    here.leave_part(CONTENT)
    assert here.fetch() == 0
    assert here.ranges() == []
    assert here.path.read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"x" * 1000, CONTENT + b"tail", b"y" * len(CONTENT)])
def test_a_part_of_something_else_is_thrown_away(here, part):
    here.leave_part(part)
    here.fetch()
    assert here.path.read_bytes() == CONTENT


@pytest.mark.parametrize("fault", [faults.range_ignored, faults.other_range, faults.encoded])
def test_a_source_that_does_not_resume_is_read_from_the_beginning(here, fault):
    here.leave_part(CONTENT[:1_000_000])
    here.registry.break_next("/blobs/", fault)
    here.fetch()
    assert here.path.read_bytes() == CONTENT


def test_a_source_that_knows_no_range_without_an_end_resumes(here):
    """go-containerregistry's own registry answers 416 to one."""

    def fault(handler, answer):
        if handler.headers.get("Range", "").endswith("-"):
            handler.send(faults.Answer(416, {}, b""))
        elif len(here.ranges()) <= 3:
            faults.short(handler, answer)
        else:
            handler.send(answer)

    here.registry.break_next("/blobs/", fault, times=99)
    here.fetch()
    assert here.path.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [20_000, 300_000])
def test_a_source_that_gives_a_slice_at_a_time_is_asked_for_the_next(here, size):
    def fault(handler, answer):
        start = len(CONTENT) - len(answer.body)
        body = answer.body[:size]
        told = {
            "Content-Range": f"bytes {start}-{start + len(body) - 1}/{len(CONTENT)}",
            "Content-Length": str(len(body)),
        }
        handler.send(faults.Answer(206, told, body))

    here.registry.break_next("/blobs/", fault, times=999)
    here.fetch()
    assert here.path.read_bytes() == CONTENT
    assert len(here.ranges()) == -(-len(CONTENT) // size)


def test_slices_of_next_to_nothing_come_to_an_end(here):
    def fault(handler, answer):
        start = len(CONTENT) - len(answer.body)
        told = {"Content-Range": f"bytes {start}-{start}/{len(CONTENT)}", "Content-Length": "1"}
        handler.send(faults.Answer(206, told, answer.body[:1]))

    here.leave_part(CONTENT[:1000])
    here.registry.break_next("/blobs/", fault, times=999)
    with pytest.raises(RegistryUnavailable, match="short"):
        here.fetch()
    assert len(here.ranges()) == 3


def test_a_resumed_body_that_changed_is_fetched_from_the_beginning(here):
    here.leave_part(CONTENT[:1_000_000])
    here.registry.break_next("/blobs/", faults.wrong_bytes)
    here.fetch()
    assert here.ranges() == [f"bytes=1000000-{len(CONTENT) - 1}", ""]
    assert here.path.read_bytes() == CONTENT


def test_the_part_stays_when_the_registry_goes_away(here):
    here.registry.break_next("/blobs/", faults.short)
    here.registry.break_next("/blobs/", faults.reset, times=100)
    with pytest.raises(RegistryUnavailable):
        here.fetch()
    assert CONTENT.startswith(here.part.read_bytes())
    assert here.part.stat().st_size > 500_000


def test_a_401_in_the_middle_of_a_download_fetches_a_new_token(tmp_path):
    with FaultyRegistry(tmp_path / "r", tokens=True, anonymous_pull=True) as registry:
        here = Setting(registry, tmp_path)

        def expire(handler, answer):
            registry.revoke_tokens()
            faults.short(handler, answer)

        registry.break_next("/blobs/", lambda handler, answer: handler.send(answer))
        registry.break_next("/blobs/", expire)
        with here.client:
            here.fetch()
        assert here.path.read_bytes() == CONTENT
        assert len([r for r in registry.requests if "/token" in r.path]) == 2


def test_threads_that_want_one_blob_fetch_it_once(here):
    with ThreadPoolExecutor(6) as threads:
        received = list(threads.map(lambda _: here.fetch(), range(6)))
    assert sorted(received) == [0] * 5 + [len(CONTENT)]
    assert len(here.ranges()) == 1
    assert [path.name for path in here.path.parent.iterdir()] == ["layer"]


def _fetch_in_a_process(settings, reference, layer, path, results):
    with Client(settings, backoff_seconds=0.001) as client:
        results.put(client.fetch_blob(reference, layer, path))


def test_processes_that_want_one_blob_fetch_it_once(here):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (here.settings, here.reference, here.layer, here.path, results)
    processes = [context.Process(target=_fetch_in_a_process, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    received = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert received == [0, 0, len(CONTENT)]


def test_downloads_of_all_processes_count_against_the_bytes_a_second_of_a_host(here, tmp_path):
    host, limits = here.registry.host, tmp_path / "limits"
    settings = {host: replace(here.settings[host], bytes_per_second=100_000_000)}
    before = time.time()
    for name in ("one", "two"):
        with Client(settings, limits_directory=limits) as client:
            client.fetch_blob(here.reference, here.layer, tmp_path / name)
    booked = float((limits / host / "bytes").read_text())
    assert booked > before - 1 + 2 * len(CONTENT) / 100_000_000


def test_a_download_that_is_killed_leaves_no_lock(here):
    """The lock is the kernel's: it goes with the process."""
    context = multiprocessing.get_context("spawn")
    reached = threading.Event()

    def half(handler, answer):
        handler.send_head(answer, len(answer.body))
        handler.wfile.write(answer.body[:1_000_000])
        reached.set()
        handler.registry.closing.wait(30)

    here.registry.break_next("/blobs/", half)
    settings = {here.registry.host: RegistrySettings(scheme="http", timeout_seconds=30.0)}
    arguments = (settings, here.reference, here.layer, here.path, context.Queue())
    process = context.Process(target=_fetch_in_a_process, args=arguments)
    process.start()
    assert reached.wait(60)
    process.kill()
    process.join()
    here.fetch()
    assert here.path.read_bytes() == CONTENT


def test_an_empty_blob_needs_no_request(here, tmp_path):
    digest = here.registry.store.put_blob(b"")
    assert here.client.fetch_blob(here.reference, Descriptor("x", digest, 0), tmp_path / "e") == 0
    assert (tmp_path / "e").read_bytes() == b""


def test_a_path_that_cannot_be_written_is_told(here, tmp_path):
    (tmp_path / "file").write_text("in the way")
    here.path = tmp_path / "file" / "layer"
    with pytest.raises(DuccmakeError, match="cannot be written"):
        here.fetch()


def test_the_addresses_of_a_foreign_layer_are_used_only_where_allowed(tmp_path):
    with FaultyRegistry(tmp_path / "r") as registry:
        here = Setting(registry, tmp_path)
        gone = Descriptor(
            "x", here.layer.digest, here.layer.size, ("http://localhost:1/x", "https://[")
        )
        registry.store.blob_path(gone.digest).unlink()
        with here.client, pytest.raises(NotFound):
            here.client.fetch_blob(here.reference, gone, here.path)
        allowed = {
            host: replace(settings, foreign_urls=True) for host, settings in here.settings.items()
        }
        with Client(allowed) as client, pytest.raises(NotFound):
            # Plain http is never followed, nor what is no address.
            client.fetch_blob(here.reference, gone, here.path)
