"""``cvmfs_suid_helper STEP NAME``, which mounts and unmounts."""

from repository import Repository, die


def main(arguments):
    step, name = arguments
    repository = Repository(name)
    which, _, what = step.partition("_")
    if which not in ("rw", "rdonly"):
        die(f"the stand-in knows no {step}")
    mount = repository.union if which == "rw" else repository.rdonly
    if what == "mount":
        repository.mount(mount, repository.pinned_tree())
    elif mount.is_symlink():
        repository.unmount(mount)
    else:
        die(f"umount: {mount}: not mounted.")
