"""Lists of tags are read to their end, however registries cut them into pages."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duccmake.errors import NotFound, RegistryError, RegistryUnavailable, Unauthorized
from duccmake.oci.manifest import OCI_MANIFEST
from duccmake.registry import tag_pages
from duccmake.registry.client import Client
from duccmake.registry.http.transport import Reply
from duccmake.registry.settings import RegistrySettings
from duccmake.registry.tag_pages import IncompleteList, list_tags, parse_page
from support.faulty_registry import FaultyRegistry
from support.servers import add_image, reference, skopeo
from support.tag_lists import LAST, OPAQUE, TagLists, asked_for

URL = "https://r.example.org/v2/team/app/tags/list"
TAGS = tuple(f"v{number:03}" for number in range(25))


class Registry:
    """Answers requests for lists in one way, and keeps what it was asked."""

    def __init__(self, lists: TagLists, tags=TAGS) -> None:
        self.lists = lists
        self.tags = tags
        self.asked: list[str] = []

    def __call__(self, url: str) -> tag_pages.Page:
        parts = urlsplit(url)
        assert (parts.scheme, parts.netloc) == ("https", "r.example.org")
        self.asked.append(f"{parts.path}?{parts.query}")
        name, query = asked_for(parts.path + "?" + parts.query)
        if name != "team/app":
            raise NotFound("404")
        answer = self.lists.page(name, self.tags, query, parts.netloc)
        if answer.status != 200:
            raise RegistryError(f"status {answer.status}")
        return parse_page(Reply(200, url, answer.headers, answer.body))


def listed(lists: TagLists, tags=TAGS) -> list[str]:
    return list_tags(URL, Registry(lists, tags))


LINKS = {
    "as it should be": '</v2/{name}/tags/list?{cursor}>; rel="next"',
    "at another scheme": '<http://{host}/v2/{name}/tags/list?{cursor}>; rel="next"',
    "at an inner host": '<https://registry:5000/v2/{name}/tags/list?{cursor}>; rel="next"',
    "at a path of a repository within": '</v2/app/tags/list?{cursor}>; rel="next"',
    "without the path's beginning": '</{name}/tags/list?{cursor}>; rel="next"',
    "with the path's end alone": '</tags/list?{cursor}>; rel="next"',
    "relative": '<list?{cursor}>; rel="next"',
    "the query alone": '<?{cursor}>; rel="next"',
    "at an inner path": '<http://{host}/repository/p/v2/{name}/tags/list?{cursor}>; rel="next"',
    "without quotes": "</v2/{name}/tags/list?{cursor}>;rel=next",
    "in capitals": '</v2/{name}/tags/list?{cursor}>; REL="Next"',
    "without a relation": "</v2/{name}/tags/list?{cursor}>",
    "without brackets": '/v2/{name}/tags/list?{cursor}; rel="next"',
    "after others": '</x?n=1>; rel="first", <?{cursor}>; title="a"; rel="last next"',
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS.keys())
@pytest.mark.parametrize("cursor", [LAST, OPAQUE])
def test_a_link_is_followed_at_the_registry_that_was_asked(link, cursor):
    assert listed(TagLists(size=10, link=link, cursor=cursor, last=cursor == LAST)) == list(TAGS)


def test_what_a_link_asks_for_is_asked_for_letter_by_letter():
    registry = Registry(TagLists(size=10, cursor=OPAQUE))
    list_tags(URL, registry)
    assert registry.asked[1] == "/v2/team/app/tags/list?next_page=10.0%3D%3D&n=10"


@pytest.mark.parametrize("link", ['</docs>; rel="help"', '<https://[::1>; rel="next"', "", ";"])
def test_a_link_that_leads_to_no_page_does_not_end_a_list(link):
    assert listed(TagLists(size=10, link=link)) == list(TAGS)


def test_a_link_that_leads_back_is_not_followed_again_and_the_list_goes_on_after_its_last():
    assert listed(TagLists(size=10, counts=False, cursor="n={n}")) == list(TAGS)


def test_a_link_with_a_path_of_its_own_for_the_next_page_is_followed():
    pages = {
        URL: ("a", "</v2/team/app/tags/list/2>; rel=next"),
        f"{URL}/2": ("b", "</v2/team/app/tags/list/3>; rel=next"),
        f"{URL}/3": ("c", ""),
    }

    def ask(url: str) -> tag_pages.Page:
        name, link = pages[url]
        body = json.dumps({"tags": [name]}).encode()
        return parse_page(Reply(200, url, {"Link": link} if link else {}, body))

    assert list_tags(URL, ask) == ["a", "b", "c"]


@pytest.mark.parametrize("size", [1, 10, 24, 25])
def test_where_there_is_no_link_the_list_goes_on_after_its_last(size):
    assert listed(TagLists(size=size, most=size, link="")) == list(TAGS)


def test_a_registry_that_says_the_end_by_a_missing_link_is_believed():
    registry = Registry(TagLists(size=10))
    list_tags(URL, registry)
    assert len(registry.asked) == 3


def test_a_registry_that_lists_all_at_once_is_asked_whether_there_is_more_and_no_further():
    registry = Registry(TagLists(link="", counts=False, last=False))
    assert list_tags(URL, registry) == list(TAGS)
    assert registry.asked[1:] == ["/v2/team/app/tags/list?n=1000&last=v024"]


def test_a_number_that_is_too_large_is_asked_for_in_smaller_ones_or_not_at_all():
    assert listed(TagLists(size=5, most=5, refuses=400, link="")) == list(TAGS)
    assert listed(TagLists(size=100, most=100, refuses=400), TAGS) == list(TAGS)


def test_a_registry_that_wants_a_number_gets_one():
    def ask(url: str) -> tag_pages.Page:
        if "n=" not in url:
            raise RegistryError("status 400")
        return Registry(TagLists(most=10, link=""))(url)

    assert list_tags(URL, ask) == list(TAGS)


def test_a_page_as_long_as_was_asked_for_that_leads_nowhere_is_not_all_there_is():
    many = tuple(f"v{number:04}" for number in range(1201))
    with pytest.raises(IncompleteList, match="1000 tags") as caught:
        listed(TagLists(size=1000, link="", last=False), many)
    assert caught.value.tags == list(many[:1000])
    assert listed(TagLists(size=50, link="", last=False), many[:800]) == list(many[:800])


def test_a_number_that_is_wanted_and_reached_is_not_all_there_is_either():
    def ask(url: str) -> tag_pages.Page:
        if not url.endswith("?n=100"):
            raise RegistryError("status 400")
        return Registry(TagLists(link=""), tuple(f"v{number}" for number in range(300)))(url)

    with pytest.raises(IncompleteList, match="100 tags"):
        list_tags(URL, ask)


def test_pages_that_list_nothing_are_passed_by():
    assert listed(TagLists(size=10, cursor=OPAQUE, blank=3)) == list(TAGS)


@pytest.mark.parametrize(
    "body",
    [
        lambda number: {"tags": ["a"]},
        lambda number: {"tags": []},
        lambda number: {"tags": [f"t{number}"]},
    ],
    ids=["the same page", "empty pages", "new tags"],
)
@pytest.mark.parametrize("link", ["?n=1", "?x={number}"], ids=["back", "on"])
def test_a_list_without_end_is_given_up(body, link, monkeypatch):
    monkeypatch.setattr(tag_pages, "MAX_PAGES", 50)
    asked = []

    def ask(url: str) -> tag_pages.Page:
        asked.append(url)
        header = {"Link": f"<{link.format(number=len(asked))}>; rel=next"}
        return parse_page(Reply(200, url, header, json.dumps(body(len(asked))).encode()))

    with pytest.raises(RegistryError, match="without end"):
        list_tags(URL, ask)
    assert len(asked) <= 51


@pytest.mark.parametrize(
    "error", [NotFound("404"), Unauthorized("403"), RegistryUnavailable("503")]
)
def test_a_refusal_of_the_list_is_no_reason_to_ask_for_it_in_another_way(error):
    asked = []

    def ask(url: str) -> tag_pages.Page:
        asked.append(url)
        raise error

    with pytest.raises(type(error)):
        list_tags(URL, ask)
    assert len(asked) == 1


@pytest.mark.parametrize("error", [Unauthorized("403"), RegistryUnavailable("503")])
def test_a_page_that_cannot_be_had_leaves_no_shorter_list(error):
    registry = Registry(TagLists(size=10))

    def ask(url: str) -> tag_pages.Page:
        if len(registry.asked) == 2:
            raise error
        return registry(url)

    with pytest.raises(type(error)):
        list_tags(URL, ask)


def test_what_is_no_tag_is_passed_over():
    """Nexus lists null, Artifactory digests, and names of others begin with a dash."""
    others = (None, "", "sha256:" + "0" * 64, "-beta", "v" * 129)
    assert listed(TagLists(size=10, others=others)) == list(TAGS)


@pytest.mark.parametrize("body", ['{"name": "x"}', '{"name": "x", "tags": null}', '{"tags": []}'])
def test_a_list_may_be_missing_where_there_are_no_tags(body):
    assert list_tags(URL, lambda url: parse_page(Reply(200, url, {}, body.encode()))) == []


def ways(links, **more) -> st.SearchStrategy[TagLists]:
    return st.builds(
        TagLists,
        size=st.integers(1, 70),
        most=st.integers(1, 70),
        refuses=st.sampled_from([0, 400, 416]),
        counts=st.booleans(),
        link=st.sampled_from(list(links)),
        **more,
    )


@given(
    st.sets(st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,8}", fullmatch=True), max_size=60),
    ways([*LINKS.values(), ""], cursor=st.just(LAST))
    | ways(LINKS.values(), cursor=st.just(OPAQUE), last=st.booleans(), blank=st.integers(0, 2)),
)
@settings(deadline=None)
def test_every_list_that_leads_to_its_end_is_read_to_it(tags, lists):
    assert listed(lists, tuple(sorted(tags))) == sorted(tags)


# --- registries that answer over the network ----------------------------


@pytest.mark.parametrize(
    "lists",
    [
        TagLists(size=10),
        TagLists(size=10, link=LINKS["at another scheme"]),
        TagLists(size=10, link=LINKS["at an inner host"]),
        TagLists(size=10, cursor=OPAQUE, last=False),
        TagLists(most=10**9, refuses=400),
        TagLists(size=10, cursor=OPAQUE, blank=2),
        TagLists(most=10**6, link="", size=10**6),
    ],
)
def test_what_skopeo_lists_we_list(tmp_path, lists):
    with FaultyRegistry(tmp_path / "registry", users={"me": "hunter2"}) as registry:
        add_image(registry.store, "team/app", "v000")
        raw = registry.store.manifest("team/app", "v000")[2]
        for tag in TAGS:
            registry.store.put_manifest("team/app", OCI_MANIFEST, raw, tag)
        registry.break_next("tags/list", lists, times=1000)
        known = RegistrySettings(scheme="http", username_env="U", password_env="P")
        with Client({registry.host: known}, environment={"U": "me", "P": "hunter2"}) as client:
            assert client.tags(reference(registry)) == list(TAGS)
        theirs = skopeo(
            "list-tags", "--tls-verify=false", "--creds", "me:hunter2",
            f"docker://{registry.host}/team/app",
        )  # fmt: skip
        assert json.loads(theirs)["Tags"] == list(TAGS)
