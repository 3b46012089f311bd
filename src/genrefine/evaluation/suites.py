"""Draw the prompts of a benchmark into the folders that its own scorer reads.

    layout    prompts                                     samples of prompt i, by default
    geneval   lines of JSON with "prompt"                 00000/metadata.jsonl, 00000/samples/0000.png .. 0003.png
    dpg       a folder of .txt files                      NAME.png, four pictures as two rows of two
    vbench    lines of text, or a JSON list "prompt_en"   PROMPT-0.mp4 .. PROMPT-4.mp4

Sample j of n of prompt i has seed i n + j, whatever the batch size and the number of processes. A prompt whose files
are there is not drawn again, so a run that was killed goes on; a folder of other prompts, weights or settings is
refused. Scores are the scorers' affair: they need networks of their own.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from genrefine.errors import GenrefineError
from genrefine.evaluation.prompt_samples import TextSampler
from genrefine.evaluation.sample_folder import claim_folder, meet
from genrefine.evaluation.samples import run_of
from genrefine.files import appearing, process_place
from genrefine.media.writing import save_clip, save_png

LAYOUTS = {"geneval": 4, "dpg": 4, "vbench": 5}
"""Layouts, and how many samples of a prompt their scorers expect."""


@dataclass(frozen=True)
class SuitePrompt:
    """A prompt of a benchmark.

    Args:
        text: the prompt.
        name: what its files are called.
        line: its line in the file, which the scorer wants back; None where there is none.
    """

    text: str
    name: str
    line: str | None = None


@dataclass(frozen=True)
class Suite:
    """Prompts and how their samples are laid out.

    Args:
        layout: of `LAYOUTS`.
        prompts: in the order of the file.
        count: samples of each.
        num_frames: of a sample; 1 for stills, more for vbench alone.
    """

    layout: str
    prompts: Sequence[SuitePrompt]
    count: int
    num_frames: int = 1

    def __post_init__(self) -> None:
        if self.layout == "dpg" and self.count not in (1, 4):
            raise GenrefineError(f"the scorer of dpg takes one picture a prompt, or four as a square; got {self.count}")
        if (self.layout == "vbench") != (self.num_frames > 1):
            raise GenrefineError(f"vbench scores clips, geneval and dpg stills; got {self.num_frames} frames")

    def files(self, folder: Path, prompt: SuitePrompt) -> list[Path]:
        """Return the files or the folder that a prompt's samples are in."""
        if self.layout == "vbench":
            return [folder / f"{prompt.name}-{index}.mp4" for index in range(self.count)]
        return [folder / (prompt.name if self.layout == "geneval" else f"{prompt.name}.png")]


def read_suite(layout: str, path: Path, count: int | None = None, num_frames: int = 1) -> Suite:
    """Read the prompts of a benchmark.

    Args:
        layout: of `LAYOUTS`.
        path: their file; for dpg their folder.
        count: samples of each prompt; by default as many as the scorer expects.
        num_frames: of a clip, for vbench.

    Raises:
        GenrefineError: an unknown layout, no prompts, or none that it could be.
    """
    if layout not in LAYOUTS:
        raise GenrefineError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    try:
        prompts = {"geneval": _lines_of_json, "dpg": _text_files, "vbench": _lines_of_text}[layout](path)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise GenrefineError(f"'{path}' must hold the prompts of {layout}; it cannot be read ({error!r})") from None
    if not prompts:
        raise GenrefineError(f"'{path}' must hold the prompts of {layout}; it holds none")
    for prompt in prompts:
        if not prompt.text or Path(prompt.name).name != prompt.name:
            raise GenrefineError(f"a prompt of {layout} must be words that a file can be named by; got {prompt.text!r}")
    return Suite(layout, prompts, LAYOUTS[layout] if count is None else count, num_frames)


def draw_suite(
    pipe: TextSampler, suite: Suite, folder: Path, batch_size: int = 16, progress: bool = True, **sampling: Any
) -> int:
    """Draw what is missing of a suite and return how many prompts were drawn by this process.

    Args:
        pipe: the pipeline.
        suite: from `read_suite`.
        folder: where the samples go.
        batch_size: samples per call.
        progress: show a progress bar.
        sampling: arguments of the pipeline.

    Raises:
        GenrefineError: the folder belongs to another run.
    """
    rank, processes = process_place()
    if rank == 0:
        claim_folder(folder, _claim_of(pipe, suite, sampling))
    missing = [
        number
        for number, prompt in enumerate(suite.prompts)
        if not all(path.exists() for path in suite.files(folder, prompt))
    ]
    meet(processes)  # all have looked before one writes
    own = missing[rank::processes]
    at_once = max(1, batch_size // suite.count)
    done = len(suite.prompts) - len(missing)
    with tqdm(total=len(suite.prompts), initial=done, desc="prompts", disable=not progress or rank > 0) as bar:
        for start in range(0, len(own), at_once):
            numbers = own[start : start + at_once]
            samples = _draw(pipe, suite, numbers, batch_size, sampling)
            for number in numbers:
                _write(suite, folder, number, samples[number], pipe)
                bar.update(processes)
    meet(processes)
    return len(own)


def _draw(
    pipe: TextSampler, suite: Suite, numbers: Sequence[int], batch_size: int, sampling: dict[str, Any]
) -> dict[int, list[list[Image.Image]]]:
    """Return the frames of every sample of some prompts."""
    asked = [(number, number * suite.count + index) for number in numbers for index in range(suite.count)]
    made: dict[int, list[list[Image.Image]]] = {number: [] for number in numbers}
    for start in range(0, len(asked), batch_size):
        part = asked[start : start + batch_size]
        prompts, seeds = [suite.prompts[number].text for number, _ in part], [seed for _, seed in part]
        output = pipe(prompts, seed=seeds, num_frames=suite.num_frames, **sampling)
        clips = [[image] for image in output.images] if suite.num_frames == 1 else output.frames
        for (number, _), frames in zip(part, clips, strict=True):
            made[number].append(frames)
    return made


def _write(suite: Suite, folder: Path, number: int, samples: list[list[Image.Image]], pipe: Any) -> None:
    prompt = suite.prompts[number]
    paths = suite.files(folder, prompt)
    notes = [{"prompt": prompt.text, "seed": number * suite.count + index} for index in range(suite.count)]
    if suite.layout == "vbench":
        for path, frames, note in zip(paths, samples, notes, strict=True):
            save_clip(frames, path, frames_per_second=pipe.frames_per_second, metadata=note)
    elif suite.layout == "dpg":
        save_png(
            _square([frames[0] for frames in samples]), paths[0], {"prompt": prompt.text, "seed": notes[0]["seed"]}
        )
    else:
        with appearing(paths[0]) as place:  # whole or not at all
            (place / "samples").mkdir()
            (place / "metadata.jsonl").write_text(f"{prompt.line}\n", encoding="utf-8")
            for index, (frames, note) in enumerate(zip(samples, notes, strict=True)):
                save_png(frames[0], place / "samples" / f"{index:04d}.png", note)


def _square(pictures: list[Image.Image]) -> Image.Image:
    """Lay four pictures out as two rows of two, edge to edge; one stays as it is."""
    if len(pictures) == 1:
        return pictures[0]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (width * (index % 2), height * (index // 2)))
    return sheet


def _claim_of(pipe: Any, suite: Suite, sampling: dict[str, Any]) -> dict[str, Any]:
    words = json.dumps([[prompt.name, prompt.text] for prompt in suite.prompts])
    return run_of(pipe, (pipe.refiner, pipe.visual_tokenizer, pipe.text_encoder), sampling) | {
        "layout": suite.layout,
        "prompts": hashlib.sha256(words.encode()).hexdigest(),
        "num_prompts": len(suite.prompts),
        "samples_of_a_prompt": suite.count,
        "num_frames": suite.num_frames,
    }


def _lines_of_json(path: Path) -> list[SuitePrompt]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    texts = [json.loads(line)["prompt"] for line in lines]
    return [SuitePrompt(str(text), f"{n:05d}", line) for n, (text, line) in enumerate(zip(texts, lines, strict=True))]


def _text_files(path: Path) -> list[SuitePrompt]:
    files = sorted(path.glob("*.txt")) if path.is_dir() else []
    return [SuitePrompt(file.read_text(encoding="utf-8").strip(), file.stem) for file in files]


def _lines_of_text(path: Path) -> list[SuitePrompt]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        words = [str(entry["prompt_en"]) for entry in json.loads(text)]
    else:
        words = [line.strip() for line in text.splitlines() if line.strip()]
    return [SuitePrompt(word, word) for word in dict.fromkeys(words)]
