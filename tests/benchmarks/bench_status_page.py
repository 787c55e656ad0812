"""The page of 5,000 images: how large it is, how long it takes to make, to load, to filter."""

from __future__ import annotations

import time

from duccmake.run.page.writer import write_page
from support.browser import chromium, opened
from support.statuses import large, page

_LOADED = """() => {
  const begun = performance.getEntriesByType("navigation")[0];
  return [begun.domContentLoadedEventEnd, performance.getEntriesByName("shown")[0].startTime];
}"""

_FILTERED = """text => {
  const field = document.getElementById("search"), begun = performance.now();
  field.value = text;
  field.dispatchEvent(new Event("input", {bubbles: true}));
  document.body.getBoundingClientRect();
  return performance.now() - begun;
}"""


def test_page_of_five_thousand_images(tmp_path):
    file = page(large(5000), tmp_path)
    began = time.process_time()
    write_page(tmp_path / "status.json")
    print(f"\nmade in {time.process_time() - began:.2f} s, {file.stat().st_size / 1e6:.2f} MB")
    with chromium() as browser, opened(browser, file) as it:
        parsed, shown = it.page.evaluate(_LOADED)
        print(f"parsed after {parsed:.0f} ms, shown after {shown:.0f} ms")
        for text in ("c", "cms", "cms 12", "nothing of this kind", ""):
            print(f"search for {text!r}: {it.page.evaluate(_FILTERED, text):.0f} ms")
