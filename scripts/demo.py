"""The main job end to end, on sample images in a registry of our own: `make demo`.

Needs neither root nor a network nor Debian packages.  Everything it makes is
below ``demo/``; remove that when you have seen enough.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "workflow"))

from duccmake.demo import samples  # noqa: E402
from duccmake.demo.images import host_platform  # noqa: E402
from duccmake.demo.registry import DemoRegistry  # noqa: E402

HOME = CHECKOUT / "demo"
REPOSITORY = HOME / "cvmfs" / "demo.example.org"
CORES = "2"


def main() -> None:
    """Convert, do nothing, move a tag, preview, rebuild, run a program."""
    shutil.rmtree(HOME, ignore_errors=True)
    with DemoRegistry(HOME / "registry") as registry:
        samples.add_samples(registry.store)
        write_wishes(registry.host)
        title("Two wishes that mean three images: convert them")
        snakemake()
        show_repository()
        show_thin_image(registry)
        title("Again: nothing has changed, so there is nothing to do")
        snakemake()
        samples.move_tag(registry.store)
        title("Somebody pushed a new demo/hello:latest: what would be done?")
        snakemake("--dry-run")
        title("Do it: one image, one new layer")
        snakemake()
        show_repository()
        run_program(registry.host)
    what_next()


def write_wishes(host: str) -> None:
    """The wish list, and the configuration that an operator would write."""
    (HOME / "config").mkdir()
    wishes = f"""version: 1
user: demo
cvmfs_repo: demo.example.org
input:
  - http://{host}/demo/hello:*
  - http://{host}/demo/tools:2024
"""
    (HOME / "config" / "recipe.yaml").write_text(wishes)
    config = f"""recipe: config/recipe.yaml
repository: {{backend: directory, root: cvmfs}}
platforms: [{host_platform()}]
"""
    (HOME / "config" / "config.yaml").write_text(config)
    title("The wish list (demo/config/recipe.yaml)")
    say(wishes)


def snakemake(*options: str) -> None:
    """Run the workflow as an operator does; the demo ends where that fails."""
    say(f"$ snakemake --cores {CORES} {' '.join(options)}".rstrip())
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(CHECKOUT / "Snakefile")]
    command += ["--directory", str(HOME), "--cores", CORES]
    sys.stdout.flush()
    subprocess.run([*command, *options], check=True, cwd=HOME)


def show_repository() -> None:
    """What a user of the repository sees, and what lies behind it; digests cut short."""
    title("The repository")
    for path in sorted(REPOSITORY.rglob("*:*")):
        inner = path.relative_to(REPOSITORY)
        if path.is_symlink() and not inner.parts[0].startswith("."):
            target = str(path.readlink())
            say(f"  {inner} -> {target[: target.rindex('/') + 13]}...")
    for name, what in ((".layers", "unpacked layers"), (".flat", "flat root file systems")):
        say(f"  {name}/: {len(list((REPOSITORY / name).glob('*/*')))} {what}")
    schedule = REPOSITORY / ".metadata" / "remove-schedule.json"
    superseded = len(json.loads(schedule.read_text())) if schedule.exists() else 0
    later = f"; {superseded} superseded, which 'snakemake gc' will remove" if superseded else ""
    say(f"  .metadata/: manifests and records{later}")


def show_thin_image(registry: DemoRegistry) -> None:
    """What Docker pulls to read an image from CernVM-FS: its manifest, and how little it is."""
    title("The thin image of demo/hello:1.0, for Docker")
    found = registry.store.manifest("demo/hello_thin", "1.0")
    assert found
    manifest = json.loads(found[2])
    size = sum(part["size"] for part in (manifest["config"], *manifest["layers"]))
    say(f"  {registry.host}/demo/hello_thin:1.0 is {size} bytes, however large the image is")


def run_program(host: str) -> None:
    """Run an image from its flat tree, where the machine lets us."""
    title("Run demo/hello:latest from its flat tree")
    tree = (REPOSITORY / host / "demo" / "hello:latest").resolve()
    run = "/.singularity.d/actions/run"
    chroot = [program("chroot"), str(tree), run]
    ways = [
        [program("bwrap"), "--ro-bind", str(tree), "/", "--dev", "/dev", "--proc", "/proc", run],
        chroot if os.geteuid() == 0 else [program("unshare"), "--map-root-user", *chroot],
    ]
    failures = []
    for command in ways:
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            failures.append(f"{command[0]} is not installed")
            continue
        if done.returncode == 0:
            say(f"$ {' '.join(command)}\n{done.stdout}".rstrip())
            return
        failures.append(f"{done.stderr.strip() or command[0]} (status {done.returncode})")
    say("It cannot be run here, which apptainer could:")
    say("\n".join(f"  {failure}" for failure in failures))


def program(name: str) -> str:
    """The path of a program; some are where only root looks by default."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin") or name


def what_next() -> None:
    """What somebody who has seen this may want to do."""
    title("What next")
    say(f"""\
  find demo/cvmfs -maxdepth 3                    look around in the repository
  .venv/bin/duccmake status -d demo              how each image stands
  convert images of your own, as README.md tells under "Use it":
    . .venv/bin/activate
    $EDITOR config/recipe.yaml config/config.yaml
    snakemake -n                                 what would be done
    snakemake --cores {CORES}                          do it
  make clean                                     remove demo/ and .venv/""")


def title(text: str) -> None:
    """A heading between the steps."""
    say(f"\n=== {text}")


def say(text: str) -> None:
    """A line of the demo's story."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
