"""Build the package as it would be published, and try it where nothing else of this checkout is.

    python scripts/check_package.py

Wheel and source distribution are built, checked by `twine check --strict`, and the wheel is installed into a new
environment, where it must draw a picture of a class and one of a prompt. An index takes 100 MB at most; the wheel
has to leave room below it.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
MOST_MEGABYTES = 75
TORCH = "torch==2.13.0"  # as in the Makefile


def run(*words: str | Path, cwd: Path) -> str:
    """Run a program and return what it prints; its output is shown where it fails."""
    done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def programs(environment: Path) -> dict[str, Path]:
    """Make a new environment and return where its programs are."""
    venv.create(environment, with_pip=True)
    folder = environment / ("Scripts" if sys.platform == "win32" else "bin")
    return {name: folder / name for name in ("python", "genrefine")}


def build(folder: Path) -> tuple[Path, Path]:
    """Build wheel and source distribution from the files that git knows, check what indexes check, return paths."""
    source = folder / "source"
    source.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=CHECKOUT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=source, input=archive, check=True)
    python = programs(folder / "tools")["python"]
    run(python, "-m", "pip", "install", "--quiet", "build", "twine", cwd=folder)
    run(python, "-m", "build", "--outdir", folder / "dist", source, cwd=folder)
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    run(python, "-m", "twine", "check", "--strict", wheel, sdist, cwd=folder)
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """Refuse a package that is too large, lacks a model, or brings what is not its own."""
    size = wheel.stat().st_size / 1e6
    if size > MOST_MEGABYTES:
        raise SystemExit(f"error: the wheel must be {MOST_MEGABYTES} MB at most; got {size:.1f}")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("genrefine/py.typed", "genrefine/zoo/emoji/model_index.json", "genrefine/zoo/emoji-class/README.md"):
        if needed not in names:
            raise SystemExit(f"error: the wheel lacks {needed}")
    if foreign := [name for name in names if not name.startswith("genrefine")]:
        raise SystemExit(f"error: the wheel brings {foreign[0]}, which is not of the package")
    with tarfile.open(sdist) as stored:
        rooms = {Path(name).parts[1] for name in stored.getnames() if len(Path(name).parts) > 1}
    if rooms & {"tests", "datasets", "weights"}:
        raise SystemExit(f"error: the source distribution holds {', '.join(sorted(rooms))}")
    print(f"wheel {size:.1f} MB, source distribution {sdist.stat().st_size / 1e6:.1f} MB")


def try_wheel(wheel: Path, folder: Path) -> None:
    """Install the wheel into a new environment and draw with it."""
    new, constraints = programs(folder / "new"), CHECKOUT / "constraints.txt"
    run(new["python"], "-m", "pip", "install", "--quiet", TORCH, cwd=folder)
    run(new["python"], "-m", "pip", "install", "--quiet", "-c", constraints, wheel, cwd=folder)
    for words in (["--class-label", "flags/noto"], ["a red heart"]):
        print(run(new["genrefine"], "generate", *words, "--seed", "1", "--adaptive", cwd=folder).strip())
    print(run(new["genrefine"], "--version", cwd=folder).strip())


def main() -> None:
    """Build, check, try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-install", action="store_true", help="build and check only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        wheel, sdist = build(folder)
        check_contents(wheel, sdist)
        if not options.no_install:
            try_wheel(wheel, folder)


if __name__ == "__main__":
    main()
