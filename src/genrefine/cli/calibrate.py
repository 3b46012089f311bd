"""`genrefine calibrate`: fit the entropy-guided step budget of a model (paper section 3.4).

Warm-up runs over many classes or prompts, each with a seed of its own, give the entropies that the model shows after
`--warmup` steps; slope and offset are fitted to them and written into the sampler configuration of the model.

The budget fits what the runs asked for. A model of classes asks for all of them in turn. One of prompts reads them
from `--prompts`, from the captions of a data set, or from the file `prompts.txt` in its folder, where training leaves
distinct captions of what it was trained on; they are spread evenly over the runs, as stills.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrefine.cli.answers import say, write_json
from genrefine.cli.loading import find_model, load_pipeline
from genrefine.cli.options import (
    add_batch_option,
    add_device_option,
    add_dtype_option,
    add_json_option,
    parse_pairs,
    positive,
)
from genrefine.errors import GenrefineError

if TYPE_CHECKING:
    from genrefine.pipelines import ClassPipeline, TextPipeline

_BAR = 50


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of the verb."""
    parser.add_argument("model", metavar="MODEL", help="pipeline folder or shipped model; its configuration is changed")
    parser.add_argument(
        "--mean-steps", type=float, metavar="N", help="wanted mean; without it, entropies map to all steps evenly"
    )
    parser.add_argument(
        "--min-steps", type=positive, metavar="N", help="steps of the surest pictures (default: 0.8 of the mean, or 20)"
    )
    parser.add_argument(
        "--max-steps", type=positive, metavar="N", help="steps of the least sure (default: those saved with the model)"
    )
    parser.add_argument("--warmup", type=int, default=5, metavar="N", help="steps before the decision (default: 5)")
    parser.add_argument("--num-images", type=positive, default=256, metavar="N", help="warm-up runs (default: 256)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the first run (default: 0)")
    prompts = parser.add_argument_group("prompts of the warm-up runs, for models of prompts (default: prompts.txt)")
    source = prompts.add_mutually_exclusive_group()
    source.add_argument("--prompts", type=Path, metavar="FILE", help="text file, one prompt a line")
    source.add_argument("--captions", metavar="SOURCE", help="captioned pictures: folder or data set")
    prompts.add_argument("--split", metavar="NAME", help="split of the captioned pictures")
    prompts.add_argument("--caption-column", metavar="NAME", help="their column of captions (captions)")
    prompts.add_argument("--keep", nargs="+", action="extend", metavar="COLUMN=VALUE", help="take only these pictures")
    add_batch_option(parser)
    add_json_option(parser)
    add_device_option(parser)
    add_dtype_option(parser)


def run(options: argparse.Namespace) -> None:
    """Observe, fit, write, report."""
    from genrefine.files import require_writable, write_atomically
    from genrefine.sampling.budgets import fit_entropy_steps

    place = find_model(options.model)
    if not isinstance(place, Path):
        raise GenrefineError(f"calibration changes a model folder; '{options.model}' is on the hub; save it first")
    pipeline = load_pipeline(options.model, options.device, options.dtype)
    config_path = place / "sampler" / str(pipeline.sampler.config_name)
    for path in (config_path, options.json):
        if path:
            require_writable(path)
    max_steps = options.max_steps or pipeline.sampler.config["num_inference_steps"]
    fitting = {"warmup": options.warmup, "min_steps": options.min_steps, "max_steps": max_steps}
    fitting["mean_steps"] = options.mean_steps
    fit_entropy_steps([0.0, 1.0], **fitting)  # refuses impossible numbers before the long part
    wanted = _wanted(pipeline, place, options)
    entropies = _observe(pipeline, wanted, options.warmup, max_steps, options)
    budget = fit_entropy_steps(entropies, **fitting)
    totals = [budget.total(entropy) for entropy in entropies]
    calibrated = pipeline.sampler.calibrated(budget)
    write_atomically(config_path, calibrated.to_json_string().encode())
    mean = sum(totals) / len(totals)
    say(f"entropy after {options.warmup} of {max_steps} steps: {min(entropies):.4f} to {max(entropies):.4f}")
    say(f"slope k = {budget.slope:.3f}, offset b = {budget.offset:.3f}, mean of {len(totals)} runs {mean:.2f} steps")
    for line in _histogram(totals):
        say(line)
    say(f"written to {config_path}")
    if options.json:
        record = {"model": options.model, "mean_steps": mean}
        record["entropy_steps"] = dict(calibrated.config["entropy_steps"])
        record["class_labels" if isinstance(wanted[0], int) else "prompts"] = wanted
        write_json(options.json, {**record, "entropy": entropies, "num_steps": totals})


def _wanted(
    pipeline: "ClassPipeline | TextPipeline", folder: Path, options: argparse.Namespace
) -> list[int] | list[str]:
    """Return what each run asks for: a class or a prompt.

    Raises:
        GenrefineError: prompts for a model of classes, or a model of prompts without any.
    """
    from genrefine.pipelines import PROMPTS, ClassPipeline

    captions = ("split", "caption_column", "keep")
    about_captions = [name for name in captions if getattr(options, name) is not None]
    if isinstance(pipeline, ClassPipeline):
        given = [name for name in ("prompts", "captions", *about_captions) if getattr(options, name) is not None]
        if given:
            raise GenrefineError(f"'{options.model}' is a model of classes; leave out --{given[0].replace('_', '-')}")
        return [index % len(pipeline.class_names) for index in range(options.num_images)]
    if about_captions and options.captions is None:
        raise GenrefineError(f"--{about_captions[0].replace('_', '-')} is about captioned pictures; give --captions")
    if options.captions is not None:
        prompts = _captions(options)
    elif options.prompts is not None or (folder / PROMPTS).is_file():
        prompts = _lines(options.prompts or folder / PROMPTS)
    else:
        raise GenrefineError(f"'{folder}' has no {PROMPTS}; give --prompts FILE with one prompt a line, or --captions")
    count, runs = len(prompts), options.num_images
    return [prompts[index % count if count < runs else index * count // runs] for index in range(runs)]


def _captions(options: argparse.Namespace) -> list[str]:
    """Return the first captions of the pictures of a data set, each once."""
    from genrefine.data import ImageSource

    source = ImageSource(
        options.captions,
        split=options.split,
        caption_column=options.caption_column or "captions",
        keep=parse_pairs(options.keep or [], "--keep"),
    )
    return list(dict.fromkeys(texts[0] for texts in source.captions))


def _lines(path: Path) -> list[str]:
    """Return the prompts in a text file, each once."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise GenrefineError(f"'{path}' is no UTF-8 text; write one prompt a line") from error
    prompts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not prompts:
        raise GenrefineError(f"'{path}' holds no prompt; write one a line")
    return prompts


def _observe(
    pipeline: "ClassPipeline | TextPipeline",
    wanted: list[int] | list[str],
    warmup: int,
    max_steps: int,
    options: argparse.Namespace,
) -> list[float]:
    """Return the entropy after the warm-up of one run per seed."""
    from itertools import islice

    refine: Any = pipeline.refine
    entropies: list[float] = []
    with pipeline.progress_bar(total=len(wanted)) as bar:
        for first in range(0, len(wanted), options.batch_size):
            batch = wanted[first : first + options.batch_size]
            seeds = [options.seed + index for index in range(first, first + len(batch))]
            steps = refine(batch, seed=seeds, num_inference_steps=max_steps)
            entropies += next(islice(steps, warmup, None)).entropy.tolist()
            bar.update(len(batch))
    return entropies


def _histogram(totals: list[int]) -> list[str]:
    counts = Counter(totals)
    most = max(counts.values())
    lines = ["steps  runs"]
    for steps in range(min(totals), max(totals) + 1):
        bar = "#" * round(_BAR * counts[steps] / most)
        lines.append(f"{steps:5d}  {counts[steps]:4d}  {bar}".rstrip())
    return lines
