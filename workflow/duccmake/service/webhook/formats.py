"""What registries send: Harbor, Distribution, GitLab and Docker Hub, each in its own form.

A reader turns a body into `Notification` values.  It never fails: what it does not
know, or what is malformed, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from ...errors import InvalidReference
from ...oci.reference import Digest, Reference

Action = Literal["push", "delete", "project", "list"]


@dataclass(frozen=True, slots=True)
class Notification:
    """What a sender says: an image was pushed or deleted.

    Without ``tag`` and ``digest`` all of the repository is meant.  With the action
    ``project`` it is a path of projects in any registry, and with ``list`` a git
    repository (``host/path``) in which a wish list may have changed.
    """

    action: Action
    registry: str
    repository: str
    tag: str = ""
    digest: str = ""


Reader = Callable[[Any], Iterator[Notification]]


def harbor(body: Any) -> Iterator[Notification]:
    """Harbor's webhooks, in its default form and as CloudEvents."""
    actions: dict[str, Action] = {
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
        registry = endpoint.partition("://")[2] or endpoint
        for artifact in _list(replication, "successful_artifact"):
            # "busybox [1 item(s) in total]": the tags stand nowhere.
            name = _text(artifact, "name_tag").partition(" ")[0].partition(":")[0]
            if name:
                yield Notification("push", registry, f"{namespace}/{name}")


def distribution(body: Any) -> Iterator[Notification]:
    """The envelope of Distribution's registry (its notifications.md), which GitLab's sends too."""
    for event in _list(body, "events"):
        target, action = _member(event, "target"), _text(event, "action")
        repository = _text(target, "repository")
        host = _text(_member(event, "request"), "host")
        registry = host or _split(_text(target, "url")).netloc
        tag, digest = _text(target, "tag"), _text(target, "digest")
        if not repository or not registry:
            continue
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
    """Docker Hub's webhooks, which tell of pushes alone."""
    repository = _text(_member(body, "repository"), "repo_name")
    tag = _text(_member(body, "push_data"), "tag")
    if repository and tag:
        yield Notification("push", "docker.io", repository, tag)


READERS: Mapping[str, Reader] = {
    "harbor": harbor,
    "distribution": distribution,
    "gitlab": gitlab,
    "dockerhub": dockerhub,
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


def _named(action: Action, text: str) -> Iterator[Notification]:
    """``registry/repository[:tag][@digest]``; anything else names nothing."""
    try:
        found = Reference.parse(text)
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
