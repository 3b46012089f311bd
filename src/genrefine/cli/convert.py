"""`genrefine convert`: published checkpoints to folders that every other verb takes."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrefine.cli.answers import say, write_json
from genrefine.cli.loading import quiet_libraries, torch_dtype
from genrefine.cli.options import DTYPES, add_json_option
from genrefine.errors import GenrefineError

if TYPE_CHECKING:
    from genrefine.convert import Conversion


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of the verb."""
    parser.add_argument("source", type=Path, metavar="FILE_OR_DIR", help="a published file, or a folder of such files")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="new or empty folder")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE_OR_DIR", help="the visual tokenizer, for a pipeline")
    parser.add_argument("--text-encoder", metavar="DIR_OR_NAME", help="the text encoder, for a pipeline of prompts")
    parser.add_argument("--class-names", type=Path, metavar="FILE", help="class names, one a line (default: numbers)")
    parser.add_argument("--attention", choices=("prefix", "joint"), help="of a text refiner: of May or of June 2026")
    parser.add_argument("--task", choices=("image", "video"), help="what a pipeline of prompts is set up for (image)")
    parser.add_argument("--weights", metavar="NAME", help="which weights in the file (default: those of the authors)")
    parser.add_argument(
        "--code-classes", type=int, metavar="K", help="classes of one code, where neither file nor size tells them"
    )
    parser.add_argument(
        "--in-context-start", type=int, metavar="BLOCK", help="first block with class tokens, for unpublished sizes"
    )
    parser.add_argument("--rounds", type=int, metavar="M", help="HBQ rounds of a tokenizer alone (4)")
    parser.add_argument("--layout", choices=("bit", "index"), help="layout of a tokenizer alone (bit)")
    parser.add_argument("--unbounded", action="store_true", help="the tokenizer's latents do not go through tanh")
    parser.add_argument("--dtype", choices=DTYPES, help="number format to write (default: that of the file)")
    add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Translate and write."""
    from genrefine.convert import Hints, convert
    from genrefine.files import require_writable

    quiet_libraries()
    if options.json:
        require_writable(options.json)
    names = _read_names(options.class_names) if options.class_names else None
    start = time.perf_counter()
    made = convert(
        options.source,
        options.out,
        tokenizer=options.tokenizer,
        text_encoder=options.text_encoder,
        class_names=names,
        task=options.task,
        weights=options.weights,
        hints=Hints(
            code_classes=options.code_classes,
            in_context_start=options.in_context_start,
            attention=options.attention,
            rounds=options.rounds,
            layout=options.layout,
            bounded=False if options.unbounded else None,
        ),
        dtype=torch_dtype(options.dtype) if options.dtype else None,
    )
    seconds = time.perf_counter() - start
    _print(made)
    say(f"{made.kind}, {made.num_parameters:,} parameters in {seconds:.1f} s, read back and equal: {made.folder}")
    for part in made.missing:
        say(f"missing for a pipeline: {part}")
    if options.json:
        write_json(options.json, _record(made, options.source, seconds))


def _print(made: "Conversion") -> None:
    for network in made.networks.values():
        rows = [(row.published, row.ours or "(dropped)", _shapes(row.shapes), row.count) for row in network.renames]
        widths = [max((len(str(row[column])) for row in rows), default=0) for column in range(3)]
        for published, ours, shapes, count in rows:
            line = f"{published:{widths[0]}}  {ours:{widths[1]}}  {shapes:{widths[2]}}  "
            say((line + (f"{count} times" if count > 1 else "")).rstrip())
    for note in made.notes:
        say(note)


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    first = " x ".join(map(str, shapes[0])) if shapes else ""
    return first + (f" and {len(shapes) - 1} more" if len(shapes) > 1 else "")


def _record(made: "Conversion", source: Path, seconds: float) -> dict[str, Any]:
    return {
        "source": str(source),
        "folder": str(made.folder),
        "kind": made.kind,
        "parameters": {name or made.kind: network.num_parameters for name, network in made.networks.items()},
        "notes": made.notes,
        "missing": made.missing,
        "seconds": round(seconds, 3),
    }


def _read_names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GenrefineError(f"cannot read class names from '{path}' ({error}); give a text file") from error
    return [line.strip() for line in lines if line.strip()]
