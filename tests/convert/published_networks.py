"""The published networks, written out slowly from the facts about them: published names, one sample, float64.

What the library does fast and for all sizes is compared with this in sizes that no recording has.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def linear(weights: State, name: str, x: Tensor) -> Tensor:
    bias = weights.get(f"{name}.bias")
    return x @ weights[f"{name}.weight"].flatten(1).T + (0 if bias is None else bias)


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def sinusoid(value: Tensor) -> Tensor:
    angles = value * torch.tensor([math.exp(-math.log(1e4) * i / 128) for i in range(128)], dtype=torch.float64)
    return torch.cat([angles.cos(), angles.sin()])


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs (0, 1), (2, 3), ... of the last axis."""
    out = torch.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * angles.cos() - x[..., 1::2] * angles.sin()
    out[..., 1::2] = x[..., 1::2] * angles.cos() + x[..., 0::2] * angles.sin()
    return out


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend; arguments are "heads tokens head_dim", and consecutive query heads share a key head."""
    repeats = len(q) // len(k)
    k, v = (torch.stack([x[h // repeats] for h in range(len(q))]) for x in (k, v))
    return (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def heads_of(x: Tensor, head_dim: int) -> Tensor:
    return torch.stack(x.split(head_dim, dim=-1))


def class_forward(w: State, labels: Tensor, t: float, y: int, classes: int, start: int) -> Tensor:
    """Return logits "class channel h w" for labels "channel h w"."""
    w = {name.removeprefix("net."): tensor.double() for name, tensor in w.items()}
    channels, height, width = labels.shape
    hot = torch.stack([labels == k for k in range(classes)]).flatten(0, 1).double()  # class-major
    x = linear(w, "x_embedder.proj2", linear(w, "x_embedder.proj1", hot.flatten(1).T)) + w["pos_embed"][0]
    signal = sinusoid(torch.tensor(t, dtype=torch.float64))
    signal = linear(w, "t_embedder.mlp.2", F.silu(linear(w, "t_embedder.mlp.0", signal)))
    named = w["y_embedder.embedding_table.weight"][y]
    c = F.silu(signal + named)
    head_dim = len(w["blocks.0.attn.q_norm.weight"])
    quarter = head_dim // 4
    theta = torch.tensor([1e4 ** (-2 * j / (head_dim / 2)) for j in range(quarter)], dtype=torch.float64)
    rows = torch.arange(height).repeat_interleave(width).double()
    columns = torch.arange(width).repeat(height).double()
    angles = torch.cat([rows[:, None] * theta, columns[:, None] * theta], dim=1)
    depth = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
    for i in range(depth):
        if i == start:
            extra = named + w["in_context_posemb"][0]
            x = torch.cat([extra, x])
            angles = torch.cat([torch.zeros(len(extra), angles.shape[1], dtype=torch.float64), angles])
        b = f"blocks.{i}."
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = linear(w, b + "adaLN_modulation.1", c).chunk(6)
        q, k, v = linear(w, b + "attn.qkv", rms(x, w[b + "norm1.weight"]) * (1 + scale_a) + shift_a).chunk(3, dim=-1)
        q, k, v = (heads_of(part, head_dim) for part in (q, k, v))
        q, k = (turn(rms(p, w[f"{b}attn.{n}_norm.weight"]), angles) for p, n in ((q, "q"), (k, "k")))
        x = x + gate_a * linear(w, b + "attn.proj", torch.cat(list(attend(q, k, v)), dim=-1))
        h = rms(x, w[b + "norm2.weight"]) * (1 + scale_m) + shift_m
        gate, up = linear(w, b + "mlp.w12", h).chunk(2, dim=-1)
        x = x + gate_m * linear(w, b + "mlp.w3", F.silu(gate) * up)
    x = x[len(x) - height * width :]
    shift, scale = linear(w, "final_layer.adaLN_modulation.1", c).chunk(2)
    out = linear(w, "final_layer.linear", rms(x, w["final_layer.norm_final.weight"]) * (1 + scale) + shift)
    return out.T.reshape(classes, channels, height, width)


def text_positions(frames: list[int], height: int, width: int, ratio: float) -> list[tuple[int, int, int]]:
    """Return (frame, row, column) of a raster; `ratio` is the template."""
    wide = math.sqrt(225 * 75 / ratio)
    high, wide_int = int(ratio * wide), int(wide)
    rows = [round(float(torch.tensor(i, dtype=torch.float32) * (high / height))) for i in range(height)]
    columns = [round(float(torch.tensor(i, dtype=torch.float32) * (wide_int / width))) for i in range(width)]
    return [(600 + f, r, c) for f in frames for r in rows for c in columns]


def text_angles(positions: list[tuple[int, int, int]], head_dim: int) -> Tensor:
    third = head_dim // 2 // 3
    counts = (third, third, head_dim // 2 - 2 * third)
    return torch.tensor(
        [[p * 1e4 ** (-i / n) for p, n in zip(place, counts, strict=True) for i in range(n)] for place in positions],
        dtype=torch.float64,
    )


def text_forward(
    w: State,
    labels: Tensor,
    pt: float,
    text: Tensor,
    classes: int,
    attention: str,
    ratio: float,
    first_frame: Tensor | None = None,
) -> Tensor:
    """Return logits "channel t h w class" for labels "channel t h w"."""
    w = {name: tensor.double() for name, tensor in w.items()}
    _, frames, height, width = labels.shape

    def embed(codes: Tensor) -> Tensor:
        hot = torch.stack([codes == k for k in range(classes)], dim=1).flatten(0, 1).double()  # channel-major
        return linear(w, "word_embed", hot.flatten(1).T)

    visual, words = embed(labels), linear(w, "text_proj", text.double())
    signal = sinusoid(torch.tensor(pt, dtype=torch.float64))
    signal = linear(w, "pt_embedder.mlp.2", F.silu(linear(w, "pt_embedder.mlp.0", signal)))[None]
    later = first_frame is not None
    places = text_positions([f + later for f in range(frames)], height, width, ratio)
    prompt, mark = [(j, 0, 0) for j in range(len(words))], [(512, 0, 0)]
    if attention == "joint":
        parts, positions = [visual], list(places)
        if first_frame is not None:
            parts.append(embed(first_frame))
            positions += text_positions([0], height, width, ratio)
        x = _text_blocks(w, torch.cat([*parts, words, signal]), positions + prompt + mark)
    else:
        memory: list[tuple[Tensor, Tensor]] = []
        _text_blocks(w, words, prompt, keep=memory)
        x = _text_blocks(w, torch.cat([visual, signal]), places + mark, recall=memory)
    out = linear(w, "head.proj", rms(x[: len(visual)], w["head.norm.weight"]))
    return out.reshape(frames, height, width, -1, classes).permute(3, 0, 1, 2, 4)


def _text_blocks(
    w: State,
    x: Tensor,
    positions: list[tuple[int, int, int]],
    keep: list[tuple[Tensor, Tensor]] | None = None,
    recall: list[tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    names = sorted({tuple(map(int, name.split(".")[1:4:2])) for name in w if name.startswith("block_chunks.")})
    head_dim = len(w["block_chunks.0.module.0.attn.q_norm.weight"])
    angles = text_angles(positions, head_dim)
    for layer, (chunk, place) in enumerate(names):
        b = f"block_chunks.{chunk}.module.{place}."
        h = rms(x, w[b + "input_layernorm.weight"])
        q, k, v = (heads_of(linear(w, f"{b}attn.{n}_proj", h), head_dim) for n in "qkv")
        q, k = (turn(rms(p, w[f"{b}attn.{n}_norm.weight"]), angles) for p, n in ((q, "q"), (k, "k")))
        if keep is not None:
            keep.append((k, v))
        if recall is not None:
            k, v = (torch.cat([old, new], dim=1) for old, new in zip(recall[layer], (k, v), strict=True))
        x = x + linear(w, b + "attn.o_proj", torch.cat(list(attend(q, k, v)), dim=-1))
        h = rms(x, w[b + "post_attention_layernorm.weight"])
        gate, up = linear(w, b + "mlp.gate_proj", h), linear(w, b + "mlp.up_proj", h)
        x = x + linear(w, b + "mlp.down_proj", F.silu(gate) * up)
    return x


def random_class_weights(
    heads: int, head_dim: int, side: int, channels: int, classes: int, depth: int = 4, in_context: int = 5
) -> State:
    """Return class weights under published names, with an opinion in every layer."""
    width, hidden = heads * head_dim, int(4 * heads * head_dim * 2 / 3)
    linears = {"t_embedder.mlp.0": (width, 256), "t_embedder.mlp.2": (width, width)}
    linears |= {"final_layer.linear": (channels * classes, width), "final_layer.adaLN_modulation.1": (2 * width, width)}
    gains = {"final_layer.norm_final": width}
    for i in range(depth):
        b = f"blocks.{i}."
        linears |= {b + "attn.qkv": (3 * width, width), b + "attn.proj": (width, width)}
        linears |= {b + "mlp.w12": (2 * hidden, width), b + "mlp.w3": (width, hidden)}
        linears[b + "adaLN_modulation.1"] = (6 * width, width)
        gains |= {b + "norm1": width, b + "norm2": width, b + "attn.q_norm": head_dim, b + "attn.k_norm": head_dim}
    state = _random(linears, gains)
    state["x_embedder.proj1.weight"] = torch.randn(16, channels * classes, 1, 1) / 4
    state["x_embedder.proj2.weight"] = torch.randn(width, 16, 1, 1) / 4
    state["x_embedder.proj2.bias"] = torch.randn(width) / 4
    state["y_embedder.embedding_table.weight"] = torch.randn(11, width)
    state["in_context_posemb"] = torch.randn(1, in_context, width)
    state["pos_embed"] = _position_table(side, width)[None]
    return {f"net.{name}": tensor for name, tensor in state.items()}


def _position_table(side: int, width: int) -> Tensor:
    """Return the fixed table: columns in the first half, rows in the second, sines before cosines."""
    omega = [1e4 ** (-i / (width // 4)) for i in range(width // 4)]
    table = [
        [f(p * o) for p in (column, row) for f in (math.sin, math.cos) for o in omega]
        for row in range(side)
        for column in range(side)
    ]
    return torch.tensor(table)


def random_text_weights(
    heads: int, kv_heads: int, head_dim: int, channels: int, classes: int, text_channels: int = 12
) -> State:
    """Return text weights under published names: two chunks of two blocks."""
    width, hidden = heads * head_dim, 3 * heads * head_dim
    linears = {"word_embed": (width, channels * classes), "head.proj": (channels * classes, width)}
    linears |= {"text_proj": (width, text_channels), "pt_embedder.mlp.0": (width, 256)}
    linears["pt_embedder.mlp.2"] = (width, width)
    gains, bare = {"head.norm": width}, {}
    for b in (f"block_chunks.{chunk}.module.{place}." for chunk in range(2) for place in range(2)):
        bare |= {b + "attn.q_proj": (width, width), b + "attn.o_proj": (width, width)}
        bare |= {b + f"attn.{n}_proj": (kv_heads * head_dim, width) for n in "kv"}
        bare |= {b + f"mlp.{n}_proj": (hidden, width) for n in ("gate", "up")}
        bare[b + "mlp.down_proj"] = (width, hidden)
        gains |= {b + "input_layernorm": width, b + "post_attention_layernorm": width}
        gains |= {b + "attn.q_norm": head_dim, b + "attn.k_norm": head_dim}
    bare_state = {name: t for name, t in _random(bare, {}).items() if name.endswith("weight")}
    return _random(linears, gains) | bare_state


def _random(linears: dict[str, tuple[int, int]], gains: dict[str, int]) -> State:
    state = {}
    for name, (rows, columns) in linears.items():
        state[f"{name}.weight"] = torch.randn(rows, columns) * 0.7 / columns**0.5
        state[f"{name}.bias"] = torch.randn(rows) * 0.1
    return state | {f"{name}.weight": 1 + torch.randn(size) * 0.1 for name, size in gains.items()}
