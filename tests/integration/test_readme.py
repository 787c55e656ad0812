"""README's commands as a reader types them, one after the other, for root and for somebody else."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from support.runs import CHECKOUT, fresh_work
from support.samples import text_image
from support.servers import free_port, need
from support.watching import eventually

README = (CHECKOUT / "README.md").read_text()

NOT_HERE = {
    "make test": "it is what runs this test",
    "make quick": "the same",
    "make chaos": "it takes as long as it is told to; test_chaos has a few of its rounds",
    "make bench": "it wants the machine for itself",
    "conda env create -f environment.yml": "there is no conda; test_conda_gets_what_pip_gets",
    "apptainer exec /cvmfs/unpacked.example.org/docker.io/library/debian:12 cat /etc/os-release": (
        "Debian has no Apptainer, and /cvmfs is CernVM-FS'; the file is read where it is published"
    ),
    "git show main:recipe.yaml | duccmake check recipe.yaml --against -": (
        "a wish list has a repository of its own; such lists are compared by the tests of check"
    ),
    "sudo xargs -a tests/debian-packages.txt apt-get install --no-install-recommends": (
        "it changes the machine; CI begins with it"
    ),
}
"""Commands that cannot be run in a test, why, and what stands in their place."""

STAY = ("python scripts/watch.py", "python scripts/webhook.py")
"""Commands that stay until they are told to stop."""

PLACES = ("/opt/duccmake", "/var/lib/duccmake", "/etc/duccmake", "/srv/cvmfs")
"""Places of a server, for which the test has others."""


def blocks(language: str) -> list[str]:
    """README's blocks of code in a language, in their order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands() -> list[str]:
    """What README has its readers type."""
    typed = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    typed += re.findall(r"^\$ (.+)$", "".join(blocks("")), re.MULTILINE)
    plain = (" ".join(line.partition(" #")[0].split()) for line in typed)
    return [command for command in plain if command]


def example(key: str) -> dict[str, Any]:
    """The first of README's examples of YAML that has a key."""
    for text in blocks("yaml"):
        members = yaml.safe_load(text)
        if isinstance(members, dict) and key in members:
            return members
    raise AssertionError(f"README has no {key}")


def _made_here(directory: str, names: list[str]) -> set[str]:
    """What a fresh checkout does not have, as ``.gitignore`` lists it."""
    listed = (CHECKOUT / ".gitignore").read_text().split()
    at_root = directory == str(CHECKOUT)
    patterns = [line.strip("/") for line in listed if at_root or not line.startswith("/")]
    return shutil.ignore_patterns(*patterns, ".git")(directory, names)


class Reader:
    """Somebody with a copy of the checkout and one shell, in which all is typed."""

    def __init__(self, base: Path, user: str) -> None:
        self.base = base
        self.checkout = base / "duccmake"
        self.listen = f"127.0.0.1:{free_port()}"
        shutil.copytree(CHECKOUT, self.checkout, ignore=_made_here)
        become: list[str] = []
        if user != getpass.getuser():
            become = [need("setpriv"), f"--reuid={user}", "--regid=nogroup", "--clear-groups"]
            subprocess.run(["chown", "-R", f"{user}:nogroup", base], check=True)
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        proxies = {
            name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")
        }
        self._shell = subprocess.Popen(
            [*become, "bash", "--noprofile", "--norc"],
            cwd=self.checkout,
            env={
                "HOME": str(base),
                "USER": user,
                "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                "LANG": "C.UTF-8",
                **pip,
                **proxies,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def types(self, command: str) -> str:
        """Type a command and return what it says; it has to end well."""
        assert self._shell.stdin and self._shell.stdout
        self._shell.stdin.write(f"{command}\nprintf '\\n--- %s\\n' $?\n")
        self._shell.stdin.flush()
        said = []
        for line in self._shell.stdout:
            if line.startswith("--- "):
                assert line == "--- 0\n", f"$ {command}\n{''.join(said)}"
                return "".join(said)
            said.append(line)
        raise AssertionError(f"the shell is gone: $ {command}\n{''.join(said)}")

    def leaves(self) -> None:
        assert self._shell.stdin
        self._shell.stdin.close()
        self._shell.wait()


@pytest.fixture(params=["root", "nobody"])
def reader(request: pytest.FixtureRequest) -> Iterator[Reader]:
    if os.geteuid() != 0 and request.param == "root":
        pytest.skip("needs root")
    user = request.param if os.geteuid() == 0 else getpass.getuser()
    for program in ("make", "dot"):
        need(program)
    with tempfile.TemporaryDirectory(prefix="duccmake-readme-") as base:
        reader = Reader(Path(base), user)
        try:
            yield reader
        finally:
            reader.leaves()


def test_every_command_that_is_not_run_is_in_the_readme():
    assert [command for command in NOT_HERE if command not in commands()] == []


def test_conda_gets_what_pip_gets():
    conda = yaml.safe_load((CHECKOUT / "environment.yml").read_text())["dependencies"]
    [from_pip] = [each["pip"] for each in conda if isinstance(each, dict)]
    listed = [each for each in conda if isinstance(each, str)] + from_pip
    project = (CHECKOUT / "pyproject.toml").read_text()
    [plain] = re.findall(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    [watch] = re.findall(r"^watch = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    wanted = {
        re.sub("[ ;].*", "", line).lower()
        for line in re.findall(r'^ +"(.+)",$', plain + watch, re.M)
    }
    other = {"snakemake": "snakemake-minimal", "isal": "python-isal"}
    names = {re.sub("[<>=].*", "", text): text for text in wanted}
    for name, text in names.items():
        wished = other.get(name, name) + text.removeprefix(name)
        assert wished in {line.replace(" ", "").lower() for line in listed}, text


def test_the_commands_work_as_they_stand(reader: Reader, tmp_path: Path):
    with fresh_work(tmp_path) as work:
        for name in ("library/debian:12", "some/project:v1.0"):
            work.push(name, text_image("one"))
        first = work.push("library/app:1", text_image("first"))
        published = reader.base / "srv/cvmfs/unpacked.example.org/docker.io/library"
        for command in commands():
            if command == "snakemake -n":
                prepare(reader, work.host)
            elif command.startswith("snakemake rollback"):
                work.push("library/app:1", text_image("second"))
                reader.types("snakemake --cores 4")
                assert (published / "app:1/content").read_text() == "second"
                command = command.replace("4253d613a227", first.hex[:12])
            if command in NOT_HERE:
                continue
            for place in PLACES:
                command = command.replace(place, f"{reader.base}{place}")
            if command.startswith(STAY):
                stays(reader, command)
            else:
                reader.types(command)
        assert (published / "debian:12/content").read_text() == "one"
        assert (published / "app:1/content").read_text() == "first"
        reader.types("snakemake --cores 4")
        assert (published / "app:1/content").read_text() == "second"
    assert (reader.checkout / "dag.svg").stat().st_size


def prepare(reader: Reader, host: str) -> None:
    """Wish for README's images, of which a registry of the test's is the mirror."""
    recipe = example("cvmfs_repo")
    recipe["input"].append("https://docker.io/library/app:1")
    config = example("registries")
    mirrors = {"mirrors": [f"http://{host}"]}
    config["registries"]["ghcr.io"] |= mirrors
    config["registries"]["docker.io"] = mirrors
    config["repository"]["root"] = f"{reader.base}{config['repository']['root']}"
    # README's words for those who want nothing to be pushed.
    assert "`products: [layers, flat, podman]`" in README
    config |= {"products": ["layers", "flat", "podman"], "webhook": {"listen": reader.listen}}
    for directory in (reader.checkout / "config", reader.base / "etc/duccmake"):
        directory.mkdir(parents=True, exist_ok=True)
        config["recipe"] = str(directory / "recipe.yaml")
        (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
    (reader.base / "opt").mkdir()
    (reader.base / "opt/duccmake").symlink_to(reader.checkout)
    # Docker Hub and GitHub are far away, and say so at once.
    reader.types(f"export GHCR_USER=me GHCR_TOKEN=mine https_proxy=http://127.0.0.1:{free_port()}")
    reader.types("export no_proxy=localhost,127.0.0.1")


def stays(reader: Reader, command: str) -> None:
    """Start what stays, wait until it does what it is for, and have it stop."""
    log = reader.checkout / "logs/events.jsonl"
    before = log.read_text().count("end_poll") if log.exists() else 0

    def works() -> bool:
        if "webhook" not in command:
            return log.read_text().count("end_poll") > before
        with suppress(requests.ConnectionError), requests.Session() as session:
            session.trust_env = False
            return session.get(f"http://{reader.listen}/healthz").ok
        return False

    reader.types(f"{command} >{reader.base}/said 2>&1 &")
    eventually(works, command)
    reader.types("kill $!; wait $!; test $? = 0 -o $? = 143")
