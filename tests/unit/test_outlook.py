from __future__ import annotations

from dataclasses import replace

from duccmake.planning.model import State
from duccmake.planning.outlook import Outlook, outlook
from duccmake.state.model import RUN_BYTES, RUN_IMAGES, RUN_SECONDS, Life
from duccmake.state.model import State as Kept
from support.planned import NAME, REPOSITORY, image


def kept(**counts: float) -> dict[str, Kept]:
    names = {"images": RUN_IMAGES, "fetched": RUN_BYTES, "seconds": RUN_SECONDS}
    state = Kept(lives={NAME: Life(NAME, 0.0, files=120)})
    state.counts = {names[name]: number for name, number in counts.items()}
    return {REPOSITORY: state}


def test_time_is_between_what_images_and_what_bytes_took_so_far():
    images = [image(), image("r.example.org/other:1")]
    found = outlook(images, 5000, kept(images=10, fetched=1000, seconds=100), {})
    assert (found.least, found.most) == (20.0, 500.0)
    assert (found.files, found.counted) == (120, 1)
    assert outlook(images, 0, kept(images=10, fetched=1000, seconds=100), {}).most == 20.0


def test_nothing_is_said_where_no_run_has_converted_anything_or_nothing_is_to_be_fetched():
    assert outlook([image()], 5000, kept(), {}).most == 0
    rates = kept(images=10, fetched=1000, seconds=100)
    for state, prepared in ((State.PUBLISHED, False), (State.HELD, False), (State.PENDING, True)):
        one = replace(image(), state=state, prepared=prepared)
        assert outlook([one], 0, rates, {}) == Outlook()
