"""``cvmfs_swissknife``: what is given a storage and a manifest, and garbage collection."""

import getopt
import shutil
import tempfile
import time
from pathlib import Path

from collect import collect
from history import History
from reflog import note
from repository import Repository, die, sign

from duccmake.cvmfs.manifest import Manifest
from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.storage import NotThere
from duccmake.cvmfs.storage.local import LocalStorage

_VERSION = "2.12.0"


def main(arguments):
    if arguments[:1] in (["--version"], ["version"]):
        print(_VERSION)
        return
    command, *options = arguments
    if command not in _COMMANDS:
        die(f"unknown command: {command}")
    _COMMANDS[command](options)


def tag_edit(arguments):
    options, rest = getopt.getopt(arguments, "r:w:t:m:p:f:e:@:La:d:xD:h:")
    given = dict(options)
    if rest or not {"-r", "-w", "-t", "-m", "-p", "-f"} <= given.keys():
        die("tag_edit: parameters are missing")
    name = given.get("-a", "")
    if " " in name or name in ("trunk", "trunk-previous"):
        die(f"tag_edit: no tag can be called '{name}'")
    storage = LocalStorage.parse(given["-r"])
    file = Path(given["-m"])
    manifest = Manifest.parse(file.read_bytes())
    stored = manifest.get("H")
    with History.read(storage.get(stored + Kind.HISTORY) if stored else b"") as history:
        if name or "-x" in given:
            _check_root(storage, manifest)
        history.remove(given.get("-d", "").split())
        now = (manifest.get("C"), manifest.root_size, manifest.revision)
        if "-x" in given:
            history.undo_by(now)
        if name:
            history.add(name, *now, at=int(time.time()))
        content = history.content()
    with tempfile.TemporaryDirectory(dir=given["-t"]) as made:
        objects = Objects(Path(made))
        stored = objects.put(content, Kind.HISTORY).hex() + Kind.HISTORY
        storage.put_all(objects.directory, [stored])
    file.write_bytes(manifest.changed(H=stored.removesuffix(Kind.HISTORY)).unsigned())


def _check_root(storage, manifest):
    try:
        storage.get(manifest.get("C") + Kind.CATALOG)
    except NotThere:
        die("failed to download root catalog for tag")


def sign_manifest(arguments):
    options, rest = getopt.getopt(arguments, "c:k:n:u:r:t:m:R:@:egAM:s:")
    given = dict(options)
    if rest or not {"-c", "-k", "-n", "-u", "-r", "-t", "-m"} <= given.keys():
        die("sign: parameters are missing")
    manifest = Manifest.parse(Path(given["-m"]).read_bytes())
    if "-R" in given:  # or it is noted nowhere
        note(given["-r"].rpartition(",")[2], manifest)
    if "-e" in given:
        return
    if not LocalStorage.parse(given["-r"]).has([manifest.get("C") + Kind.CATALOG]):
        die("failed to find the root catalog")
    collected = "yes" if "-g" in given else "no"
    sign(given["-r"].rpartition(",")[2], manifest.changed(G=collected))
    Path(given["-m"]).unlink()


def gc(arguments):
    options, rest = getopt.getopt(arguments, "r:u:n:R:h:z:k:t:L:N:@:dlI")
    given = dict(options)
    if rest or not {"-r", "-u", "-n", "-R", "-z"} <= given.keys():
        die("gc: parameters are missing")
    if not Path(given["-R"]).exists():
        die("Could not read reflog checksum")
    repository = Repository(given["-n"])
    if repository.manifest().get("G") != "yes":
        die("repository does not allow garbage collection")
    collect(repository)
    if "-L" in given:
        with open(given["-L"], "a") as log:
            log.write("# Garbage Collection finished\n")


def upload(arguments):
    given = dict(getopt.getopt(arguments, "r:i:o:a:")[0])
    shutil.copyfile(given["-i"], Path(given["-r"].rpartition(",")[2], given["-o"]))


_COMMANDS = {"tag_edit": tag_edit, "sign": sign_manifest, "gc": gc, "upload": upload}
