from __future__ import annotations

import pytest

from duccmake.fs.files import write_atomically
from duccmake.oci.content_store import ContentStore
from duccmake.planning.poll_memory import Poll, PollMemory
from support.staged_trees import digest_of

POLL = Poll(digest_of("top"), digest_of("manifest"), digest_of("config"), 1_700_000_000.5)


def test_what_is_remembered_is_there_for_the_next_run(tmp_path):
    memory = PollMemory(tmp_path / "polls.json")
    memory.remember("image", POLL)
    memory.remember_tags("glob", ("1", "2"), 7.0)
    memory.save()
    again = PollMemory(tmp_path / "polls.json")
    assert again.poll("image") == POLL
    assert again.tags("glob") == (("1", "2"), 7.0)
    assert again.poll("another") is None and again.tags("another") is None


def test_a_memory_that_did_not_change_is_not_written_again(tmp_path):
    path = tmp_path / "polls.json"
    memory = PollMemory(path)
    memory.save()
    assert not path.exists()
    memory.remember("image", POLL)
    memory.save()
    before = path.stat().st_ino
    again = PollMemory(path)
    again.remember("image", POLL)
    again.save()
    assert path.stat().st_ino == before


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"polls": {"image": 3}}', b'{"polls": {"image": ["a"]}}',
     b'{"polls": {"image": ["sha256:../../x", "a", "b", 1]}}', b'{"polls": null}',
     b'{"polls": [], "tags": 7}'],
)  # fmt: skip
def test_a_damaged_memory_is_an_empty_one(tmp_path, content):
    (tmp_path / "polls.json").write_bytes(content)
    memory = PollMemory(tmp_path / "polls.json")
    assert memory.poll("image") is None
    assert memory.tags("glob") is None
    memory.remember("image", POLL)
    memory.save()
    assert PollMemory(tmp_path / "polls.json").poll("image") == POLL


def test_content_is_kept_under_its_digest(tmp_path):
    store = ContentStore(tmp_path)
    assert store.get(digest_of("x")) is None
    store.put(digest_of("x"), b"x")
    assert store.get(digest_of("x")) == b"x"
    assert store.path(digest_of("x")).name == digest_of("x").hex


def test_content_that_was_damaged_is_not_there_and_can_be_put_again(tmp_path):
    store = ContentStore(tmp_path)
    store.put(digest_of("content"), b"content")
    store.path(digest_of("content")).write_bytes(b"conte")
    assert store.get(digest_of("content")) is None
    assert not store.has(digest_of("content"))
    store.put(digest_of("content"), b"content")
    assert store.get(digest_of("content")) == b"content"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
