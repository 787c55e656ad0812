"""What each registry sends, and which of it counts."""

from __future__ import annotations

import base64
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from duccmake.config.configuration import Config
from duccmake.recipe.sources import git
from duccmake.recipe.sources.load import load_sources
from duccmake.service.notices import Notice
from duccmake.service.webhook.coverage import WishLists
from duccmake.service.webhook.formats import READERS, git_place
from duccmake.service.webhook.secrets import is_genuine
from duccmake.workspace.results import SOURCES
from support.wishes import recipe

DIGEST = f"sha256:{'ab' * 32}"
INDEX = "application/vnd.oci.image.index.v1+json"


def event(action: str, repository: str, **target: str) -> dict[str, Any]:
    return {
        "action": action,
        "target": {"repository": repository, "url": "http://r.example.org/v2/x", **target},
        "request": {"host": "r.example.org"},
    }


def read(sender: str, body: Any) -> list[tuple[str, ...]]:
    return [
        (item.action, item.registry, item.repository, item.tag, item.digest)
        for item in READERS[sender](body)
    ]


def test_harbor_tells_of_pushed_and_deleted_artifacts():
    def body(kind: str, *urls: str, key: str = "event_data") -> dict[str, Any]:
        resources = [{"digest": DIGEST, "tag": "1", "resource_url": url} for url in urls]
        return {"type": kind, "operator": "x", key: {"resources": resources, "repository": {}}}

    pushed = body("PUSH_ARTIFACT", "h.example.org/team/app:1", f"h.example.org/team/app@{DIGEST}")
    assert read("harbor", pushed) == [
        ("push", "h.example.org", "team/app", "1", ""),
        ("push", "h.example.org", "team/app", "", DIGEST),
    ]
    gone = body("DELETE_ARTIFACT", f"h.example.org/team/app@{DIGEST}", "h.example.org/a:1")
    assert read("harbor", gone) == [
        ("delete", "h.example.org", "team/app", "", ""),
        ("delete", "h.example.org", "a", "1", ""),
    ]
    cloud = body("harbor.artifact.pushed", "h.example.org/team/app:1", key="data")
    assert read("harbor", cloud) == [("push", "h.example.org", "team/app", "1", "")]
    assert read("harbor", body("PULL_ARTIFACT", "h.example.org/team/app:1")) == []


@pytest.mark.parametrize(("kind", "action"), [("pushImage", "push"), ("deleteImage", "delete")])
def test_harbor_1_had_other_names_for_its_events(kind: str, action: str):
    resource = {"digest": DIGEST, "tag": "1", "resource_url": "h.example.org/team/app:1"}
    body = {"type": kind, "operator": "x", "event_data": {"resources": [resource]}}
    assert read("harbor", body) == [(action, "h.example.org", "team/app", "1", "")]


def test_harbor_has_named_digests_as_if_they_were_tags():
    url = f"h.example.org:8443/team/app:{DIGEST}"
    body = {"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"resource_url": url}]}}
    assert read("harbor", body) == [("push", "h.example.org:8443", "team/app", "", DIGEST)]


def test_harbors_replications_name_no_tag():
    replication = {
        "dest_resource": {"endpoint": "https://h.example.org", "namespace": "mirror"},
        "successful_artifact": [{"type": "image", "name_tag": "busybox [1 item(s) in total]"}],
    }
    body = {"type": "REPLICATION", "event_data": {"replication": replication}}
    assert read("harbor", body) == [("push", "h.example.org", "mirror/busybox", "", "")]


@pytest.mark.parametrize(
    ("endpoint", "namespace", "name", "place"),
    [
        ("https://h.example.org/", "mirror", "busybox:1", ("h.example.org", "mirror/busybox")),
        ("h.example.org:8443", "mirror", "deep", ("h.example.org:8443", "mirror/deep")),
        ("http://h.example.org/api", "", "busybox", ("h.example.org", "busybox")),
        ("https://[::1]:443", "a", "b [2 item(s) in total]", ("[::1]:443", "a/b")),
    ],
)
def test_where_harbor_replicates_to(
    endpoint: str, namespace: str, name: str, place: tuple[str, str]
):
    replication = {
        "dest_resource": {"endpoint": endpoint, "namespace": namespace},
        "successful_artifact": [{"type": "image", "name_tag": name}],
    }
    body = {"type": "harbor.replication.status.changed", "data": {"replication": replication}}
    (found,) = READERS["harbor"](body)
    assert (found.registry, found.repository, found.tag, found.below) == (*place, "", True)


@pytest.mark.parametrize("sender", ["distribution", "gitlab"])
def test_distribution_tells_of_manifests_and_not_of_layers(sender: str):
    events = [
        event("push", "team/app", tag="1", digest=DIGEST, mediaType=INDEX),
        event("push", "team/app", digest=DIGEST, mediaType=INDEX),
        event("push", "team/app", digest=DIGEST, mediaType="application/octet-stream"),
        event("pull", "team/app", tag="1", digest=DIGEST, mediaType=INDEX),
        event("delete", "team/app", digest=DIGEST),
        event("delete", "team/app", tag="1"),
    ]
    assert read(sender, {"events": events}) == [
        ("push", "r.example.org", "team/app", "1", DIGEST),
        ("push", "r.example.org", "team/app", "", DIGEST),
        ("delete", "r.example.org", "team/app", "", ""),
        ("delete", "r.example.org", "team/app", "1", ""),
    ]


def test_gitlab_tells_of_pipelines_and_of_pushes_to_lists():
    project = {
        "path_with_namespace": "Group/App",
        "git_http_url": "https://git.example.org/group/app.git",
        "git_ssh_url": "git@git.example.org:group/app.git",
    }
    done = {"object_kind": "pipeline", "object_attributes": {"status": "success"}}
    assert read("gitlab", {**done, "project": project}) == [("project", "", "group/app", "", "")]
    failed = {"object_kind": "pipeline", "object_attributes": {"status": "failed"}}
    assert read("gitlab", {**failed, "project": project}) == []
    assert set(read("gitlab", {"object_kind": "push", "project": project})) == {
        ("list", "", "git.example.org/group/app", "", "")
    }


def test_docker_hub_tells_of_a_tag():
    body = {"push_data": {"tag": "12"}, "repository": {"repo_name": "library/debian"}}
    assert read("dockerhub", body) == [("push", "docker.io", "library/debian", "12", "")]


@pytest.mark.parametrize("pushed", [{}, {"tag": None}, {"tag": ""}, {"images": []}])
def test_without_a_tag_docker_hub_means_all_of_the_repository(pushed: dict[str, Any]):
    body = {"push_data": pushed, "repository": {"repo_name": "library/debian"}}
    assert read("dockerhub", body) == [("push", "docker.io", "library/debian", "", "")]


def test_azure_tells_of_one_event():
    pushed = event("push", "team/app", tag="1", digest=DIGEST, mediaType=INDEX)
    assert read("azure", pushed) == [("push", "r.example.org", "team/app", "1", DIGEST)]
    del pushed["target"]["tag"]
    assert read("azure", pushed) == [("push", "r.example.org", "team/app", "", DIGEST)]
    deleted = event("delete", "team/app", digest=DIGEST, mediaType=INDEX)
    assert read("azure", deleted) == [("delete", "r.example.org", "team/app", "", "")]
    chart = event("chart_push", "charts/app", tag="1", digest=DIGEST, mediaType=INDEX)
    assert read("azure", chart) == []
    assert read("azure", {"id": "x", "action": "ping"}) == []


@pytest.mark.parametrize("tags", [["1", "latest"], {"1": "b750fe79", "latest": "b750fe79"}])
def test_quay_tells_of_tags(tags: Any):
    body = {"docker_url": "quay.example.org:8443/team/app", "updated_tags": tags, "name": "app"}
    assert read("quay", body) == [
        ("push", "quay.example.org:8443", "team/app", "1", ""),
        ("push", "quay.example.org:8443", "team/app", "latest", ""),
    ]


@pytest.mark.parametrize("tags", [None, "latest", [], [None, 5, "", "a/b", "*", "x" * 129], {}])
def test_what_else_quay_tells_names_nothing(tags: Any):
    assert read("quay", {"docker_url": "quay.io/team/app", "updated_tags": tags}) == []
    scanned = {"docker_url": "quay.io/team/app", "tags": ["1"], "vulnerability": {"id": "CVE-1"}}
    assert read("quay", scanned) == []


def package(url: str | None, **members: Any) -> dict[str, Any]:
    version: dict[str, Any] = {
        "version": DIGEST,
        "container_metadata": {"tag": {"name": "latest", "digest": DIGEST}},
    }
    if url is not None:
        version["package_url"] = url
    return {
        "name": "tools/app",
        "namespace": "Team",
        "ecosystem": "CONTAINER",
        "package_type": "CONTAINER",
        "package_version": version,
        **members,
    }


@pytest.mark.parametrize("event", ["package", "registry_package"])
@pytest.mark.parametrize("action", ["published", "updated"])
@pytest.mark.parametrize(
    "url",
    [
        "ghcr.io/team/tools/app:latest", "ghcr.io/Team/tools/app:", "ghcr.io/team/tools/app",
        "https://ghcr.io/team/tools/app:v1.2", f"ghcr.io/team/tools/app@{DIGEST}", "", None,
    ],
)  # fmt: skip
def test_github_tells_of_versions_of_a_package_and_its_tag_is_one_of_many(
    event: str, action: str, url: str | None
):
    body = {"action": action, event: package(url)}
    assert read("ghcr", body) == [("push", "ghcr.io", "team/tools/app", "", DIGEST)]


def test_github_tells_of_other_packages_and_other_registries():
    own = package("containers.github.example.org/team/app:1", package_type="docker", ecosystem=None)
    assert read("ghcr", {"action": "published", "package": own}) == [
        ("push", "containers.github.example.org", "team/app", "", DIGEST)
    ]
    owned = package(None, namespace=None, owner={"login": "Someone"}, package_version=None)
    assert read("ghcr", {"action": "published", "package": owned}) == [
        ("push", "ghcr.io", "someone/tools/app", "", "")
    ]
    for other in ("npm", "NUGET", None, 5):
        body = {"action": "published", "package": package(None, package_type=other, ecosystem="x")}
        assert read("ghcr", body) == []
    assert read("ghcr", {"action": "deleted", "package": package(None)}) == []
    assert read("ghcr", {"zen": "Keep it logically awesome.", "hook_id": 1}) == []


@pytest.mark.parametrize("sender", READERS)
@pytest.mark.parametrize(
    "body",
    [
        None, 5, "text", [], {}, [1, 2], {"events": 5}, {"events": [5, None, {}]},
        {"events": [{"action": "push", "target": []}]}, {"type": ["PUSH_ARTIFACT"]},
        {"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"resource_url": 5}, "x"]}},
        {"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"resource_url": "../../x"}]}},
        {"type": "REPLICATION", "event_data": {"replication": {"successful_artifact": [[]]}}},
        {"push_data": [], "repository": {}}, {"object_kind": "push", "project": []},
        {"object_kind": "push", "project": {"git_http_url": "http://[x/a.git"}},
        {"events": [{"action": "push", "target": {
            "repository": "a/b", "tag": "1", "mediaType": "manifest", "url": "http://[x/v2/"}}]},
        {"action": "push", "target": 5, "request": []}, {"action": "push", "target": {
            "repository": "a/b", "tag": "1", "mediaType": "manifest", "url": "http://[x/v2/"}},
        {"docker_url": 5, "updated_tags": ["1"]}, {"docker_url": "../x", "updated_tags": ["1"]},
        {"action": "published", "package": []}, {"action": "published", "registry_package": {
            "package_type": "container", "package_version": {"package_url": 5}, "owner": 5}},
        {"action": "published", "package": {
            "package_type": "container", "namespace": "..", "name": "../x"}},
        {"type": "REPLICATION", "event_data": {"replication": {
            "dest_resource": {"endpoint": "http://[x"}, "successful_artifact": 5}}},
    ],
)  # fmt: skip
def test_a_malformed_body_names_nothing(sender: str, body: Any):
    assert read(sender, body) == []


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.org/group/app.git",
        "https://git.example.org/group/app",
        "ssh://git@git.example.org:22/group/app.git",
        "git@git.example.org:group/app.git",
    ],
)
def test_a_git_repository_is_the_same_however_it_is_reached(url: str):
    assert git_place(url) == "git.example.org/group/app"


# --- what is wished for ---------------------------------------------------


@pytest.fixture
def wished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WishLists:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.yaml").write_text(
        recipe(
            "https://r.example.org/team/app:v*",
            "https://r.example.org/team/app:latest",
            f"https://r.example.org/team/fixed@{DIGEST}",
            "https://registry.hub.docker.com/library/debian:12",
            "https://gitlab.example.org:5050/group/app/worker:1",
        )
    )
    members = {
        "recipe": ["list.yaml", "git+https://git.example.org/group/wishes.git//recipe.yaml@main"],
        "webhook": {"aliases": {"r.internal:5000": "r.example.org"}},
    }
    config = Config.parse(members, workdir=tmp_path)
    # The list in git was read once.
    listed = recipe("https://r.example.org/from/git:1").encode()
    monkeypatch.setattr(git, "fetch", lambda source, clone: "c0ffee")
    monkeypatch.setattr(git, "content", lambda source, clone, commit: listed)
    load_sources(config.recipe, SOURCES)
    return WishLists(config)


def noticed(wished: WishLists, sender: str, body: Any) -> set[tuple[str, str]]:
    found: list[Notice] = []
    for item in READERS[sender](body):
        found += wished.notices(item, sender)
    return {(notice.action, notice.image) for notice in found}


@pytest.mark.parametrize(
    ("told", "images"),
    [
        (event("push", "team/app", tag="v1.2", mediaType=INDEX), {"r.example.org/team/app:v1.2"}),
        (event("push", "team/app", tag="dev", mediaType=INDEX), set()),
        (event("push", "team/other", tag="v1", mediaType=INDEX), set()),
        (event("push", "from/git", tag="1", mediaType=INDEX), {"r.example.org/from/git:1"}),
        (
            event("push", "team/fixed", digest=DIGEST, mediaType=INDEX),
            {f"r.example.org/team/fixed@{DIGEST}"},
        ),
        (event("push", "team/fixed", digest=DIGEST[:-1] + "0", mediaType=INDEX), set()),
        (
            event("push", "team/app", digest=DIGEST, mediaType=INDEX),
            {"r.example.org/team/app:v*", "r.example.org/team/app:latest"},
        ),
        (event("push", "team/app/below", digest=DIGEST, mediaType=INDEX), set()),
        (event("push", "team/fixed", digest="sha256:../../x", mediaType=INDEX), set()),
        (event("push", "../../x", tag="1", mediaType=INDEX), set()),
        (event("push", "team/app", tag="v1/../../x", mediaType=INDEX), set()),
        (event("push", "team/app", tag="v*", mediaType=INDEX), set()),
        (event("push", "TEAM/app", tag="v1", mediaType=INDEX), set()),
    ],
)
def test_only_what_is_wished_for_counts(wished: WishLists, told: Any, images: set[str]):
    assert noticed(wished, "distribution", {"events": [told]}) == {
        ("push", image) for image in images
    }


@pytest.mark.parametrize("sender", ["harbor", "distribution", "azure", "ghcr"])
def test_a_push_without_a_tag_counts_for_every_tag_and_for_its_own_digest(
    sender: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    other = DIGEST[:-1] + "0"
    place = "r.example.org/team/app"
    wishes = {f"{place}:1", f"{place}:v*", f"{place}@{DIGEST}", f"{place}:2@{DIGEST}"}
    others = {
        f"{place}@{other}",
        f"{place}:2@{other}",
        f"{place}/below:1",
        "r.example.org/team/b:1",
    }
    (tmp_path / "list.yaml").write_text(
        recipe(*(f"https://{name}" for name in sorted(wishes | others)))
    )
    wished = WishLists(Config.parse({"recipe": "list.yaml"}, workdir=tmp_path))
    told = event("push", "team/app", digest=DIGEST, mediaType=INDEX)
    resource = {"digest": DIGEST, "tag": DIGEST, "resource_url": f"{place}@{DIGEST}"}
    bodies = {
        "harbor": {"type": "PUSH_ARTIFACT", "event_data": {"resources": [resource]}},
        "distribution": {"events": [told]},
        "azure": told,
        "ghcr": {"action": "published", "package": package(f"{place}:1")},
    }
    assert {image for _, image in noticed(wished, sender, bodies[sender])} == wishes


PORTS = ["", ":80", ":443"]


@pytest.mark.parametrize("said", PORTS)
@pytest.mark.parametrize("written", PORTS)
@pytest.mark.parametrize("alias", ["", *PORTS])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_port_that_a_host_has_anyway_makes_no_difference(
    said: str,
    written: str,
    alias: str,
    scheme: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    for host in ("r.example.org", "[2001:db8::80]"):
        place = f"{host}{written}/team/app"
        unlike = [f"{scheme}://{host}:{port}/team/app:1" for port in (8443, 5000, 8080)]
        (tmp_path / "list.yaml").write_text(
            recipe(f"{scheme}://{place}:1", f"{scheme}://{place}:v*", *unlike)
        )
        members: dict[str, Any] = {"recipe": "list.yaml"}
        if alias:
            members["webhook"] = {"aliases": {f"inside{alias}": f"{host}{alias}"}}
        wished = WishLists(Config.parse(members, workdir=tmp_path))
        for tag, image in (("1", "1"), ("v2", "v2")):
            told = event("push", "team/app", tag=tag, mediaType=INDEX)
            told["request"]["host"] = f"{'INSIDE' if alias else host.upper()}{said}"
            assert noticed(wished, "azure", told) == {("push", f"{place}:{image}")}


@pytest.mark.parametrize("hub", ["docker.io", "index.docker.io:443", "registry-1.docker.io:80"])
def test_docker_hub_is_one_whatever_its_name_and_port(wished: WishLists, hub: str):
    told = event("push", "library/debian", tag="12", mediaType=INDEX)
    told["request"]["host"] = hub
    assert noticed(wished, "azure", told) == {("push", "registry.hub.docker.com/library/debian:12")}


@pytest.mark.parametrize("endpoint", ["https://r.example.org", "https://r.example.org:443/"])
def test_a_replication_counts_for_all_that_lies_below(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    wishes = {
        "r.example.org/mirror/a:1",
        "r.example.org/mirror/a/b:v*",
        "r.example.org/mirror/a/b/c:1",
    }
    others = {"r.example.org/mirror/ab:1", "r.example.org/mirror:1", "s.example.org/mirror/a/b:1"}
    replication = {
        "dest_resource": {"endpoint": endpoint, "namespace": "mirror"},
        "successful_artifact": [{"type": "image", "name_tag": "a"}],
    }
    body = {"type": "REPLICATION", "event_data": {"replication": replication}}
    wished = WishLists(Config.parse({"recipe": "list.yaml"}, workdir=tmp_path))
    # Before a list could be read, all images are asked for.
    assert noticed(wished, "harbor", body) == {("push", "")}
    (tmp_path / "list.yaml").write_text(
        recipe(*(f"https://{name}" for name in sorted(wishes | others)))
    )
    assert {image for _, image in noticed(wished, "harbor", body)} == wishes


def test_a_deletion_counts_for_all_wishes_of_its_repository(wished: WishLists):
    told = {"events": [event("delete", "team/app", digest=DIGEST)]}
    assert noticed(wished, "distribution", told) == {
        ("delete", "r.example.org/team/app:v*"),
        ("delete", "r.example.org/team/app:latest"),
    }


def test_an_image_is_called_as_the_wish_list_does(wished: WishLists):
    body = {"push_data": {"tag": "12"}, "repository": {"repo_name": "library/debian"}}
    assert noticed(wished, "dockerhub", body) == {
        ("push", "registry.hub.docker.com/library/debian:12")
    }
    told = event("push", "team/app", tag="v1", mediaType=INDEX)
    told["request"]["host"] = "r.internal:5000"
    assert noticed(wished, "distribution", {"events": [told]}) == {
        ("push", "r.example.org/team/app:v1")
    }


def test_a_pipeline_of_a_project_counts_for_its_images_and_a_push_for_its_list(wished: WishLists):
    done = {"object_kind": "pipeline", "object_attributes": {"status": "success"}}
    body = {**done, "project": {"path_with_namespace": "group/app"}}
    assert noticed(wished, "gitlab", body) == {
        ("push", "gitlab.example.org:5050/group/app/worker:1")
    }
    for url, counts in (("group/wishes.git", True), ("group/others.git", False)):
        project = {"git_http_url": f"https://git.example.org/{url}"}
        found = noticed(wished, "gitlab", {"object_kind": "push", "project": project})
        assert found == ({("push", "")} if counts else set())


def test_a_changed_list_counts_from_now_on_and_a_broken_one_does_not(
    wished: WishLists, tmp_path: Path
):
    told = {"events": [event("push", "new/app", tag="1", mediaType=INDEX)]}
    assert noticed(wished, "distribution", told) == set()
    (tmp_path / "list.yaml").write_text(recipe("https://r.example.org/new/app:1"))
    assert noticed(wished, "distribution", told) == {("push", "r.example.org/new/app:1")}
    (tmp_path / "list.yaml").write_text("version: [broken")
    assert noticed(wished, "distribution", told) == {("push", "r.example.org/new/app:1")}


def test_what_the_rules_of_an_entry_leave_out_does_not_count(wished: WishLists, tmp_path: Path):
    (tmp_path / "list.yaml").write_text(
        "version: 2\nuser: tests\ncvmfs_repo: unpacked.example.org\ninput:\n"
        "  - image: r.example.org/team/app\n"
        "    tags: {include: ['v*'], exclude: ['*rc*']}\n"
    )
    for tag, counts in (("v1", True), ("v1-rc2", False), ("dev", False)):
        told = event("push", "team/app", tag=tag, mediaType=INDEX)
        found = noticed(wished, "distribution", {"events": [told]})
        assert found == ({("push", f"r.example.org/team/app:{tag}")} if counts else set())


def test_before_any_list_could_be_read_every_image_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    wished = WishLists(Config.parse({"recipe": "nowhere.yaml"}, workdir=tmp_path))
    told = event("push", "any/app", tag="1", mediaType=INDEX)
    bad = event("push", "../../x", tag="1", mediaType=INDEX)
    assert noticed(wished, "distribution", {"events": [told, bad]}) == {
        ("push", "r.example.org/any/app:1")
    }


# --- secrets --------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "path", "genuine"),
    [
        ({"authorization": "s3cret"}, "", True),
        ({"authorization": "Bearer s3cret"}, "", True),
        ({"authorization": "bearer  s3cret"}, "", True),
        ({"x-gitlab-token": "s3cret"}, "", True),
        ({}, "s3cret", True),
        ({}, "", False),
        ({"authorization": ""}, "", False),
        ({"authorization": "Bearer "}, "", False),
        ({"authorization": "Basic s3cret"}, "", False),
        ({"authorization": "s3cret "}, "", False),
        ({"x-gitlab-token": "s3cre"}, "", False),
        ({"authorization": "s3cret\u00e9"}, "", False),
        ({}, "S3CRET", False),
    ],
)
def test_a_secret_is_given_in_the_senders_way(headers: dict[str, str], path: str, genuine: bool):
    assert is_genuine("s3cret", headers, b"{}", path) is genuine
    assert is_genuine("", headers, b"{}", path)


@pytest.mark.parametrize("secret", ["s3cret", "whsec_" + base64.b64encode(b"key").decode()])
def test_a_signature_covers_body_and_time(secret: str):
    body, now = json.dumps({"events": []}).encode(), 1_700_000_000.0
    key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()

    def headers(stamp: str = "1700000000", name: str = "msg_1") -> dict[str, str]:
        signed = hmac.digest(key, f"{name}.{stamp}.".encode() + body, "sha256")
        value = f"v1,bm90aGluZw== v1,{base64.b64encode(signed).decode()}"
        return {"webhook-id": name, "webhook-timestamp": stamp, "webhook-signature": value}

    assert is_genuine(secret, headers(), body, now=now)
    assert not is_genuine(secret, headers(), body + b" ", now=now)
    assert not is_genuine(secret, {**headers(), "webhook-id": "msg_2"}, body, now=now)
    assert not is_genuine("other", headers(), body, now=now)
    for replayed in ("1699999000", "1700001000", "never", "nan"):
        assert not is_genuine(secret, headers(replayed), body, now=now)
    # A signature that is there must fit, whatever else fits.
    wrong = {**headers(), "webhook-signature": "v1,AAAA", "authorization": secret}
    assert not is_genuine(secret, wrong, body, now=now)


def test_githubs_signature_covers_the_body():
    body = b'{"action": "published"}'

    def signed(secret: str, body: bytes = body, algorithm: str = "sha256") -> dict[str, str]:
        mac = hmac.new(secret.encode(), body, algorithm).hexdigest()
        return {"x-hub-signature-256": f"{algorithm}={mac}"}

    assert is_genuine("s3cret", signed("s3cret"), body)
    assert is_genuine("", signed("other"), body)
    for headers in (
        signed("other"),
        signed(""),
        signed("s3cret", body + b" "),
        signed("s3cret", algorithm="sha1"),
        {"x-hub-signature-256": ""},
        {"x-hub-signature-256": signed("s3cret")["x-hub-signature-256"][7:]},
        {"x-hub-signature-256": "sha256=\u00e9"},
        {"x-hub-signature": signed("s3cret", algorithm="sha1")["x-hub-signature-256"]},
    ):
        assert not is_genuine("s3cret", headers, body)
    # A signature that is there must fit, whatever else fits.
    assert not is_genuine("s3cret", {**signed("other"), "authorization": "s3cret"}, body, "s3cret")
    # GitHub's documentation has this one to test with.
    example = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert is_genuine(
        "It's a Secret to Everybody", {"x-hub-signature-256": example}, b"Hello, World!"
    )
