"""The tags of a repository: which revision has which name."""

import sqlite3
import time

from duccmake.cvmfs.codec import decompress

TRUNK, PREVIOUS = "trunk", "trunk-previous"
_TABLES = """
CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER,
 description TEXT, size INTEGER, branch TEXT, CONSTRAINT pk_tags PRIMARY KEY (name));
CREATE TABLE recycle_bin (hash TEXT, flags INTEGER, CONSTRAINT pk_hash PRIMARY KEY (hash));
CREATE TABLE branches (branch TEXT, parent TEXT, initial_revision INTEGER,
 CONSTRAINT pk_branch PRIMARY KEY (branch));
CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));
"""


class History:
    """The tags' database, in memory."""

    @classmethod
    def read(cls, stored):
        self = cls()
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        if stored:
            self._db.deserialize(decompress(stored))
        else:
            self._db.executescript(_TABLES)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._db.close()

    def names(self):
        return {name for (name,) in self._db.execute("SELECT name FROM tags")}

    def roots(self):
        """The root catalogs that tags name."""
        return {root for (root,) in self._db.execute("SELECT hash FROM tags")}

    def tag(self, name):
        """Root catalog, its size, and revision of a tag; None for an unknown one."""
        found = self._db.execute("SELECT hash, size, revision FROM tags WHERE name=?", (name,))
        return found.fetchone()

    def add(self, name, root, size, revision, at=None):
        values = (name, root, revision, int(time.time()) if at is None else at, 0, "", size, "")
        self._db.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def remove(self, names):
        self._db.executemany("DELETE FROM tags WHERE name=?", [(name,) for name in names])

    def remove_above(self, revision):
        """Forget what a rollback leaves behind."""
        self._db.execute("DELETE FROM tags WHERE revision > ?", (revision,))

    def publish(self, manifest, tag):
        """Note a new root catalog under a tag, and for who wants to go back."""
        now = (manifest.get("C"), manifest.root_size, manifest.revision)
        self.undo_by(now)
        if tag:
            self.add(tag, *now)

    def undo_by(self, now):
        """Move the tags that a rollback goes by, if this is another root catalog."""
        trunk = self.tag(TRUNK)
        if trunk is not None and trunk != now:
            self.add(PREVIOUS, *trunk)
        self.add(TRUNK, *now)

    def content(self):
        return self._db.serialize()
