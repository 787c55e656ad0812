"""Images that their registries show to nobody without credentials, where these are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from duccmake.commands.main import main
from duccmake.config.configuration import Config
from duccmake.planning.plan import Plan
from duccmake.planning.planner import make_plan
from support.images import write_oci_layout
from support.private_registry import CREDENTIALS, PASSWORD, USER, PrivateRegistry
from support.registry import FullRegistry
from support.samples import text_image
from support.servers import add_image

REPOSITORY = "images.example.org"


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


def planned(registry: FullRegistry, private: str = "refuse", **settings: object) -> Plan:
    """A plan for an image that is private, one that is not, and one that may fail."""
    names = ("private/app:1", "private/app:2", "open/app:1")
    for name in names:
        repository, _, tag = name.partition(":")
        add_image(registry.store, repository, tag)
    recipe = {
        "version": 1,
        "cvmfs_repo": REPOSITORY,
        "input": [f"http://{registry.host}/{name}" for name in names],
        "ignoreErrors": ["*/private/app:2"],
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    members = {
        "recipe": ["recipe.yaml"],
        "private": private,
        "registries": {registry.host: settings},
        "repository": {"root": "root"},
        "thin": {"push": "never"},
    }
    return make_plan(Config.parse(members, workdir=Path.cwd()), members)


def names(plan: Plan) -> set[str]:
    return {image.name.partition("/")[2] for image in plan.images}


@pytest.mark.parametrize("says", [401, 403, 404])
def test_who_is_shown_nothing_without_credentials_is_not_published(tmp_path, capsys, says):
    with PrivateRegistry(tmp_path / "registry", says=says) as registry:
        plan = planned(registry, **registry.settings())
        assert names(plan) == {"open/app:1"}
        assert {(problem.name[-13:], problem.ignorable) for problem in plan.problems} == {
            ("private/app:1", False),
            ("private/app:2", True),
        }
        plan.save()
        main(["status"])
        said = capsys.readouterr().out
        assert "its registry shows it to nobody without credentials" in said
        assert "write 'private: allow'" in said
        assert PASSWORD not in said and USER not in said
        assert names(planned(registry, private="allow", **registry.settings())) == {
            "open/app:1",
            "private/app:1",
            "private/app:2",
        }


def test_credentials_alone_make_no_image_private(tmp_path):
    with FullRegistry(
        tmp_path / "registry", users={USER: PASSWORD}, tokens=True, anonymous_pull=True
    ) as registry:
        settings = {"username_env": "R_USER", "password_env": "R_PASSWORD"}
        assert len(names(planned(registry, **settings))) == 3
        assert any(request.authorization.startswith("Basic") for request in registry.requests)


def test_what_a_mirror_shows_to_everybody_is_private_all_the_same(tmp_path):
    with (
        PrivateRegistry(tmp_path / "registry") as registry,
        FullRegistry(tmp_path / "mirror") as mirror,
    ):
        for tag in ("1", "2"):
            add_image(mirror.store, "private/app", tag)
        assert names(planned(registry, mirrors=[mirror.url])) == {"open/app:1"}
        assert "GET /v2/private/app/manifests/1" in mirror.requested()


def test_nothing_is_published_while_the_registry_gives_strangers_no_answer(tmp_path):
    with PrivateRegistry(tmp_path / "registry") as registry:
        registry.silent = True
        plan = planned(registry, **registry.settings())
        assert not plan.images
        assert {"answers 503" in problem.reason for problem in plan.problems} == {True}


def test_images_in_files_are_nobodys_secret(tmp_path):
    write_oci_layout(text_image("one"), tmp_path / "layout", "1")
    recipe = {"version": 1, "cvmfs_repo": REPOSITORY, "input": ["oci:layout:1"]}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    members = {"recipe": ["recipe.yaml"], "private": "refuse", "repository": {"root": "root"}}
    plan = make_plan(Config.parse(members, workdir=Path.cwd()), members)
    assert [image.name for image in plan.images] == ["oci/layout:1"]
