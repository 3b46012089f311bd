"""Compare this package with a folder of recordings of the published programs, quantity by quantity.

    python scripts/compare_goldens.py FOLDER [--markdown TABLE.md]

FOLDER holds `*.safetensors` and `*.json` recordings. The table has a line per quantity: the largest difference, or
whether labels are equal. The exit code is 1 if labels differ, or a float32 quantity by more than 1e-5.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden_networks as networks
import torch
from golden_networks import Row, Tensors, difference
from safetensors import safe_open

from genrefine import HBQ
from genrefine.convert.published import CLASS_BUDGET, class_sampler, plain_shift, text_entropy_sampler, text_sampler
from genrefine.corruption import shift_signal
from genrefine.data.buckets import PUBLISHED_BUDGETS, Buckets
from genrefine.nn.embeddings import grid_sinusoid, sinusoid
from genrefine.nn.rope import grid_angles, rotate_pairs
from genrefine.nn.rope3d import rotation_at
from genrefine.refiner.positions import grid_positions
from genrefine.sampling.guidance import Guidance
from genrefine.sampling.settings import SamplingSettings

TOLERANCE = 1e-5


def rows_of(path: Path) -> Iterator[Row]:
    """Yield the comparisons of one recording, found by its name."""
    name = path.stem
    if path.suffix == ".json":
        yield from JSON[name](json.loads(path.read_text(encoding="utf-8")))
        return
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        facts = file.metadata()
    attention = "joint" if name.startswith("joint") else "prefix"
    if name in TABLES:
        yield from TABLES[name](tensors, facts)
    elif name.startswith("tok_"):
        yield from networks.tokenizer(tensors, facts)
    elif name.startswith("c2i"):
        kind = networks.class_training if "_train_" in name else networks.class_forward
        yield from (networks.class_sampling if "draw.exp" in tensors else kind)(tensors, facts)
    elif "draw.exp" in tensors:
        yield from networks.text_sampling(tensors, facts, attention, name)
    else:
        kind = networks.text_training if "_train_" in name else networks.text_forward
        yield from kind(tensors, facts, attention)


def hbq_rows(tensors: Tensors, facts: dict[str, str]) -> Iterator[Row]:
    """Compare codes and values of 1 to 8 rounds in both layouts."""
    equal, values = True, 0.0
    for rounds in range(1, 9):
        for kind, features in (("c2i", tensors["feat4"]), ("t2iv", tensors["feat5"])):
            for layout in ("index", "bit"):
                hbq, key = HBQ(rounds, layout), f"r{rounds}.{kind}.{layout}"
                codes = hbq.encode(features)
                equal &= torch.equal(codes, tensors[f"{key}_label"].int())
                values = max(values, difference(hbq.decode(codes), tensors[f"{key}_dequant"]))
    yield "labels, both layouts", equal
    yield "values", values


def class_tables(tensors: Tensors, facts: dict[str, str]) -> Iterator[Row]:
    """Compare position, rotary and signal tables."""
    tables = [difference(grid_sinusoid(8, 8, 64), tensors["pos_embed.64.8"])]
    tables.append(difference(grid_sinusoid(16, 16, 768)[::7], tensors["pos_embed.768.16"]))
    yield "positions", max(tables)
    rotary = []
    for key in (key for key in tensors if key.startswith("rope.") and key.endswith(".cos")):
        head_dim, side, in_context = map(int, key.split(".")[1:4])
        angles = torch.cat([torch.zeros(in_context, head_dim // 2), grid_angles(side, side, head_dim)])
        for name, ours in (("cos", angles.cos()), ("sin", angles.sin())):
            table = tensors[key.removesuffix("cos") + name]
            rotary.append(difference(ours.repeat_interleave(2, dim=1)[::3], table))
    yield "rotary tables", max(rotary)
    turned = rotate_pairs(tensors["rot.in"], (tensors["rot.cos"][:, ::2], tensors["rot.sin"][:, ::2]))
    interleaved = torch.stack(turned.chunk(2, dim=-1), dim=-1).flatten(-2)
    yield "rotation", difference(interleaved, tensors["rot.out"])
    yield "signal sinusoid", difference(sinusoid(tensors["t"], 256), tensors["t_freq"])


def rotary_tables(tensors: Tensors, facts: dict[str, str]) -> Iterator[Row]:
    """Compare the angles of frames, rows and columns."""
    worst = 0.0
    for head_dim in (16, 64, 128):
        every = 1 if head_dim == 16 else 5
        third = head_dim // 2 // 3
        columns = {"frames": (0, third), "height": (third, 2 * third), "width": (2 * third, head_dim // 2)}
        for axis, (name, (first, last)) in enumerate(columns.items()):
            table = tensors[f"hd{head_dim}.freqs_{name}"]
            positions = torch.zeros(table.shape[1], 3, dtype=torch.int32)
            positions[:, axis] = torch.arange(table.shape[1]) * every + (600 if name == "frames" else 0)
            angles = torch.stack(rotation_at(positions, head_dim))[:, :, first:last]
            worst = max(worst, difference(angles, table))
    yield "angles of frames, rows, columns", worst


def guidance_rows(tensors: Tensors, facts: dict[str, str]) -> Iterator[Row]:
    """Compare guided probabilities of constant logits."""
    worst = 0.0
    for case in json.loads(facts["cases"]):
        law = class_sampler(case["steps"], case["cfg"], case["interval_min"], case["interval_max"]).settings().guidance
        weight = law.weight((torch.arange(case["steps"], dtype=torch.float64) / case["steps"]).float())
        conditional, null = tensors["x_cond"].movedim(1, -1), tensors["x_uncond"].movedim(1, -1)
        for step, w in enumerate(weight.tolist()):
            probabilities = torch.softmax((null + w * (conditional - null)) / case["tau"], -1)
            worst = max(worst, difference(probabilities, tensors[f"case{case['case']}.probs"][step]))
    yield "guided probabilities", worst


def interval_masks(content: dict[str, Any]) -> Iterator[Row]:
    """Compare which steps are guided."""
    equal = True
    for row in content["rows"]:
        signal = (torch.arange(row["steps"], dtype=torch.float64) / row["steps"]).float()
        equal &= (Guidance(2.0, (row["low"], row["high"])).weight(signal) != 1).int().tolist() == row["mask"]
    yield f"guided steps of {len(content['rows'])} rows", equal


def shifts(content: dict[str, Any]) -> Iterator[Row]:
    """Compare the shift of signals."""
    worst = 0.0
    for row in content["rows"]:
        signal = torch.tensor(row["pt"], dtype=torch.float64)
        worst = max(
            worst,
            difference(shift_signal(signal, plain_shift(row["alpha"])), torch.tensor(row["out"], dtype=torch.float64)),
        )
    yield "shifted signals", worst


def resolutions(content: dict[str, Any]) -> Iterator[Row]:
    """Compare pixel and latent sizes of all buckets."""
    ours = {
        (str(int(b.ratio * 1000) / 1000), b.budget): [b.height, b.width] for b in Buckets.of(PUBLISHED_BUDGETS).entries
    }
    theirs = {(t, pn): size["pixel_hw"] for t, sizes in content["table"].items() for pn, size in sizes.items()}
    yield f"sizes of {len(theirs)} buckets", ours == theirs


def rotary_indices(content: dict[str, Any]) -> Iterator[Row]:
    """Compare row and column positions of all buckets."""
    equal = True
    for row in content["table"].values():
        positions = grid_positions(1, *row["grid"]).reshape(*row["grid"], 3)
        equal &= positions[:, 0, 1].tolist() == row["h"] and positions[0, :, 2].tolist() == row["w"]
    yield f"positions of {len(content['table'])} buckets", equal


def _signals(settings: SamplingSettings, entropy: float, count: int) -> torch.Tensor:
    steps = settings.steps
    progress = torch.cat([torch.zeros(1, dtype=torch.float64), steps.before(), steps.after(entropy).progress])
    return settings.schedule(progress[:count])


def text_schedule(content: dict[str, Any]) -> Iterator[Row]:
    """Compare the nominal signals of the May program."""
    worst = 0.0
    for row in content["rows"]:
        shift, tmax = row["snr_shift"], row["complexity_aware_Tmax"]
        settings = text_sampler("prefix", snr_shift=shift, tmax=tmax).settings()
        nominal = torch.tensor(row["next_pt_nominal"], dtype=torch.float64)
        worst = max(worst, difference(_signals(settings, 0.0, 51)[1:], nominal))
    yield f"signals of {len(content['rows'])} rows", worst


def text_entropy_schedule(content: dict[str, Any]) -> Iterator[Row]:
    """Compare step counts and signals of the entropy-guided text program."""
    equal, worst = True, 0.0
    for row in content["rows"]:
        sampler = text_entropy_sampler(row["min_infer_steps"], row["max_infer_steps"], row["alpha"])
        settings = sampler.settings(adaptive=True)
        total = settings.steps.total(row["entropy"])
        equal &= min(total, settings.steps.max_steps) == row["forwards"]
        told = torch.tensor([*row["cur_pt"], row["final_next_pt"]], dtype=torch.float64)
        worst = max(worst, difference(_signals(settings, row["entropy"], row["forwards"] + 1), told))
    yield f"step counts of {len(content['rows'])} rows", equal
    yield "signals", worst


def class_entropy_schedule(content: dict[str, Any]) -> Iterator[Row]:
    """Compare step counts, signals and temperatures of the entropy-guided class program, while samples are active."""
    settings = class_sampler(entropy_steps=dict(CLASS_BUDGET)).settings(adaptive=True)
    equal, worst, factors = True, 0.0, 0.0
    for row in content["rows"]:
        total = settings.steps.total(row["H"])
        equal &= total == row["total"] == row["active_steps"]
        told = torch.tensor(row["t"][:total], dtype=torch.float64)
        worst = max(worst, difference(_signals(settings, row["H"], total), told))
        factors = max(factors, abs(settings.steps.after(row["H"]).temperature_factor - row["tau_factor"]))
    yield f"step counts of {len(content['rows'])} rows", equal
    yield "signals", worst
    yield "temperature factors", factors


TABLES = {"hbq": hbq_rows, "c2i_tables": class_tables, "rope3d_tables": rotary_tables, "c2i_cfg": guidance_rows}
JSON = {
    "c2i_interval_masks": interval_masks,
    "shift_pt": shifts,
    "resolution": resolutions,
    "rope_indices": rotary_indices,
    "schedule_head": text_schedule,
    "schedule_entropy_6563168": text_entropy_schedule,
    "c2i_entropy_schedule_published": class_entropy_schedule,
}


def main(arguments: list[str] | None = None) -> int:
    """Compare a folder and return the exit code."""
    parser = argparse.ArgumentParser(description="Compare with recordings of the published programs.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = ["| recording | quantity | largest difference |", "|---|---|---|"]
    is_fine = True
    for path in sorted(options.folder.iterdir()):
        if path.name == "INDEX.json" or path.suffix not in (".json", ".safetensors"):
            continue
        for quantity, found in rows_of(path):
            fine = found if isinstance(found, bool) else math.isfinite(found) and found <= TOLERANCE
            if "bfloat16" not in quantity and "cut" not in quantity:  # roundings of another machine, and of a cut
                is_fine &= fine
            told = ("equal" if found else "DIFFERENT") if isinstance(found, bool) else f"{found:.1e}" if found else "0"
            lines.append(f"| {path.name} | {quantity} | {told} |")
            print(f"{path.name:40} {quantity:40} {told}", flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
