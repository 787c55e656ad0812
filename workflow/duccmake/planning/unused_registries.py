"""Sections of ``registries`` that nothing uses: misspelt, mostly, so that nobody logs in."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from ..config.configuration import Config
from ..recipe.model import Recipe
from ..registry.http.credentials import ducc_registries, normal_host


def unused_registries(config: Config, recipes: Sequence[Recipe]) -> Iterator[str]:
    """A line for people for each registry that no wish, no mirror and no thin image names."""
    wished = {wish.reference.host for recipe in recipes for wish in recipe.wishes}
    mirrors = [url for settings in config.registries.values() for url in settings.mirrors]
    mirrors += [entry.proxy for entry in ducc_registries(os.environ)]
    used = wished | {normal_host(urlsplit(url).netloc) for url in mirrors}
    formats = [recipe.output_format for recipe in recipes]
    for host, settings in config.registries.items():
        if host in used or any(f"{host}/" in text.lower() for text in formats):
            continue
        near = difflib.get_close_matches(host, sorted(wished), n=1)
        if settings.ca_file and not near:
            continue  # of a storage that a registry redirects to
        guess = (
            f"did you mean {near[0]}?" if near else "see whether it is spelt as in the wish list"
        )
        yield f"registries.{host}: no image of the wish list comes from there; {guess}"
