"""A stand-in for CernVM-FS' programs on a stratum 0, without mounts and daemons.

``CVMFS_STANDIN`` names a directory with ``etc/NAME/server.conf``, ``spool/NAME``,
``cvmfs/NAME`` and ``storage/NAME``.  The storage is as the real one: objects and catalogs,
and a manifest that says which is the newest root.  The mounts are symlinks:
``spool/NAME/rdonly`` to a directory made of the catalogs that are published, ``cvmfs/NAME``
to the same or to an open transaction's copy of it.  Everything that was found out about the
real programs holds here as well; where the two differ, this one is wrong.
"""

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "workflow"))

_MODULES = {
    "cvmfs_server": "server",
    "cvmfs_suid_helper": "suid_helper",
    "cvmfs_swissknife": "swissknife",
    "cvmfs_talk": "talk",
}


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    import_module(_MODULES[program]).main(arguments)
