"""JSON on which readers differ is refused, wherever in a manifest or a configuration it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duccmake.errors import ManifestError
from duccmake.oci.json_object import JsonObject, parse_json
from duccmake.oci.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, ImageConfig, parse_manifest

DIGEST = "sha256:" + "a" * 64
LABELS = {"a": "1", "A": "2", "digest": "x", "Digest": "y", "\u017f": "3", "s": "4"}


def descriptor(media_type: str, **more: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 10, **more}


MANIFEST = {
    "schemaVersion": 2,
    "mediaType": OCI_MANIFEST,
    "config": descriptor(OCI_CONFIG),
    "layers": [
        descriptor("application/vnd.oci.image.layer.v1.tar", urls=["https://x.example.org/l"])
    ],
    "annotations": LABELS,
}
INDEX = {
    "schemaVersion": 2,
    "mediaType": OCI_INDEX,
    "manifests": [
        descriptor(
            OCI_MANIFEST,
            artifactType="x",
            annotations=LABELS,
            platform={"os": "linux", "architecture": "arm64", "variant": "v8"},
        )
    ],
    "annotations": LABELS,
}
CONFIG = {
    "os": "linux",
    "architecture": "arm64",
    "variant": "v8",
    "created": "2024-01-01T00:00:00Z",
    "config": {
        "Env": ["A=b"],
        "Entrypoint": ["a"],
        "Cmd": ["b"],
        "WorkingDir": "/",
        "User": "u",
        "Labels": LABELS,
    },
    "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
}
PARSED: list[tuple[dict[str, Any], Callable[[bytes], object]]] = [
    (MANIFEST, parse_manifest),
    (INDEX, parse_manifest),
    (CONFIG, ImageConfig.parse),
]
"""Documents in which every member decides something, but annotations and labels."""

Path = tuple[str | int, ...]
_FREE = ("annotations", "Labels")


def members(value: object, path: Path = ()) -> Iterator[Path]:
    """Where each member of a document is that decides something."""
    if isinstance(value, dict):
        for name, member in value.items():
            if name not in _FREE or not path or path[-1] not in _FREE:
                yield (*path, name)
            if name not in _FREE:
                yield from members(member, (*path, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from members(item, (*path, number))


def written(value: object, change: dict[Path, list[str]], path: Path = ()) -> str:
    """JSON in which the members at some paths stand under other names, or several."""
    if isinstance(value, list):
        items = [written(item, change, (*path, n)) for n, item in enumerate(value)]
        return f"[{','.join(items)}]"
    if not isinstance(value, dict):
        return json.dumps(value)
    found = []
    for name, member in value.items():
        text = written(member, change, (*path, name))
        found += [f"{json.dumps(each)}:{text}" for each in change.get((*path, name), [name])]
    return f"{{{','.join(found)}}}"


DECIDING = [
    pytest.param(document, parse, path, id="/".join(map(str, path)))
    for document, parse in PARSED
    for path in members(document)
    if path[-1] != "annotations"
]


def test_the_documents_themselves_are_read():
    for document, parse in PARSED:
        assert parse(written(document, {}).encode())
    assert len(DECIDING) > 30


@pytest.mark.parametrize(("document", "parse", "path"), DECIDING)
def test_a_member_in_another_letter_case_is_refused_and_named(document, parse, path):
    name = path[-1]
    others = {
        name.upper(),
        name.lower(),
        name.title(),
        name.swapcase(),
        name.replace("s", "\u017f"),
    }
    for other in others - {name}:
        for names in ([other], [name, other], [other, name]):
            with pytest.raises(ManifestError) as caught:
                parse(written(document, {path: names}).encode())
            assert repr(other) in str(caught.value) and repr(name) in str(caught.value)


@pytest.mark.parametrize(("document", "parse", "path"), DECIDING)
def test_a_member_that_stands_twice_is_refused_and_named(document, parse, path):
    with pytest.raises(ManifestError, match=f"several members '{path[-1]}'"):
        parse(written(document, {path: [path[-1]] * 2}).encode())


@pytest.mark.parametrize(("document", "parse"), PARSED)
def test_labels_and_annotations_may_differ_in_letter_case_but_not_stand_twice(document, parse):
    text = json.dumps(document)
    assert '"A": "2"' in text
    with pytest.raises(ManifestError, match="several members 'a'"):
        parse(text.replace('"A": "2"', '"\\u0061": "2"').encode())


def test_members_that_decide_nothing_may_have_any_case():
    for document, parse in PARSED:
        parse(json.dumps({**document, "Extra": 1, "extra": 2, "comment": "x"}).encode())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(JSON, st.booleans())
def test_any_other_document_is_read_as_python_reads_it(value, plain):
    text = json.dumps(value, ensure_ascii=plain)
    assert parse_json(text.encode(errors="surrogatepass"), "it") == json.loads(text)


@settings(deadline=None)
@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=4), st.integers(0, 5), st.data())
def test_a_name_that_stands_twice_is_found_in_any_depth(value, depth, data):
    twice = data.draw(st.sampled_from(sorted(value)))
    text = written(value, {(twice,): [twice, twice]})
    for _ in range(depth):
        text = data.draw(st.sampled_from(["[1,%s]", '{"x":%s}'])) % text
    with pytest.raises(ManifestError, match="several members"):
        parse_json(text.encode(), "it")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "not JSON"),
        ("{}".encode("utf-16-le"), "not JSON"),
        ("{}".encode("utf-32-be"), "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b'{"a": "\xed\xa0\x80"}', "not JSON"),
        (b'{"a": "\n"}', "not JSON"),
        (b"{} {}", "not JSON: Extra data.*begins with"),
        (b"{}\0", "not JSON"),
        (b"{}}", "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": 01}', "not JSON"),
        (b'{"a": +1}', "not JSON"),
        (b'{"a": .5}', "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"/**/{}", "not JSON"),
        (b'{"a": %s}' % (b"9" * 5000), "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": [-Infinity]}', "-Infinity"),
        (b"[" * 100_000 + b"]" * 100_000, "nested"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested"),
    ],
)  # fmt: skip
def test_what_only_some_readers_take_for_json_is_refused(raw, reason):
    with pytest.raises(ManifestError, match=reason):
        parse_json(raw, "it")


@pytest.mark.parametrize(
    "text", ["1e1", "10.0", "-1", '"10"', "true", "null", "[10]", str(2**63), "1" + "0" * 400]
)
def test_a_size_is_a_whole_number_that_is_written_as_one(text):
    members = JsonObject.parse(b'{"size": %s}' % text.encode(), "it")
    with pytest.raises(ManifestError, match="it has the size"):
        members.size("size")


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1))
def test_any_size_up_to_63_bits_is_read(size):
    assert JsonObject.parse(b'{"size": %d}' % size, "it").size("size") == size


def test_what_is_null_is_not_there():
    members = JsonObject.parse(b'{"a": null, "map": {"key": null}}', "it")
    assert (members.text("a"), members.array("a"), members.nested("a").members) == ("", [], {})
    assert members.has("a") and not members.has("b")
    assert members.nested("map").all_texts() == {"key": ""}
