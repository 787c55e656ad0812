"""The page of the last run and what is beside it, read-only, for who has no other web server."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from ...workspace.results import IMAGES_TABLE, PAGE, STATUS

_TYPES = {
    PAGE: "text/html; charset=utf-8",
    STATUS: "application/json",
    IMAGES_TABLE: "text/tab-separated-values; charset=utf-8",
}

_HEADERS = {
    # It is made anew by each run.
    "Cache-Control": "no-cache",
    # What the page's own policy cannot say.
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def routes() -> list[Route]:
    """A route for each file: no path of a request becomes a path on the disk."""
    named = [_route(f"/status/{path.name}", path) for path in _TYPES]
    return [_route("/status/", PAGE), *named]


def _route(address: str, path: Path) -> Route:
    def answer(request: Request) -> Response:
        if not path.is_file():
            return JSONResponse({"error": "no run has ended yet"}, 404)
        return FileResponse(path, headers=_HEADERS, media_type=_TYPES[path])

    return Route(address, answer, methods=["GET"])
