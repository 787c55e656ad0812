"""What DUCC left in a repository, for people: what is adopted, and what is damaged."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import TextIO

from ..config.configuration import Config
from ..errors import InvalidReference
from ..oci.reference import Digest
from ..planning.adoption import StrayWhiteouts
from ..planning.model import PlannedImage
from ..planning.plan import Plan
from ..products import IN_REPOSITORY, Product
from ..repository import adoption
from ..repository.open import open_repository
from ..repository.protocol import Repository
from ..words import counted
from .lines import say


def adoption_in_words(plan: Plan, config: Config, name: str) -> list[str]:
    """What DUCC left in a repository: what becomes of each image, and all that is damaged."""
    repository = open_repository(config.repository, name)
    view, strays = repository.view, StrayWhiteouts(repository)
    wished = {image.reference.name: image for image in plan.images if image.repository == name}
    unresolved = {item.name: item.reason for item in plan.problems if item.repository == name}
    lines: list[str] = []
    kinds: Counter[str] = Counter()
    layers: dict[Digest, None] = {}
    with repository.reading():
        for found in repository.names():
            try:
                if view.exists(view.layout.record(found)):
                    continue
            except InvalidReference as error:
                lines.append(f"leave    {found}  {error}")
                continue
            known = adoption.manifest(view, found)
            layers.update(dict.fromkeys(known[1] if known else ()))
            image = wished.get(found)
            damage = "; ".join(_damage(repository, strays, found, image))
            kind, why = _fate(image, unresolved.get(found, ""), damage)
            kinds[kind] += 1
            lines.append(f"{kind:7}  {found}  {why}".rstrip())
        lines += [f"damaged  {line}" for line in _damaged(repository, strays, layers)]
    unknown = f", {kinds['wait']} not resolved" if kinds["wait"] else ""
    total = (
        f"duccmake: {name}: {counted(kinds.total(), 'image')} of DUCC's: "
        f"{kinds['adopt']} to adopt, {kinds['convert']} to convert again, "
        f"{kinds['leave']} not wished for{unknown}"
    )
    return [*lines, total]


def tell(plan: Plan, config: Config, stream: TextIO | None = None) -> None:
    """Say what DUCC left in the repositories, and what is taken over."""
    for name in sorted(plan.missing):
        say(*adoption_in_words(plan, config, name), stream=stream or sys.stderr)


def _fate(image: PlannedImage | None, unresolved: str, damage: str) -> tuple[str, str]:
    """What becomes of an image of DUCC's, in a word, and why."""
    if image is not None and image.adopted:
        return "adopt", ""
    if image is not None:
        return "convert", damage or "it is not what is wished for now"
    kind, why = ("wait", unresolved) if unresolved else ("leave", "not wished for")
    return kind, f"{why}; {damage}" if damage else why


def _damage(
    repository: Repository, strays: StrayWhiteouts, name: str, image: PlannedImage | None
) -> Iterator[str]:
    view = repository.view
    products = image.products if image else IN_REPOSITORY
    yield from adoption.lacking(view, name, products)
    known = adoption.manifest(view, name)
    if known and Product.FLAT in products and view.is_dir(view.layout.flat(known[0])):
        path = strays.find(view.layout.flat(known[0]))
        if path:
            yield f"its flat tree {known[0].short} has {path}"


def _damaged(
    repository: Repository, strays: StrayWhiteouts, layers: dict[Digest, None]
) -> Iterator[str]:
    """What is damaged besides images: nothing of it is touched before an image needs it."""
    view, layout = repository.view, repository.view.layout
    for digest in sorted(layers, key=str):
        tree = layout.layerfs(digest)
        if view.is_dir(tree) and not view.exists(layout.layer_manifest(digest)):
            path = strays.find(tree)
            if path:
                yield f"{tree}  has {path}: fetched again when an image needs it"
    for chain in adoption.dirty_chains(view):
        yield f"{chain}  a chain that DUCC did not finish"
    for link in adoption.dangling_links(view):
        yield f"{link}  the link leads nowhere"
