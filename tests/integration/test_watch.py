"""The watcher from outside: what wakes it, what it survives, how it ends."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.crashes import leftovers
from support.faulty_registry import FaultyRegistry, Held, status
from support.images import LayerBuilder, push
from support.runs import Work, fresh_work
from support.samples import AMD64, slow_layer, text_image
from support.servers import docker_registry
from support.watching import (
    Program,
    deaths,
    events,
    eventually,
    listening,
    polls,
    storm,
    systemd,
    watching,
)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    with fresh_work(tmp_path, FaultyRegistry) as work:
        work.configure(platforms=[str(AMD64)], watch={"retry": 1})
        yield work


def test_a_push_to_debians_registry_becomes_visible(tmp_path: Path):
    work = Work(tmp_path / "work")
    work.path.mkdir()
    work.wish("https://r.example.org/none:1")
    work.configure(platforms=[str(AMD64)])
    with listening(work) as webhook:
        notify = {f"{webhook.url}/distribution": "none"}
        with docker_registry(tmp_path / "registry", notify=notify) as registry:
            base = LayerBuilder().dir("etc").file("etc/base", "base").layer()
            push(text_image("one", base), registry.host, "team/app", "1")
            push(text_image("one", base), registry.host, "team/app", "other")
            work.wish(f"http://{registry.host}/team/app:1", f"http://{registry.host}/team/new:*")
            link = work.repository.path / registry.host / "team"
            with watching(work) as watch:
                eventually((link / "app:1/content").is_file, "the first", watch)
                push(text_image("two", base), registry.host, "team/app", "1")
                eventually(
                    lambda: (link / "app:1/content").read_text() == "two", "the second", watch
                )
                push(text_image("new", base), registry.host, "team/new", "v1")
                eventually((link / "new:v1/content").is_file, "a glob's new one", watch)
                assert watch.stop() == 0
    assert {event["scope"] for event in polls(work)} == {"all", "some"}
    assert webhook.waiting() == []


def test_a_storm_of_notices_gives_few_runs_and_loses_no_image(work: Work):
    # No poll by itself comes to the rescue.
    work.configure(platforms=[str(AMD64)], watch={"retry": 3600, "interval": 3600})
    names = [f"team/app{number}" for number in range(20)]
    for name in names:
        work.push(f"{name}:1", text_image("old"))
    work.wish(*(f"{{host}}/{name}:1" for name in names))
    with listening(work) as webhook, watching(work) as watch:
        eventually(lambda: len(polls(work)) == 1, "the first poll", watch)

        def move(name: str) -> None:
            work.push(f"{name}:1", text_image("moved"))

        storm(webhook, work.host, names, 1000, move)

        def settled() -> bool:
            taken = work.path / "results/notices/taken"
            return (
                not webhook.waiting()
                and not list(taken.iterdir())
                and all(work.content(f"{name}:1") == "moved" for name in names)
            )

        eventually(settled, "all images", watch, webhook)
        assert watch.stop() == 0
    assert len(polls(work)) <= 12
    assert all(event["completed"] == "True" for event in polls(work)[:-1])


def test_killed_in_each_phase_it_goes_on_and_publishes_whole_images(work: Work):
    upper = slow_layer("upper")
    work.push("team/app:1", text_image("one", upper))
    work.wish("{host}/team/app:1")
    for _ in deaths(work, "team/app:1", upper):
        assert work.repository.verify(work.named("team/app:1")) in (
            [f"{work.named('team/app:1')} is not published, or not wholly"],
            [],
        )
    with watching(work) as watch:
        eventually(lambda: work.content("team/app:1") == "one", "the image", watch)
        watch.says("taking its lock away")
        eventually(lambda: polls(work)[-1:] and polls(work)[-1]["completed"] == "True", "a poll")
        assert watch.stop() == 0
    assert work.repository.verify(work.named("team/app:1")) == []
    assert leftovers(work.repository.path) == []


def test_told_to_stop_it_finishes_the_transaction_and_no_download(work: Work):
    assert isinstance(work.registry, FaultyRegistry)
    upper, other = slow_layer("upper"), slow_layer("other", 300)
    work.push("team/app:1", text_image("one", upper))
    work.push("team/slow:1", text_image("two", other))
    work.wish("{host}/team/app:1", "{host}/team/slow:1")
    held = Held()
    held.again()
    work.registry.break_next(f"blobs/.*{other.digest.hex}", held)
    journal = work.repository.path / ".duccmake/journal.json"
    with watching(work) as watch:
        eventually(held.reached.is_set, "a download", watch)
        eventually(journal.exists, "a transaction", watch)
        # The download would never end by itself: it is cut off before it can say so.
        assert watch.stop() == 0
    ended = {event["layer"] for event in events(work, "end_layer_download")}
    held.released.set()
    assert upper.digest.hex in ended and other.digest.hex not in ended
    assert work.repository.verify(work.named("team/app:1")) == []
    assert work.content("team/app:1") == "one"
    assert not journal.exists()
    assert work.content("team/slow:1") is None
    run = work.run(check=True)
    assert "--unlock" not in run.said
    assert work.content("team/slow:1") == "two"


def test_a_registry_that_comes_back_is_asked_again_soon(work: Work):
    assert isinstance(work.registry, FaultyRegistry)
    work.push("team/app:1", text_image("one"))
    work.wish("{host}/team/app:1")
    with watching(work) as watch:
        eventually(lambda: work.content("team/app:1") == "one", "the image", watch)
        eventually(lambda: len(polls(work)) == 1, "the first poll", watch)
        fault = work.registry.break_next("^(GET|HEAD) .*manifests/1", status(503), 10_000)
        work.push("team/app:1", text_image("two"))
        (work.path / "config/recipe.yaml").touch()
        eventually(lambda: len(polls(work)) >= 3, "tries while it is down", watch)
        assert polls(work)[1]["failed_images"] == "1"
        assert work.content("team/app:1") == "one"
        fault.times = 0
        eventually(lambda: work.content("team/app:1") == "two", "the new one", watch)


def test_a_broken_list_changes_nothing_and_its_mending_counts_at_once(work: Work):
    work.push("team/app:1", text_image("one"))
    work.push("team/new:1", text_image("two"))
    path = work.wish("{host}/team/app:1")
    good = path.read_text()
    with watching(work) as watch:
        eventually(lambda: work.content("team/app:1") == "one", "the image", watch)
        eventually(lambda: len(polls(work)) == 1, "the first poll", watch)
        path.write_text(good + "more: [broken\n")
        eventually(lambda: polls(work)[-1]["completed"] == "False", "notices it", watch)
        assert work.content("team/app:1") == "one"
        watch.says("not YAML")
        new = path.with_name("new.yaml")
        new.write_text(f"{good}- http://{work.host}/team/new:1\n")
        new.replace(path)
        eventually(lambda: work.content("team/new:1") == "two", "the mended list", watch)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), "--cores N is missing"),
        (("--cores", "x"), "number of cores"),
        (("--cores", "1", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("--cores", "1", "--executor", "none"), "invalid choice: 'none'"),
        (("--cores", "1", "--profile", "nowhere"), "profile directory given (nowhere)"),
        (("--cores", "1", "--snakefile", "nowhere"), "there is no Snakefile nowhere"),
        (("--cores", "1", "--config", "nothing"), "Invalid config definition"),
        (("--cores", "1", "--resources", "a=b"), "Resource 'a' was given value 'b'"),
        (("--cores", "1", "everything"), "there is no target everything"),
        (("--cores", "1", "-n"), "only shows something"),
    ],
)
def test_a_wrong_command_line_ends_the_watcher_at_once_and_is_told(
    tmp_path: Path, options: tuple[str, ...], wanted: str
):
    work = Work(tmp_path / "work")
    work.path.mkdir()
    work.wish("https://r.example.org/none:1")
    watch = Program(work, "watch.py", *options)
    assert watch.ends() == 2
    [line] = watch.said().splitlines()
    assert wanted in line
    told = json.loads((work.path / "results/status/status.json").read_bytes())["run"]["error"]
    assert told == line.removeprefix("duccmake-watch: ")
    assert [event["error"] for event in events(work)] == [told]


def test_options_that_are_meant_are_no_wrong_command_line(tmp_path: Path):
    work = Work(tmp_path / "work")
    work.path.mkdir()
    work.wish()
    for options in (["-j", "2"], ["-c2", "--retries", "1", "all", "prune"]):
        watch = Program(work, "watch.py", *options)
        eventually(lambda: polls(work) or None, "a poll", watch)
        assert watch.stop() == 0
        assert polls(work)[-1]["completed"] == "True"
        (work.path / "logs/events.jsonl").unlink()


def test_a_run_that_dies_is_told_and_another_one_follows(work: Work, tmp_path: Path):
    assert isinstance(work.registry, FaultyRegistry)
    work.push("team/app:1", text_image("one"))
    work.wish("{host}/team/app:1")
    held = Held()
    held.again()
    work.registry.break_next("^GET .*/blobs/", held)
    broken = tmp_path / "broken/snakemake/__init__.py"
    broken.parent.mkdir(parents=True)
    broken.write_text("raise ImportError('what it needs is gone')\n")
    with watching(work, env={"PYTHONPATH": str(tmp_path / "broken")}) as watch:
        told(work, "Snakemake ended with status 1", watch)
        watch.says("what it needs is gone")
        shutil.rmtree(broken.parent)
        eventually(held.reached.is_set, "a download", watch)
        [snakemake] = [
            process
            for process in psutil.Process(watch.process.pid).children()
            if "snakemake" in process.cmdline()
        ]
        snakemake.kill()
        told(work, "Snakemake was killed by SIGKILL", watch)
        held.released.set()
        eventually(lambda: work.content("team/app:1") == "one", "the image", watch)
        assert watch.stop() == 0


def told(work: Work, wanted: str, watch: Program) -> None:
    """Wait until the status, the event log and the watcher's own log say what became of a run."""
    status = work.path / "results/status/status.json"
    eventually(lambda: status.exists() and wanted in status.read_text(), "its status", watch)
    eventually(
        lambda: any(wanted in poll.get("reason", "") for poll in polls(work)),
        "the poll's event",
        watch,
    )
    [event] = [event for event in events(work, "end_ducc") if wanted in event.get("error", "")]
    assert event["status"] == "error"
    watch.says(wanted)


def test_a_deletion_makes_for_a_poll_of_all_and_removes_nothing_by_itself(work: Work):
    work.push("team/app:1", text_image("one"))
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
    assert work.content("team/app:1") == "one"


def test_a_list_that_changes_during_a_run_counts_after_it(work: Work):
    assert isinstance(work.registry, FaultyRegistry)
    for name in ("app", "new"):
        work.push(f"team/{name}:1", text_image(name))
    work.wish("{host}/team/app:1")
    held = Held()
    work.registry.break_next("^GET .*/blobs/", held)
    with watching(work) as watch:
        eventually(held.reached.is_set, "a run", watch)
        work.wish("{host}/team/app:1", "{host}/team/new:1")
        watch.says("a wish list has changed")
        held.released.set()
        eventually(lambda: work.content("team/new:1") == "new", "the new one", watch)


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
    upper = slow_layer("upper", 10)
    work.push("team/app:1", text_image("one", upper))
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
            assert work.content("team/app:1") == "one"


def test_the_event_log_tells_the_whole_way_of_an_image(work: Work):
    work.push("team/app:1", text_image("one"))
    work.wish("{host}/team/app:1")
    work.run(check=True)
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
