"""The watcher from outside: what wakes it, what it survives, how it ends."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from duccmake.demo.images import Image, Layer, LayerBuilder, push
from duccmake.reference import Platform
from faulty_registry import Answer, FaultyHandler, FaultyRegistry, status
from runs import REPOSITORY, Work
from servers import docker_registry
from watching import events, eventually, listening, polls, systemd, watching

AMD64 = Platform("linux", "amd64")


def image(text: str, *layers: Layer) -> Image:
    return Image((*layers, LayerBuilder().file("content", text).layer()), {}, platform=AMD64)


def noise(seed: str, files: int = 1500, size: int = 4096) -> Layer:
    """A layer that takes a moment to fetch, to unpack and to publish."""
    source = random.Random(seed)
    builder = LayerBuilder().dir("opt")
    for number in range(files):
        builder.file(f"opt/{seed}-{number}", source.randbytes(size))
    return builder.layer()


def content(work: Work, name: str) -> str | None:
    """What a reader of the repository finds in an image, if it is there."""
    try:
        return (work.repository.path / work.named(name) / "content").read_text()
    except FileNotFoundError:
        return None


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    with FaultyRegistry(tmp_path / "registry") as registry:
        work = Work(tmp_path / "work", registry)
        work.path.mkdir()
        work.configure(platforms=[str(AMD64)], watch={"retry": 1})
        yield work


def host(work: Work) -> str:
    assert work.registry
    return work.registry.host


def test_a_push_to_debians_registry_becomes_visible(tmp_path: Path):
    work = Work(tmp_path / "work")
    work.path.mkdir()
    work.wish("https://r.example.org/none:1")
    work.configure(platforms=[str(AMD64)])
    with listening(work) as webhook:
        notify = {f"{webhook.url}/distribution": "none"}
        with docker_registry(tmp_path / "registry", notify=notify) as registry:
            base = LayerBuilder().dir("etc").file("etc/base", "base").layer()
            push(image("one", base), registry.host, "team/app", "1")
            push(image("one", base), registry.host, "team/app", "other")
            work.wish(f"http://{registry.host}/team/app:1", f"http://{registry.host}/team/new:*")
            link = work.repository.path / registry.host / "team"
            with watching(work) as watch:
                eventually((link / "app:1/content").is_file, "the first", watch)
                push(image("two", base), registry.host, "team/app", "1")
                eventually(
                    lambda: (link / "app:1/content").read_text() == "two", "the second", watch
                )
                push(image("new", base), registry.host, "team/new", "v1")
                eventually((link / "new:v1/content").is_file, "a glob's new one", watch)
                assert watch.stop() == 0
    assert {event["scope"] for event in polls(work)} == {"all", "some"}
    assert webhook.waiting() == []


def test_a_storm_of_notices_gives_few_runs_and_loses_no_image(work: Work):
    # No poll by itself comes to the rescue.
    work.configure(platforms=[str(AMD64)], watch={"retry": 3600, "interval": 3600})
    names = [f"team/app{number}" for number in range(20)]
    for name in names:
        push(image("old"), host(work), name, "1")
    work.wish(*(f"{{host}}/{name}:1" for name in names))
    with listening(work) as webhook, watching(work) as watch:
        eventually(lambda: len(polls(work)) == 1, "the first poll", watch)

        def send(number: int) -> int:
            name = names[number % 20]
            if number % 20 == number // 50:  # once for each image, all along the storm
                push(image("moved"), host(work), name, "1")
            event = {
                "action": "push",
                "target": {
                    "repository": name,
                    "tag": "1",
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                },
                "request": {"host": host(work)},
            }
            return webhook.post("/distribution", {"events": [event]}).status_code

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(send, range(1000))) == {200}

        def settled() -> bool:
            taken = work.path / "results/notices/taken"
            return (
                not webhook.waiting()
                and not list(taken.iterdir())
                and all(content(work, f"{name}:1") == "moved" for name in names)
            )

        eventually(settled, "all images", watch, webhook)
        assert watch.stop() == 0
    assert len(polls(work)) <= 12
    assert all(event["completed"] == "True" for event in polls(work)[:-1])


def test_killed_in_each_phase_it_goes_on_and_publishes_whole_images(work: Work):
    assert isinstance(work.registry, FaultyRegistry)
    upper = noise("upper")
    push(image("one", upper), host(work), "team/app", "1")
    work.wish("{host}/team/app:1")
    staged = work.path / "results" / REPOSITORY / "layers" / upper.digest.short
    journal = work.repository.path / ".duccmake/journal.json"
    held = Held()
    for phase in ("poll", "fetch", "unpack", "publish"):
        pattern = {
            "poll": "^HEAD .*manifests|^GET .*manifests",
            "fetch": f"blobs/.*{upper.digest.hex}",
        }
        held.again()
        if phase in pattern:
            work.registry.break_next(pattern[phase], held)
        with watching(work) as watch:
            if phase in pattern:
                eventually(held.reached.is_set, phase, watch)
            elif phase == "unpack":
                eventually(staged.exists, phase, watch)
            else:
                eventually(journal.exists, phase, watch)
            watch.kill()
        held.released.set()
        assert work.repository.verify(work.named("team/app:1")) in (
            [f"{work.named('team/app:1')} is not published, or not wholly"],
            [],
        )
    with watching(work) as watch:
        eventually(lambda: content(work, "team/app:1") == "one", "the image", watch)
        watch.says("taking its lock away")
        eventually(lambda: polls(work)[-1:] and polls(work)[-1]["completed"] == "True", "a poll")
        assert watch.stop() == 0
    assert work.repository.verify(work.named("team/app:1")) == []
    assert sorted(path.name for path in journal.parent.iterdir()) == ["lock"]


def test_told_to_stop_it_finishes_the_transaction_and_no_download(work: Work):
    assert isinstance(work.registry, FaultyRegistry)
    upper, other = noise("upper"), noise("other", 300)
    push(image("one", upper), host(work), "team/app", "1")
    push(image("two", other), host(work), "team/slow", "1")
    work.wish("{host}/team/app:1", "{host}/team/slow:1")
    held = Held()
    held.again()
    work.registry.break_next(f"blobs/.*{other.digest.hex}", held)
    journal = work.repository.path / ".duccmake/journal.json"
    with watching(work) as watch:
        eventually(held.reached.is_set, "a download", watch)
        eventually(journal.exists, "a transaction", watch)
        # The download would never end by itself.
        assert watch.stop() == 0
    held.released.set()
    assert work.repository.verify(work.named("team/app:1")) == []
    assert content(work, "team/app:1") == "one"
    assert not journal.exists()
    assert content(work, "team/slow:1") is None
    run = work.run()
    assert run.status == 0, run.said
    assert "--unlock" not in run.said
    assert content(work, "team/slow:1") == "two"


def test_a_registry_that_comes_back_is_asked_again_soon(work: Work):
    assert isinstance(work.registry, FaultyRegistry)
    push(image("one"), host(work), "team/app", "1")
    work.wish("{host}/team/app:1")
    with watching(work) as watch:
        eventually(lambda: content(work, "team/app:1") == "one", "the image", watch)
        eventually(lambda: len(polls(work)) == 1, "the first poll", watch)
        fault = work.registry.break_next("^(GET|HEAD) .*manifests/1", status(503), 10_000)
        push(image("two"), host(work), "team/app", "1")
        (work.path / "config/recipe.yaml").touch()
        eventually(lambda: len(polls(work)) >= 3, "tries while it is down", watch)
        assert polls(work)[1]["failed_images"] == "1"
        assert content(work, "team/app:1") == "one"
        fault.times = 0
        eventually(lambda: content(work, "team/app:1") == "two", "the new one", watch)


def test_a_broken_list_changes_nothing_and_its_mending_counts_at_once(work: Work):
    push(image("one"), host(work), "team/app", "1")
    push(image("two"), host(work), "team/new", "1")
    path = work.wish("{host}/team/app:1")
    good = path.read_text()
    with watching(work) as watch:
        eventually(lambda: content(work, "team/app:1") == "one", "the image", watch)
        eventually(lambda: len(polls(work)) == 1, "the first poll", watch)
        path.write_text(good + "more: [broken\n")
        eventually(lambda: polls(work)[-1]["completed"] == "False", "notices it", watch)
        assert content(work, "team/app:1") == "one"
        watch.says("not YAML")
        new = path.with_name("new.yaml")
        new.write_text(f"{good}- http://{host(work)}/team/new:1\n")
        new.replace(path)
        eventually(lambda: content(work, "team/new:1") == "two", "the mended list", watch)


def test_a_deletion_makes_for_a_poll_of_all_and_removes_nothing_by_itself(work: Work):
    push(image("one"), host(work), "team/app", "1")
    work.wish("{host}/team/app:1")
    with listening(work) as webhook, watching(work) as watch:
        eventually(lambda: len(polls(work)) == 1, "the first poll", watch)
        gone = {
            "type": "DELETE_ARTIFACT",
            "event_data": {"resources": [{"resource_url": work.named("team/app:1")}]},
        }
        assert webhook.post("/harbor", gone).json() == {"images": 1}
        eventually(lambda: len(polls(work)) == 2, "a poll", watch)
    assert [poll["scope"] for poll in polls(work)] == ["all", "all"]
    assert content(work, "team/app:1") == "one"


def test_a_list_that_changes_during_a_run_counts_after_it(work: Work):
    assert isinstance(work.registry, FaultyRegistry)
    for name in ("app", "new"):
        push(image(name), host(work), f"team/{name}", "1")
    work.wish("{host}/team/app:1")
    held = Held()
    work.registry.break_next("^GET .*/blobs/", held)
    with watching(work) as watch:
        eventually(held.reached.is_set, "a run", watch)
        work.wish("{host}/team/app:1", "{host}/team/new:1")
        watch.says("a wish list has changed")
        held.released.set()
        eventually(lambda: content(work, "team/new:1") == "new", "the new one", watch)


def test_systemd_hears_how_it_is_and_sighup_has_it_read_its_configuration(
    work: Work, tmp_path: Path
):
    work.wish()
    work.configure(watch={"interval": 3600})
    with systemd(tmp_path / "notify") as heard:
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        with watching(work, env=env) as watch:
            eventually(lambda: "READY=1" in heard(), "ready", watch)
            eventually(lambda: heard().count("WATCHDOG=1") > 2, "alive", watch)
            eventually(lambda: "next poll in 3600 s" in heard(), "its status", watch)
            work.configure(watch={"interval": 1800})
            watch.process.send_signal(signal.SIGHUP)
            eventually(lambda: "next poll in 1800 s" in heard(), "reloaded", watch)
            assert heard().index("RELOADING=1") < heard().rindex("READY=1")
            work.configure(watch={"interval": "never"})
            watch.process.send_signal(signal.SIGHUP)
            watch.says("the configuration stays as it was: configuration: watch.interval")
            assert watch.stop() == 0
            assert "STOPPING=1" in heard()


def test_there_is_one_watcher_and_it_waits_for_a_run_of_somebody_else(work: Work):
    assert isinstance(work.registry, FaultyRegistry)
    upper = noise("upper", 10)
    push(image("one", upper), host(work), "team/app", "1")
    work.wish("{host}/team/app:1")
    held = Held()
    held.again()
    work.registry.break_next(f"blobs/.*{upper.digest.hex}", held)
    with work.started() as run:
        eventually(held.reached.is_set, "a run of somebody else")
        with watching(work) as watch:
            watch.says("watching")
            with watching(work) as second:
                assert second.process.wait(60) == 1
                second.says("another watcher runs here")
            assert "lock away" not in watch.said()
            assert polls(work) == []
            held.released.set()
            eventually(lambda: not run.running, "its end", watch)
            eventually(lambda: len(polls(work)) == 1, "the watcher's turn", watch)
            assert content(work, "team/app:1") == "one"


def test_the_event_log_tells_the_whole_way_of_an_image(work: Work):
    push(image("one"), host(work), "team/app", "1")
    work.wish("{host}/team/app:1")
    assert work.run().status == 0
    name = work.named("team/app:1")
    found = events(work)
    actions = [event["action"] for event in found]
    assert actions == [
        "start_ducc", "start_image",
        "start_layer_download", "end_layer_download",
        "start_layer_conversion", "end_layer_conversion",
        "start_flat_conversion", "end_flat_conversion",
        "start_publication", "end_publication", "publish_layer", "publish_flat_image",
        "end_image", "end_ducc",
    ]  # fmt: skip
    assert len({event["run"] for event in found}) == 1
    for event in found:
        if event["action"].startswith("end_") and event["action"] != "end_ducc":
            start = event["action"].replace("end_", "start_")
            [begun] = [one for one in found if one["action"] == start]
            assert begun["id"] == event["id"] and event["status"] == "ok"
            assert begun["image"] == event["image"] == name
    [shown] = events(work, "publish_flat_image")
    link = work.repository.path / shown["public_path"]
    assert link.resolve() == (work.repository.path / shown["private_path"]).resolve()


class Held:
    """Keeps a request waiting until it is let go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()

    def again(self) -> None:
        self.reached.clear()
        self.released.clear()

    def __call__(self, handler: FaultyHandler, answer: Answer) -> None:
        half = len(answer.body) // 2
        handler.send_head(answer, len(answer.body))
        handler.wfile.write(answer.body[:half])
        handler.wfile.flush()
        self.reached.set()
        self.released.wait(120)
        handler.wfile.write(answer.body[half:])
