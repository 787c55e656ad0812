"""Catalogs held to the format's rules, before anything is signed that makes them count.

What was broken before is passed over: others wrote that, and clients live with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from typing import NoReturn

from ..errors import RepositoryError
from .catalog import MARKER, CatalogFile, Counters, Nested
from .check_rows import Place, row_faults
from .names import Kind, object_name, path_key
from .rows import COUNTERS, DIRECTORY, EXTERNAL, HASH_BITS, MOUNTPOINT, ROOT, Chunk, Row
from .storage import DamagedObject, NotThere

Read = Callable[[str], bytes]
"""The bytes of a catalog, by its hash in hex."""

Fault = tuple[bytes, str]
"""Where something is wrong, and what."""

_ZEROS: Counters = (0,) * len(COUNTERS)
_SEAM = MOUNTPOINT | ROOT
_CHUNKS = COUNTERS.index("chunks")
_OWN_CHUNKS = """
SELECT hash FROM chunks WHERE EXISTS
 (SELECT 1 FROM catalog WHERE catalog.md5path_1 = chunks.md5path_1
  AND catalog.md5path_2 = chunks.md5path_2 AND NOT catalog.flags & ?)
"""


def check_written(
    hashes: Iterable[str], read: Read, has: Callable[[Collection[str]], Collection[str]]
) -> None:
    """Hold catalogs, by their hashes in hex, to all rules, also with what hangs in them.

    ``has`` says which of some objects are there: all must be that these catalogs need and
    the ones before them do not.  Raises `RepositoryError`, which says where which rule is
    broken.
    """
    needed: dict[str, bytes] = {}
    for name in hashes:
        with ExitStack() as stack:
            catalog = stack.enter_context(_opened(name, read))
            before = catalog.properties().get("previous_revision")
            old = stack.enter_context(_opened(before, read)) if before else None
            check_catalog(catalog, old)
            _check_hanging(catalog, old, read)
            more = _objects(catalog) - (_objects(old) if old else set())
            needed.update(dict.fromkeys(more, catalog.root_prefix))
    missing = needed.keys() - set(has(needed))
    for name in sorted(missing)[:1]:
        _refuse(needed[name], f"{len(missing)} objects are not stored, such as {name}")


def all_faults(
    catalog: CatalogFile, read: Read, is_left_out: Callable[[bytes], bool] = lambda path: False
) -> Iterator[Fault]:
    """What is against the rules in a catalog, and in all that hang in it.

    Those that begin where ``is_left_out`` says so are only held to the one above them.  What
    cannot be read is a fault too.  Counters are not: many programs have written wrong ones,
    and no client goes by them.
    """
    yield from _faults(catalog)
    for path, of in sorted(catalog.nested().items()):
        try:
            content = read(of.hash)
            yield from _seam_faults(catalog, path, of, content)
            if not is_left_out(path):
                with CatalogFile.read(content, f"the catalog {of.hash}") as below:
                    yield from all_faults(below, read, is_left_out)
        except RepositoryError as error:
            yield path, error.found


def check_catalog(catalog: CatalogFile, old: CatalogFile | None = None) -> None:
    """Hold one catalog to the rules that concern no other; ``old`` is what it was before.

    Raises `RepositoryError`.
    """
    found = list(faults(catalog))
    if found and old is not None:
        known = set(faults(old))
        found = [fault for fault in found if fault not in known]
    if found:
        _refuse(*found[0])


def faults(catalog: CatalogFile) -> Iterator[Fault]:
    """What of a catalog is against the rules, as far as it shows in it alone."""
    yield from _faults(catalog)
    if catalog.row(catalog.root_prefix) is not None:
        yield from _counter_faults(catalog)


def _faults(catalog: CatalogFile) -> Iterator[Fault]:
    prefix = catalog.root_prefix
    top = catalog.row(prefix)
    if top is None:
        yield prefix, "the catalog has no row of the directory in which it begins"
        return
    yield from _top_faults(catalog, prefix, top)
    yield from _place_faults(catalog, prefix, top)
    for group in catalog.db.execute(
        "SELECT hardlinks >> 32 FROM catalog WHERE hardlinks >> 32 > 0 AND NOT flags & 1"
        " GROUP BY 1 HAVING count(DISTINCT parent_1) > 1"
    ):
        yield prefix, f"the names of inode {group[0]} are in more than one directory"
    yield from _nested_faults(catalog)


def _top_faults(catalog: CatalogFile, prefix: bytes, top: Row) -> Iterator[Fault]:
    if not top.is_directory or bool(prefix) != bool(top.flags & ROOT) or top.flags & MOUNTPOINT:
        yield prefix, f"the flags {top.flags:#x} do not say that a catalog begins here"
    if prefix:
        marker = catalog.row(prefix + b"/" + MARKER)
        if marker is None or not marker.is_file:
            yield prefix, "a catalog begins here, and its marker is not there"


def _place_faults(catalog: CatalogFile, prefix: bytes, top: Row) -> Iterator[Fault]:
    """What is wrong with rows, by their paths from the first one on."""
    chunks = _chunks(catalog)
    waiting = [Place(prefix, top, True, [], [])]
    seen = 1
    while waiting:
        place = waiting.pop()
        below: list[Row] = []
        # A key that is not that of the path could lead in a circle.
        if place.row.flags & DIRECTORY and place.row.key == path_key(place.path):
            below = [] if place.row.flags & MOUNTPOINT else catalog.in_directory(place.row.key)
        seen += len(below)
        for fault in row_faults(place, sum(row.is_directory for row in below)):
            yield place.path, fault
        inodes: dict[int, list[Row]] = {}
        for row in below:
            if row.hardlinks >> 32:
                inodes.setdefault(row.hardlinks >> 32, []).append(row)
        for row in below:
            names = inodes.get(row.hardlinks >> 32, [])
            path = place.path + b"/" + row.name
            waiting.append(Place(path, row, False, chunks.pop(row.key, []), names))
    (count,) = catalog.db.execute("SELECT count(*) FROM catalog").fetchone()
    if count != seen:
        yield prefix, f"{count - seen} entries of the catalog are in no directory of it"
    if chunks:
        yield prefix, f"the catalog has chunks of {len(chunks)} files that it has not"


def _chunks(catalog: CatalogFile) -> dict[tuple[int, int], list[Chunk]]:
    found: dict[tuple[int, int], list[Chunk]] = {}
    for first, second, *chunk in catalog.db.execute(
        "SELECT md5path_1, md5path_2, offset, size, hash FROM chunks ORDER BY offset"
    ):
        found.setdefault((first, second), []).append(Chunk(*chunk))
    return found


def _nested_faults(catalog: CatalogFile) -> Iterator[Fault]:
    nested = {path_key(path): path for path in catalog.nested()}
    mountpoints = {
        (first, second)
        for first, second in catalog.db.execute(
            "SELECT md5path_1, md5path_2 FROM catalog WHERE flags & 2"
        )
    }
    for key in nested.keys() - mountpoints:
        yield nested[key], "a nested catalog hangs where the flags say nothing of it"
    if more := len(mountpoints - nested.keys()):
        yield catalog.root_prefix, f"{more} nested catalogs do not hang in it"


def _counter_faults(catalog: CatalogFile) -> Iterator[Fault]:
    counted = [0] * len(COUNTERS)
    for row in catalog.rows():
        for number, value in enumerate(row.counted()):
            counted[number] += value
    (counted[_CHUNKS],) = catalog.db.execute("SELECT count(*) FROM chunks").fetchone()
    own, subtree = catalog.counters()
    for name, found, wanted in zip(COUNTERS, own, counted, strict=True):
        if found != wanted:
            yield catalog.root_prefix, f"the counter self_{name} is {found}, not {wanted}"
    for name, found in zip(COUNTERS, subtree, strict=True):
        if found < 0:
            yield catalog.root_prefix, f"the counter subtree_{name} is {found}"


def _check_hanging(catalog: CatalogFile, old: CatalogFile | None, read: Read) -> None:
    """Check the nested catalogs that hang in one and have not before, and what it counts."""
    nested = set(catalog.nested().items())
    before = set(old.nested().items()) if old else set()
    more = [_seam(catalog, path, of, read) for path, of in sorted(nested - before)]
    subtree = catalog.counters()[1]
    was = old.counters()[1] if old else _ZEROS
    try:
        less = [_totals(of, read) for _, of in before - nested]
        is_right = _sum([was, *more]) == _sum([subtree, *less])
    except (NotThere, DamagedObject):
        is_right = False  # what was cut off was damaged
    if not is_right:
        # What was counted before may have been wrong.
        wanted = _sum(_totals(of, read) for _, of in nested)
        for name, found, value in zip(COUNTERS, subtree, wanted, strict=True):
            if found != value:
                _refuse(catalog.root_prefix, f"the counter subtree_{name} is {found}, not {value}")


def _seam(above: CatalogFile, path: bytes, nested: Nested, read: Read) -> Counters:
    """Check that a catalog hangs as it should; what it counts, all below it included."""
    content = read(nested.hash)
    for fault in _seam_faults(above, path, nested, content):
        _refuse(*fault)
    with CatalogFile.read(content) as below:
        return _sum(below.counters())


def _seam_faults(
    above: CatalogFile, path: bytes, nested: Nested, content: bytes
) -> Iterator[Fault]:
    """What is wrong with how a catalog of that content hangs in the one above."""
    if len(content) != nested.size:
        yield path, f"its catalog has {len(content)} bytes, not {nested.size}"
    with CatalogFile.read(content, f"the catalog {nested.hash}") as below:
        if below.root_prefix != path:
            yield path, f"its catalog is that of {below.root_prefix!r}"
        elif _alike(above.row(path)) != _alike(below.row(path)):
            yield path, "its rows differ in the catalog above and in its own"


def _alike(row: Row | None) -> Row | None:
    return row and row._replace(flags=row.flags & ~_SEAM)


def _totals(nested: Nested, read: Read) -> Counters:
    with _opened(nested.hash, read) as below:
        return _sum(below.counters())


def _objects(catalog: CatalogFile) -> set[str]:
    """The names of all objects that a catalog needs, nested catalogs among them."""
    found = {
        object_name(row.hash, Kind.FILE)
        for row in catalog.rows()
        if row.is_file and row.hash is not None and not row.flags & (EXTERNAL | HASH_BITS)
    }
    found |= {
        object_name(digest, Kind.CHUNK)
        for (digest,) in catalog.db.execute(_OWN_CHUNKS, (EXTERNAL | HASH_BITS,))
    }
    return found | {nested.hash + Kind.CATALOG for nested in catalog.nested().values()}


def _opened(name: str, read: Read) -> CatalogFile:
    return CatalogFile.read(read(name), f"the catalog {name}")


def _sum(counters: Iterable[Counters]) -> Counters:
    return tuple(map(sum, zip(_ZEROS, *counters, strict=True)))


def _refuse(path: bytes, rule: str) -> NoReturn:
    raise RepositoryError(
        f"what would be published is not right at {_show(path)}: {rule}",
        hint="nothing was published; please report this",
    )


def _show(path: bytes) -> str:
    return repr(path.decode(errors="backslashreplace") or "/")
