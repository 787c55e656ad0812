"""Which of several publishers sees to an image: one of them, and the same for all its tags."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from duccmake.oci.reference import Platform, Reference
from duccmake.repository.settings import ShareSettings

_PART = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
_TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._*-]{0,8}", fullmatch=True)
_REPOSITORIES = st.tuples(
    st.sampled_from(["docker.io", "localhost:5000", "[::1]:5000"]), _PART, _PART
).map("/".join)


def owners(name: str, of: int) -> list[int]:
    return [number for number in range(1, of + 1) if ShareSettings(number, of).has(name)]


@given(_REPOSITORIES, st.lists(_TAG, min_size=1, max_size=4), st.integers(1, 9))
def test_every_image_has_one_publisher_and_all_of_a_repository_the_same(repository, tags, of):
    names = [f"{repository}:{tag}" for tag in tags]
    names += [f"{repository}@sha256:{'0' * 64}", f"{repository}:1@sha256:{'1' * 64}"]
    names += [f".multiarch/arm64/{name}" for name in names]
    found = {tuple(owners(name, of)) for name in names}
    assert len(found) == 1
    assert len(found.pop()) == 1


def test_a_wish_and_what_is_published_of_it_have_the_same_publisher():
    reference = Reference.parse("localhost:5000/team/app:1.*")
    published = reference.with_tag("1.7").name_on(Platform("linux", "arm64"))
    assert owners(reference.name, 5) == owners(published, 5)


def test_each_publisher_has_about_as_much_to_do():
    names = [f"docker.io/biocontainers/tool{number}:1" for number in range(3000)]
    counts = [sum(map(ShareSettings(number, 3).has, names)) for number in (1, 2, 3)]
    assert min(counts) > 900
