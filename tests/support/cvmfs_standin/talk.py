"""``cvmfs_talk -p SPOOL/cvmfs_io chroot ROOT``."""

from pathlib import Path

from repository import Repository, die


def main(arguments):
    if len(arguments) != 4 or arguments[0] != "-p" or arguments[2] != "chroot":
        die("cvmfs_talk: the stand-in knows chroot alone")
    repository = Repository(Path(arguments[1]).parent.name)
    repository.switch(repository.tree(arguments[3]))
    print("OK")
