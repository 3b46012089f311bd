"""Seconds per refinement step of the class refiner, beside a plain network with the same weights and logits.

The reference is the obvious program for the same network and step: the conditional and the unconditional pass one after
the other, attention with float32 scores that are written out, softmax and value product in float32, queries and keys
normalized and rotated pair by pair, and one element-wise operation at a time. Both have the same dtype of weights:
"bf16" means bfloat16 weights and bfloat16 products of linear layers in both; norms, rotations and the head are float32
in both, and attention is float32 in the reference only. In float32 their logits must agree within 1e-4, or the
benchmark refuses to measure.

Two settings: guidance at every step, and the published one, 50 steps of the linear schedule with guidance at signals in
(0.44, 1). Outside the interval the library runs the conditional pass alone; the reference always runs both passes and
blends with weight 1. "half" is the same with the reference, too, leaving the unconditional pass out there.

    python benchmarks/refiner_speed.py --threads 1 2
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.nn.rope import grid_angles
from genrefine.refiner import ClassRefiner, class_refiner_config
from genrefine.sampling.guidance import Guidance, apply_guidance
from genrefine.sampling.schedules import LinearSchedule
from measuring import Report, in_turns, parser

SCALE, INTERVAL, PUBLISHED_STEPS = 2.35, (0.44, 1.0), 50
TOLERANCE = 1e-4


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return RMSNorm in float32, in the dtype that came."""
    wide = x.float()
    wide = wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * weight.float()).to(x.dtype)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Turn every pair of neighboring channels by the angle of its token, in place of the pair."""
    wide = x.float()
    cos, sin = angles.cos().repeat_interleave(2, -1), angles.sin().repeat_interleave(2, -1)
    turned = torch.stack([-wide[..., 1::2], wide[..., 0::2]], dim=-1).flatten(-2)
    return (wide * cos + turned * sin).to(x.dtype)


class PlainRefiner:
    """The class refiner written out plainly over the weights of a `ClassRefiner`."""

    def __init__(self, refiner: ClassRefiner) -> None:
        self.refiner, self.config = refiner, refiner.sizes
        height, columns = self.config.grid
        self.angles = grid_angles(height, columns, self.config.width // self.config.num_heads)
        nowhere = torch.zeros(self.config.in_context_tokens, self.angles.shape[1])
        self.joined_angles = torch.cat([nowhere, self.angles])

    def __call__(self, codes: Tensor, signal: Tensor, condition: ClassCondition) -> Tensor:
        """Return logits, classes last."""
        network, config = self.refiner, self.config
        labels = network.class_embedding(condition.labels)
        context = network.signal_embedding(signal, labels.dtype) + labels
        one_hot = F.one_hot(codes.flatten(2).long(), config.code_classes)  # batch channels tokens classes
        one_hot = one_hot.permute(0, 2, 3, 1).flatten(2).to(labels.dtype)
        x = network.code_embedding.expand(network.code_embedding.compress(one_hot))
        x = x + network._positions.on(codes.device).to(x.dtype)
        angles = self.angles
        for index, block in enumerate(network.blocks):
            if config.in_context_tokens and index == config.in_context_start:
                x = torch.cat([labels[:, None] + network.in_context_positions, x], dim=1)
                angles = self.joined_angles
            shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = block.modulation(F.silu(context)).chunk(6, -1)
            y = norm(x, block.attention_norm.weight, block.attention_norm.eps)
            y = y * (1 + scale_a[:, None]) + shift_a[:, None]
            x = x + gate_a[:, None] * self._attention(block.attention, y, angles)
            y = norm(x, block.mlp_norm.weight, block.mlp_norm.eps)
            y = y * (1 + scale_m[:, None]) + shift_m[:, None]
            gate, value = block.mlp.gate_and_value(y).chunk(2, -1)
            x = x + gate_m[:, None] * block.mlp.output(F.silu(gate) * value)
        x = x[:, config.in_context_tokens :].float()
        shift, scale = network.head.modulation(F.silu(context)).chunk(2, -1)
        x = norm(x, network.head.norm.weight, network.head.norm.eps)
        x = x * (1 + scale.float()[:, None]) + shift.float()[:, None]
        logits = F.linear(x, network.head.linear.weight.float(), network.head.linear.bias.float())
        batch, channels = codes.shape[:2]
        logits = logits.view(batch, *codes.shape[2:], config.code_classes, channels)
        return logits.permute(0, 5, 1, 2, 3, 4).contiguous()

    def _attention(self, attention: Any, x: Tensor, angles: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        heads = self.config.num_heads
        qkv = attention.query_key_value(x).view(batch, tokens, 3, heads, width // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query = rotated(norm(query, attention.query_norm.weight, attention.query_norm.eps), angles)
        key = rotated(norm(key, attention.key_norm.weight, attention.key_norm.eps), angles)
        scores = query.float() @ key.float().transpose(-1, -2) / (width // heads) ** 0.5
        mixed = (scores.softmax(-1) @ value.float()).to(x.dtype)
        return attention.output(mixed.transpose(1, 2).reshape(batch, tokens, width))


Step = Callable[[Tensor, float], Tensor]


def library_step(refiner: ClassRefiner, condition: ClassCondition, interval: tuple[float, float]) -> Step:
    """Return a guided step of the library."""
    guided = apply_guidance(refiner, condition, Guidance(SCALE, interval))

    def step(codes: Tensor, signal: float) -> Tensor:
        return guided(codes, torch.full((len(codes),), signal)).guided

    return step


def plain_step(plain: PlainRefiner, condition: ClassCondition, interval: tuple[float, float], half: bool) -> Step:
    """Return a guided step of the reference: two passes, or one outside the interval where it saves that."""
    null = condition.null()

    def step(codes: Tensor, signal: float) -> Tensor:
        there = torch.full((len(codes),), signal)
        inside = signal < interval[1] and (interval[0] == 0 or signal > interval[0])
        conditional = plain(codes, there, condition)
        if half and not inside:
            return conditional
        unconditional = plain(codes, there, null)
        return unconditional + (SCALE if inside else 1.0) * (conditional - unconditional)

    return step


def network(config: dict[str, Any]) -> ClassRefiner:
    """Return a refiner with random weights in every layer, modulations and the head included."""
    torch.manual_seed(0)
    refiner = ClassRefiner(**config).eval()
    with torch.no_grad():
        for part in (*refiner.blocks, refiner.head):
            torch.nn.init.normal_(part.modulation.weight, std=0.02)
        torch.nn.init.normal_(refiner.head.linear.weight, std=0.02)
    return refiner


@torch.no_grad()
def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Check, measure and report."""
    options = parser(__doc__, repetitions=3)
    options.add_argument("--size", default="B", help="published size of the refiner")
    options.add_argument("--layout", default="index", choices=["index", "bit"])
    options.add_argument("--width", type=int, help="in place of the size's own")
    options.add_argument("--depth", type=int, help="in place of the size's own")
    options.add_argument("--grid", type=int, default=16, help="rows and columns of the latent map")
    options.add_argument("--batch", type=int, default=4, help="pictures; guidance doubles them")
    options.add_argument("--compile", action="store_true", help="the library through torch.compile")
    options.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    next(action for action in options._actions if action.dest == "threads").nargs = "+"
    chosen = options.parse_args(arguments)
    counts = chosen.threads or [torch.get_num_threads()]
    chosen.threads = max(counts)
    report = Report("refiner_speed", chosen)
    config = class_refiner_config(chosen.size, chosen.layout, grid=(chosen.grid, chosen.grid))
    if chosen.width:
        config["width"] = chosen.width
    if chosen.depth:
        config |= {"depth": chosen.depth, "in_context_start": min(config["in_context_start"], chosen.depth - 1)}
    refiner = network(config)
    if chosen.compile:
        refiner.compile()
    condition = ClassCondition(torch.arange(chosen.batch) % config["num_classes"], config["num_classes"])
    codes = torch.randint(config["code_classes"], (chosen.batch, config["code_channels"], 1, *config["grid"]))
    steps = {
        "library": lambda interval: library_step(refiner, condition, interval),
        "plain": lambda interval: plain_step(PlainRefiner(refiner), condition, interval, half=False),
        "plain, half": lambda interval: plain_step(PlainRefiner(refiner), condition, interval, half=True),
    }
    worst = max(
        (steps["library"](INTERVAL)(codes, signal) - steps["plain"](INTERVAL)(codes, signal)).abs().max().item()
        for signal in (0.1, 0.7)
    )
    if not worst <= TOLERANCE:
        raise AssertionError(f"library and reference must give the same logits in float32; they differ by {worst:.2e}")
    report.add("largest difference of logits, fp32", max(worst, 1e-12), "")
    # One step inside the interval and one outside stand for all; the published setting has so many of each.
    signals = LinearSchedule()(torch.arange(PUBLISHED_STEPS) / PUBLISHED_STEPS).tolist()
    inside = int((Guidance(SCALE, INTERVAL).weight(torch.tensor(signals)) != 1).sum())
    report.run["steps_inside"] = inside
    for dtype in chosen.dtypes:
        refiner = torch.nn.Module.to(refiner, {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
        for threads in counts:
            torch.set_num_threads(threads)
            made = {name: make(INTERVAL) for name, make in steps.items()}
            tasks = {
                f"{name}, {place}": partial(step, codes, at)
                for place, at in (("guided", 0.7), ("outside", 0.2))
                for name, step in made.items()
                if not (place == "guided" and name == "plain, half")
            }
            seconds = {name: taken.median for name, taken in in_turns(tasks, chosen).items()}
            seconds["plain, half, guided"] = seconds["plain, guided"]
            name = f"{dtype}, {threads} thread{'s' * (threads > 1)}"
            for way in steps:
                full = seconds[f"{way}, guided"]
                mean = (inside * full + (PUBLISHED_STEPS - inside) * seconds[f"{way}, outside"]) / PUBLISHED_STEPS
                seconds[f"{way}, published"] = mean
            for place in ("guided", "published"):
                for way in steps:
                    if place == "published" or way != "plain, half":
                        report.add(f"{name}, {place}, {way}", seconds[f"{way}, {place}"], "s/step")
                ratio = seconds[f"plain, {place}"] / seconds[f"library, {place}"]
                halved = seconds[f"plain, half, {place}"] / seconds[f"library, {place}"]
                report.add(f"{name}, {place}, ratio", ratio, "times faster", beside_half=halved)
    return report.show(__doc__)


if __name__ == "__main__":
    main()
