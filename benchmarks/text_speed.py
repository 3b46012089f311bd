"""Seconds and memory per picture and per clip from a text pipeline, with fixed and with entropy-guided steps.

Every way draws the same prompts and seeds, text encoding and decoding included. Peak memory is the largest resident
size of a process that loads the model and draws once in that way, so each way has a process of its own.

    python benchmarks/text_speed.py --model emoji --frames 17
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from genrefine.model_folder.find import find_model
from genrefine.pipelines import TextPipeline
from measuring import Report, in_turns, parser

PROMPTS = ("a red heart", "fluent emoji of rocket", "noto emoji of pizza", "a dog", "flag of Japan", "thumbs up")


def load(model: str, bf16: bool) -> TextPipeline:
    """Load a text pipeline by folder or name."""
    folder = find_model(model)
    pipe = TextPipeline.from_pretrained(folder, dtype=torch.bfloat16 if bf16 else torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: TextPipeline, count: int, batch: int, **sampling: Any) -> dict[str, float]:
    """Draw so many samples in batches and count what it took, per sample."""
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(count)]
    steps = evaluations = 0
    for start in range(0, count, batch):
        part = prompts[start : start + batch]
        pipe.prompt_encoder.forget()
        output = pipe(part, seed=list(range(start, start + len(part))), output_type="pt", **sampling)
        steps += sum(output.num_steps)
        evaluations += sum(output.num_evaluations)
    return {"steps": steps / count, "evaluations": evaluations / count}


def own_peak_megabytes() -> float:
    """Return the largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would also count what the parent held when it started this process.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def peak_megabytes(chosen: Any, batch: int, sampling: dict[str, Any]) -> float:
    """Return the peak resident memory of a process that draws one batch."""
    words = [sys.executable, __file__, "--model", str(chosen.model), "--peak", json.dumps([batch, sampling])]
    words += ["--bf16"] if chosen.bf16 else []
    words += ["--threads", str(chosen.threads)] if chosen.threads else []
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure and report."""
    options = parser(__doc__, repetitions=3)
    options.add_argument("--model", default="emoji", help="pipeline folder or name of a shipped model")
    options.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    options.add_argument("--frames", type=int, default=17, help="of a clip; 1 leaves clips out")
    options.add_argument("--steps", type=int, default=50, help="of the fixed budget")
    options.add_argument("--pictures", type=int, default=16, help="drawn in every way; a quarter as many clips")
    options.add_argument("--bf16", action="store_true", help="run the networks in bfloat16")
    options.add_argument("--peak", help="only draw [batch, sampling arguments] once and print the peak memory in MB")
    chosen = options.parse_args(arguments)
    if chosen.peak:
        if chosen.threads:
            torch.set_num_threads(chosen.threads)
        batch, sampling = json.loads(chosen.peak)
        draw(load(chosen.model, chosen.bf16), batch, batch, **sampling)
        print(own_peak_megabytes())
        return {}
    report = Report("text_speed", chosen)
    pipe = load(chosen.model, chosen.bf16)
    budgets: dict[str, dict[str, Any]] = {"fixed": {"num_inference_steps": chosen.steps}}
    if pipe.sampler.config.entropy_steps is None:
        print(f"{chosen.model} was never calibrated (genrefine calibrate): fixed steps only")
    else:
        budgets["adaptive"] = {"adaptive": True}
    kinds = {"picture": (1, chosen.pictures)}
    if chosen.frames > 1:
        kinds["clip"] = (chosen.frames, max(1, chosen.pictures // 4))
    ways: dict[str, tuple[int, int, dict[str, Any]]] = {}
    for kind, (frames, count) in kinds.items():
        for size in dict.fromkeys(min(batch, count) for batch in chosen.batches):
            for budget, sampling in budgets.items():
                ways[f"{kind}, {budget}, batch {size}"] = (count, size, {"num_frames": frames, **sampling})
    counts: dict[str, dict[str, float]] = {}

    def task(name: str) -> Any:
        count, size, sampling = ways[name]
        return lambda: counts.update({name: draw(pipe, count, size, **sampling)})

    for name, taken in in_turns({name: task(name) for name in ways}, chosen, warmups=1).items():
        count, size, sampling = ways[name]
        memory = peak_megabytes(chosen, size, sampling)
        report.add(name, taken.median / count, "s each", peak_megabytes=memory, **counts[name])
    return report.show(__doc__)


if __name__ == "__main__":
    main()
