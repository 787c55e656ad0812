"""The commands of ``cvmfs_server``."""

import time
from pathlib import Path

from chunks import BadGraft, chunk_and_graft
from history import PREVIOUS
from ingest import Archive, Ingest, Panic
from repository import BASE, Repository, copy, die, link

from duccmake.cvmfs.storage import WHITELIST


def main(arguments):
    command, *options = arguments
    if command not in _COMMANDS:
        die(f"Unrecognized command: {command}")
    _COMMANDS[command](options)


def _named(options):
    """The repository that is named last, whatever path in it is."""
    return Repository(options[-1].partition("/")[0])


def ingest(arguments):
    base = tar = ""
    deletions = []
    keeps = False
    while len(arguments) > 1:
        option = arguments.pop(0)
        if option in ("-b", "--base_dir"):
            base = arguments.pop(0)
        elif option in ("-t", "--tar_file"):
            tar = arguments.pop(0)
        elif option in ("-d", "--delete"):
            deletions.append(arguments.pop(0))
        elif option in ("-k", "--keep-ownership"):
            keeps = True
    repository = Repository(arguments[0])
    if bool(base) != bool(tar) or (not tar and not deletions):
        die("Please provide some parameters")
    if repository.gateway and len(deletions) > 1:
        die("Could not delete multiple paths using a gateway in a single transaction.")
    if repository.gateway and tar and deletions:
        die("Could not delete and add a file in the same transaction while using gateway.")
    repository.open(base.strip("/") + "".join(deletions[:1]))
    if base == ".":
        repository.abort()
        die("Synchronization failed")
    repository.ask_about_open_files()
    repository.copy(link)
    with repository.publishing():
        failed = ""
        try:
            _ingested(repository, base, tar, deletions, keeps)
        except Panic as panic:
            failed = f"{panic}\nSynchronization failed"
        else:
            print("Swissknife Ingest: Processing changes...\nTagging\nSigning new manifest")
            repository.commit()
    if failed:
        repository.abort()
        die(failed)


def _ingested(repository, base, tar, deletions, keeps):
    work = Ingest(repository, base)
    if deletions:
        work.delete(":".join(deletions))
    if tar:
        with open(tar, "rb") as file:
            work.apply(Archive(file).members())
    if not keeps and tar:
        raise Panic("the stand-in knows -k alone")


def transaction(arguments):
    name, _, path = arguments[-1].partition("/")
    repository = Repository(name)
    repository.open(path)
    repository.copy(copy)
    repository.union.unlink()
    repository.union.symlink_to(repository.scratch)


def publish(arguments):
    repository = _named(arguments)
    if repository.is_publishing():
        die(f"Another publish process is active for {repository.name}")
    if not repository.flag.exists():
        die(f"Repository {repository.name} is not in a transaction")
    repository.ask_about_open_files()
    with repository.publishing():
        try:
            chunk_and_graft(repository.scratch, repository.settings, repository.storage)
        except BadGraft as error:
            die(str(error))
        repository.commit()


def abort(arguments):
    _named(arguments).abort()


def mount(arguments):
    repository = _named(arguments)
    if repository.is_publishing():
        die(repository.busy())
    repository.show_pinned()


def tag(arguments):
    """``tag -l``, ``tag -a NAME`` and ``tag -r NAME``."""
    repository = _named(arguments)
    manifest = repository.manifest()
    if arguments[0] == "-l":
        with repository.history(manifest) as history:
            print("\n".join(sorted(history.names())))
        return
    if repository.flag.exists():
        die("Cannot change repository tags while in a transaction")
    name = arguments[1]

    def change(history):
        if arguments[0] == "-r":
            history.remove([name])
        else:
            history.add(name, manifest.get("C"), manifest.root_size, manifest.revision)

    _between(repository, lambda: _sign(repository, repository.tagged(manifest, change)))


def rollback(arguments):
    """``rollback -f [-t NAME]``: what was then becomes the newest revision."""
    from rollback import root_again

    repository = _named(arguments)
    if repository.is_publishing():
        die(f"Repository {repository.name} is currently being published")
    if repository.flag.exists():
        die("Cannot rollback a repository in a transaction")
    name = arguments[arguments.index("-t") + 1] if "-t" in arguments else PREVIOUS
    manifest = repository.manifest()
    with repository.history(manifest) as history:
        found = history.tag(name)
    if found is None:
        die(f"Target tag '{name}' does not exist")

    def work():
        root = root_again(repository, found[0], manifest.revision + 1)
        new = manifest.changed(C=root.hash, B=str(root.size), S=str(manifest.revision + 1))

        def change(history):
            history.remove_above(found[2])
            history.publish(new, "" if name == PREVIOUS else name)

        _sign(repository, repository.tagged(new, change))

    _between(repository, work)


def _sign(repository, manifest):
    from reflog import note
    from repository import sign

    note(repository.directory, manifest)
    sign(repository.directory, manifest)


def _between(repository, work):
    """Do what needs the repository for itself, in a transaction of its own."""
    repository.open()
    try:
        work()
    finally:
        repository.show_newest()
        repository.close()


def gc(arguments):
    from collect import collect, note_when

    repository = _named(arguments)
    if not repository.collects:
        die(f"Garbage Collection is not enabled for {repository.name}")
    if repository.flag.exists():
        die("Cannot run garbage collection while in a transaction")
    _between(repository, lambda: collect(repository))
    note_when(repository)


def check(arguments):
    from checked import problems

    repository = _named(arguments)
    found = problems(repository, contents="-i" in arguments)
    if found:
        die("\n".join(found))
    print("no problems found")


def mkfs(arguments):
    """Make a repository; options are lines for its server.conf."""
    *lines, name = arguments
    spool, storage = BASE / "spool" / name, BASE / "storage" / name
    settings = {
        "CVMFS_REPOSITORY_NAME": name,
        "CVMFS_REPOSITORY_TYPE": "stratum0",
        "CVMFS_UNION_DIR": BASE / "cvmfs" / name,
        "CVMFS_SPOOL_DIR": spool,
        "CVMFS_STRATUM0": f"http://localhost/cvmfs/{name}",
        "CVMFS_UPSTREAM_STORAGE": f"local,{storage}/data/txn,{storage}",
        "CVMFS_HASH_ALGORITHM": "sha1",
        "CVMFS_COMPRESSION_ALGORITHM": "default",
        "CVMFS_EXTERNAL_DATA": "false",
        "CVMFS_AUTO_TAG": "true",
        "CVMFS_AUTO_TAG_TIMESPAN": '""',
        "CVMFS_GARBAGE_COLLECTION": "false",
    }
    text = [f"{key}={value}" for key, value in settings.items()]
    config = BASE / "etc" / name / "server.conf"
    for directory in (spool / "tmp", config.parent, BASE / "cvmfs", BASE / "revisions" / name):
        directory.mkdir(parents=True, exist_ok=True)
    config.write_text("\n".join([*text, *lines]) + "\n")
    repository = Repository(name)
    (repository.directory / "data/txn").mkdir(parents=True)
    for number in range(256):
        (repository.directory / f"data/{number:02x}").mkdir()
    repository.scratch.mkdir()
    (repository.scratch / "new_repository").write_text("a new repository\n")
    whitelist(repository.directory, name)
    repository.first(repository.scratch)
    repository.client.touch()
    (spool / "reflog.chksum").touch()
    repository.show_newest()
    repository.close()


def whitelist(directory, name, days=30):
    """Let what is signed be valid for some days."""
    now = time.time()
    begin, end = (
        time.strftime("%Y%m%d%H%M%S", time.gmtime(at)) for at in (now, now + days * 86_400)
    )
    text = f"{begin}\nE{end}\nN{name}\n00:11:22\n--\nstand-in\nsigned"
    Path(directory, WHITELIST).write_text(text)


_COMMANDS = {
    "ingest": ingest,
    "transaction": transaction,
    "publish": publish,
    "abort": abort,
    "mount": mount,
    "tag": tag,
    "rollback": rollback,
    "gc": gc,
    "check": check,
    "mkfs": mkfs,
}
