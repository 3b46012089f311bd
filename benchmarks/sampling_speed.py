"""Pictures per second from a class pipeline: fixed and entropy-guided steps, one by one and in batches.

The same seeds and classes are drawn in every way, decoding included. Network evaluations are counted twice: by the
pipeline, and by a hook on the network itself, which sees every row that was computed.

    python benchmarks/sampling_speed.py --model emoji-class
"""

from typing import Any

import torch

from genrefine.model_folder.find import find_model
from genrefine.pipelines import ClassPipeline
from measuring import Report, in_turns, parser


def draw(pipe: ClassPipeline, pictures: int, batch: int, **sampling: Any) -> dict[str, float]:
    """Draw so many pictures in batches and count what it took, per picture."""
    rows = 0

    def count(_: Any, arguments: tuple[torch.Tensor, ...], __: Any) -> None:
        nonlocal rows
        rows += len(arguments[0])

    hook = pipe.refiner.register_forward_hook(count)
    steps = evaluations = 0
    labels = [number % len(pipe.class_names) for number in range(pictures)]
    for start in range(0, pictures, batch):
        seeds = list(range(start, min(start + batch, pictures)))
        output = pipe([labels[seed] for seed in seeds], seed=seeds, output_type="pt", **sampling)
        steps += sum(output.num_steps)
        evaluations += sum(output.num_evaluations)
    hook.remove()
    if rows != evaluations:
        raise AssertionError(f"the network computed {rows} rows; the pipeline counted {evaluations}")
    return {"steps": steps / pictures, "evaluations": evaluations / pictures}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure and report."""
    options = parser(__doc__, repetitions=3)
    options.add_argument("--model", default="emoji-class", help="pipeline folder or name of a shipped model")
    options.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    options.add_argument("--steps", type=int, default=50, help="of the fixed budget")
    options.add_argument("--pictures", type=int, default=16, help="drawn in every way")
    options.add_argument("--bf16", action="store_true", help="run the network in bfloat16")
    chosen = options.parse_args(arguments)
    report = Report("sampling_speed", chosen)
    folder = find_model(chosen.model)
    pipe = ClassPipeline.from_pretrained(folder)
    if chosen.bf16:
        pipe.to(torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    ways: dict[str, dict[str, Any]] = {"fixed": {"num_inference_steps": chosen.steps}}
    if pipe.sampler.config.entropy_steps is None:
        print(f"{chosen.model} was never calibrated (genrefine calibrate): fixed steps only")
    else:
        ways["adaptive"] = {"adaptive": True}
    counts: dict[str, dict[str, float]] = {}

    def task(name: str, batch: int, sampling: dict[str, Any]) -> Any:
        return lambda: counts.update({name: draw(pipe, chosen.pictures, batch, **sampling)})

    seconds = in_turns(
        {f"{way}, batch {n}": task(f"{way}, batch {n}", n, ways[way]) for n in chosen.batches for way in ways},
        chosen,
    )
    for name, taken in seconds.items():
        report.add(name, chosen.pictures / taken.median, "pictures/s", seconds=taken.median, **counts[name])
    for batch in chosen.batches if "adaptive" in ways else []:
        fixed, adaptive = f"fixed, batch {batch}", f"adaptive, batch {batch}"
        fewer = counts[fixed]["evaluations"] / counts[adaptive]["evaluations"]
        faster = seconds[fixed].median / seconds[adaptive].median
        report.add(f"ratio, batch {batch}", faster, "times faster", fewer_evaluations=fewer)
    return report.show(__doc__)


if __name__ == "__main__":
    main()
