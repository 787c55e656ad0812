"""What registries send, each in its own form.

A reader turns a body into `Notification` values.  It never fails: what it does not
know, or what is malformed, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from ...errors import InvalidReference
from ...oci.reference import Digest, Reference, is_tag

Action = Literal["push", "delete", "project", "list"]


@dataclass(frozen=True, slots=True)
class Notification:
    """What a sender says: an image was pushed or deleted.

    Without ``tag`` and ``digest`` all of the repository is meant, and with ``below`` those
    below it, too.  A push of a ``digest`` alone may have moved any tag.  With the action
    ``project`` it is a path of projects in any registry, and with ``list`` a git
    repository (``host/path``) in which a wish list may have changed.
    """

    action: Action
    registry: str
    repository: str
    tag: str = ""
    digest: str = ""
    below: bool = False


Reader = Callable[[Any], Iterator[Notification]]


def harbor(body: Any) -> Iterator[Notification]:
    """Harbor's webhooks, in its default form, that of its version 1, and as CloudEvents."""
    actions: dict[str, Action] = {
        "pushImage": "push",
        "deleteImage": "delete",
        "PUSH_ARTIFACT": "push",
        "harbor.artifact.pushed": "push",
        "DELETE_ARTIFACT": "delete",
        "harbor.artifact.deleted": "delete",
    }
    kind = _text(body, "type")
    data = _member(body, "event_data") or _member(body, "data")
    if action := actions.get(kind):
        for resource in _list(data, "resources"):
            yield from _named(action, _text(resource, "resource_url"))
    elif kind in ("REPLICATION", "harbor.replication.status.changed"):
        replication = _member(data, "replication")
        target = _member(replication, "dest_resource")
        endpoint, namespace = _text(target, "endpoint"), _text(target, "namespace")
        registry = _split(endpoint if "://" in endpoint else f"//{endpoint}").netloc
        for artifact in _list(replication, "successful_artifact"):
            # "busybox [1 item(s) in total]": the tags stand nowhere.  Of a/b/c, Harbor
            # gives "a" as the namespace and "b" as the name.
            name = _text(artifact, "name_tag").partition(" ")[0].partition(":")[0]
            if name:
                repository = f"{namespace}/{name}".strip("/")
                yield Notification("push", registry, repository, below=True)


def distribution(body: Any) -> Iterator[Notification]:
    """The envelope of Distribution's registry (its notifications.md), which GitLab's sends too."""
    for event in _list(body, "events"):
        yield from azure(event)


def azure(body: Any) -> Iterator[Notification]:
    """Azure's webhooks: each is one event of Distribution's."""
    target, action = _member(body, "target"), _text(body, "action")
    repository = _text(target, "repository")
    host = _text(_member(body, "request"), "host")
    registry = host or _split(_text(target, "url")).netloc
    tag, digest = _text(target, "tag"), _text(target, "digest")
    if not repository or not registry:
        return
    if action == "push" and _MANIFEST.search(_text(target, "mediaType")):
        if tag or digest:
            yield Notification("push", registry, repository, tag, digest)
    elif action == "delete":
        # Only a deleted tag is named; with a manifest go all of its tags.
        yield Notification("delete", registry, repository, tag)


_MANIFEST = re.compile(r"manifest|image\.index")


def gitlab(body: Any) -> Iterator[Notification]:
    """GitLab: what its registry sends, and a project's pipelines and pushes.

    GitLab has no webhook for its registry's events.  Where its registry cannot be
    made to send them, a pipeline that succeeded says that a project's images may be new.
    """
    kind = _text(body, "object_kind")
    project = _member(body, "project")
    if kind == "pipeline" and _text(_member(body, "object_attributes"), "status") == "success":
        if path := _text(project, "path_with_namespace").lower():
            yield Notification("project", "", path)
    elif kind == "push":
        for name in ("git_http_url", "git_ssh_url"):
            if place := git_place(_text(project, name)):
                yield Notification("list", "", place)
    else:
        yield from distribution(body)


def dockerhub(body: Any) -> Iterator[Notification]:
    """Docker Hub's webhooks, which tell of pushes alone, and not always of their tags."""
    repository = _text(_member(body, "repository"), "repo_name")
    if repository and isinstance(pushed := _member(body, "push_data"), dict):
        yield Notification("push", "docker.io", repository, _text(pushed, "tag"))


def quay(body: Any) -> Iterator[Notification]:
    """Quay's notifications of a push; it has many more, and none of a deletion."""
    tags = _member(body, "updated_tags")  # a list; in its first form an object of tags and images
    if isinstance(tags, list | dict):
        for tag in tags:
            if isinstance(tag, str) and is_tag(tag):
                yield from _named("push", f"{_text(body, 'docker_url')}:{tag}")


def ghcr(body: Any) -> Iterator[Notification]:
    """GitHub's events ``package`` and ``registry_package``, which tell of pushes alone.

    Of several tags that are pushed at once they name one.  So none is believed.
    """
    package = _member(body, "package") or _member(body, "registry_package")
    kinds = {_text(package, name).lower() for name in ("package_type", "ecosystem")}
    if _text(body, "action") not in ("published", "updated") or not kinds & {"container", "docker"}:
        return
    version = _member(package, "package_version")
    tag = _member(_member(version, "container_metadata"), "tag")
    manifest = _member(_member(version, "container_metadata"), "manifest")
    digests = (
        _text(tag, "digest"), _text(manifest, "digest"), _text(version, "version"),
        _text(version, "name"),
    )  # fmt: skip
    digest = next(filter(is_digest, digests), "")
    owner = _text(package, "namespace") or _text(_member(package, "owner"), "login")
    name = _text(package, "name")
    for place in (_text(version, "package_url"), f"ghcr.io/{owner}/{name}" if owner else ""):
        # With a tag, "ghcr.io/owner/name:" without one, or no colon at all.
        registry, _, path = place.rpartition("://")[2].lower().partition("/")
        repository = path.partition("@")[0].partition(":")[0]
        found = [*_named("push", f"{registry}/{repository}")]
        if found:
            yield replace(found[0], digest=digest)
            return


READERS: Mapping[str, Reader] = {
    "harbor": harbor,
    "distribution": distribution,
    "gitlab": gitlab,
    "dockerhub": dockerhub,
    "quay": quay,
    "azure": azure,
    "ghcr": ghcr,
}


def git_place(url: str) -> str:
    """``host/path`` of a git repository, however it is reached; empty if it is no address."""
    if "://" not in url:  # git@host:path
        host, colon, path = url.rpartition("@")[2].partition(":")
        return f"{host}/{path.strip('/')}".removesuffix(".git") if colon else ""
    parts = _split(url)
    return (
        f"{parts.hostname}/{parts.path.strip('/')}".removesuffix(".git") if parts.hostname else ""
    )


def _split(url: str) -> SplitResult:
    """An address in its parts, which are empty where it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


_DIGEST_AS_TAG = re.compile(r":(?=sha256:[0-9a-f]{64}\Z)")


def _named(action: Action, text: str) -> Iterator[Notification]:
    """``registry/repository[:tag][@digest]``; anything else names nothing.

    Harbor has put digests where tags stand.
    """
    try:
        found = Reference.parse(_DIGEST_AS_TAG.sub("@", text))
    except InvalidReference:
        return
    digest = str(found.digest or "")
    tag = found.tag if ":" in text.rpartition("/")[2].partition("@")[0] else ""
    if found.is_local or found.is_glob:
        return
    if action == "delete" and not tag:
        digest = ""
    yield Notification(action, found.registry, found.repository, tag, digest)


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _text(value: Any, name: str) -> str:
    found = _member(value, name)
    return found if isinstance(found, str) and len(found) <= 1000 else ""


def _list(value: Any, name: str) -> list[Any]:
    found = _member(value, name)
    return found if isinstance(found, list) else []


def is_digest(text: str) -> bool:
    """Whether a text is a digest."""
    try:
        Digest.parse(text)
    except InvalidReference:
        return False
    return True
