"""The sample images of `make demo`, made on the spot from what the machine has.

The same machine makes the same bytes each time.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from .images import MTIME, Image, Layer, LayerBuilder
from .registry import Store


def sample_images() -> dict[str, Image]:
    """Three names for two images that share their base; one name is to be moved later."""
    base = base_layer()
    hello = _hello(base, "1.0")
    return {"demo/hello:1.0": hello, "demo/hello:latest": hello, "demo/tools:2024": _tools(base)}


def moved_hello() -> Image:
    """What ``demo/hello:latest`` becomes: another top layer, all below as before."""
    return _hello(base_layer(), "1.1")


def add_samples(store: Store) -> None:
    """Put the sample images into a registry."""
    for name, image in sample_images().items():
        _add(store, name, image)


def move_tag(store: Store) -> None:
    """Put a new version of ``demo/hello:latest`` into the registry."""
    _add(store, "demo/hello:latest", moved_hello())


def _add(store: Store, name: str, image: Image) -> None:
    repository, _, tag = name.partition(":")
    for content in image.blobs().values():
        store.put_blob(content)
    store.put_manifest(repository, image.media_type, image.manifest_bytes, tag)


def _hello(base: Layer, version: str) -> Image:
    script = (
        "#!/bin/sh\n"
        'while read -r line; do echo "$line, ${1:-$HELLO_NAME}!"; done'
        " < /usr/share/hello/greeting\n"
    )
    application = (
        LayerBuilder()
        .dir("usr/local/bin")
        .file("usr/local/bin/hello", script, mode=0o755)
        .dir("usr/share/hello")
        .file("usr/share/hello/greeting", "Good day\n")
        .file("usr/share/hello/draft", "not for the public\n")
        .dir("var/cache/hello")
        .file("var/cache/hello/old", "stale\n")
    )
    changes = (
        LayerBuilder()
        .dir("usr/share/hello")
        .whiteout("usr/share/hello/draft")
        .file("usr/share/hello/greeting", f"Hello from {version}\n", mtime=MTIME + 60)
        .file("usr/share/hello/licence", "Do as you please.\n")
        .hardlink("usr/share/hello/license", "usr/share/hello/licence")
        .symlink("usr/local/bin/hi", "hello")
        .dir("var/cache/hello")
        .opaque("var/cache/hello")
        .file("var/cache/hello/new", "fresh\n")
    )
    return Image(
        (base, application.layer(), changes.layer()),
        {
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HELLO_NAME=world"],
            "Entrypoint": ["/usr/local/bin/hello"],
            "Cmd": ["you"],
            "Labels": {"org.opencontainers.image.version": version},
        },
        media="docker",
    )


def _tools(base: Layer) -> Image:
    script = '#!/bin/sh\necho "$MOTTO"\nls -l "${@:-.}"\n'
    tools = LayerBuilder().dir("opt/tools").file("opt/tools/survey", script, mode=0o755)
    work = (
        LayerBuilder()
        .dir("work", uid=1000, gid=1000)
        .file("work/notes", "Nothing yet.\n", uid=1000, gid=1000)
        .symlink("work/tools", "/opt/tools")
    )
    return Image(
        (base, tools.layer(), work.layer()),
        {
            "User": "demo",
            "Env": ["PATH=/opt/tools:/usr/bin:/bin", 'MOTTO=it\'s "free", not $5'],
            "Cmd": ["survey"],
            "WorkingDir": "/work",
            "Labels": {"org.opencontainers.image.title": "tools"},
        },
    )


def base_layer() -> Layer:
    """A root file system with a shell and a few programs, as far as this machine has them.

    Where none can be taken along (no ELF programs, a library that is not
    found) ``bin/sh`` is missing and there are plain files only.
    """
    files, links = _host_programs("sh", "cat", "ls", "echo")
    for path, text in _PLAIN_FILES.items():
        files[path] = (0o644, text.encode())
    builder = LayerBuilder()
    for path in sorted(_parents([*files, *links, "usr/local/bin/x", "usr/share/x", "var/cache/x"])):
        builder.dir(path)
    builder.dir("root", mode=0o700).dir("tmp", mode=0o1777)
    builder.dir("home").dir("home/demo", uid=1000, gid=1000)
    for path, (mode, content) in sorted(files.items()):
        builder.file(path, content, mode=mode)
    for path, target in sorted(links.items()):
        builder.symlink(path, target)
    return builder.layer()


_PLAIN_FILES = {
    "etc/os-release": 'ID=demo\nNAME="duccmake demo"\nVERSION_ID=1\n',
    "etc/passwd": "root:x:0:0::/root:/bin/sh\ndemo:x:1000:1000::/home/demo:/bin/sh\n",
    "etc/group": "root:x:0:\ndemo:x:1000:\n",
}


def _parents(paths: Iterable[str]) -> set[str]:
    return {str(up) for path in paths for up in PurePosixPath(path).parents} - {"."}


# Programs of this machine


def _host_programs(*names: str) -> tuple[dict[str, tuple[int, bytes]], dict[str, str]]:
    """Programs with all that they load, under this machine's paths, and links to them in bin."""
    files: dict[str, tuple[int, bytes]] = {}
    links = {}
    for name in names:
        found = shutil.which(name, path="/bin:/usr/bin") or shutil.which(name)
        if found is None:
            continue
        program = Path(found).resolve()
        try:
            needed = [str(program), *_libraries(program)]
            files |= {path.lstrip("/"): (0o755, Path(path).read_bytes()) for path in needed}
        except (OSError, ValueError, struct.error, subprocess.SubprocessError):
            continue  # the image does without it
        if str(program) != f"/bin/{name}":
            links[f"bin/{name}"] = f"..{program}"
    return files, links


def _libraries(program: Path) -> list[str]:
    """The loader of a program and the libraries that it would load, by their paths.

    Empty for a static program; `ValueError` for what is no ELF program or
    lacks a library.  glibc's loader and musl's both know ``--list``.
    """
    loader = _loader(program.read_bytes())
    if not loader:
        return []
    listing = subprocess.run(
        [loader, "--list", program], capture_output=True, check=True, env={}, text=True, timeout=30
    ).stdout
    if "not found" in listing:
        raise ValueError(f"{program} lacks a library")
    return sorted({loader, *re.findall(r"(/\S+) \(0x", listing)})


def _loader(elf: bytes) -> str:
    """The path in the PT_INTERP segment (System V ABI, "Program Header"), or nothing."""
    if elf[:4] != b"\x7fELF" or len(elf) < 64:
        raise ValueError("no ELF program")
    wide, order = elf[4] == 2, "<" if elf[5] == 1 else ">"
    table = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", elf, 32 if wide else 28)[0]
    size, count = struct.unpack_from(f"{order}HH", elf, 54 if wide else 42)
    for header in range(table, table + size * count, size):
        if struct.unpack_from(f"{order}I", elf, header)[0] == 3:
            layout, offset = ("Q16xQ", 8) if wide else ("I8xI", 4)
            start, length = struct.unpack_from(f"{order}{layout}", elf, header + offset)
            return elf[start : start + length].rstrip(b"\0").decode()
    return ""
