"""Compare our networks and samplers with recordings of the published programs; see `compare_goldens.py`.

Every function takes the tensors and facts of one recording and yields (quantity, largest difference), or True and
False for labels that must be equal. Weights go through `genrefine.convert`, draws through its recordings.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genrefine import HBQ, ClassRefiner
from genrefine.conditioning.class_condition import ClassCondition
from genrefine.conditioning.text_condition import TextCondition
from genrefine.convert import Hints, class_draws, class_sampler, network_from_weights, text_draws, text_entropy_sampler
from genrefine.convert import text_sampler as published_text_sampler
from genrefine.convert.class_refiner import rename as rename_class
from genrefine.convert.text_refiner import renaming as renaming_text
from genrefine.sampling.records import collect

Row = tuple[str, float | bool]
Tensors = Mapping[str, Tensor]


def difference(ours: Tensor, published: Tensor) -> float:
    """Return the largest difference of two tensors of one size."""
    return (ours.double().reshape(published.shape) - published.double()).abs().max().item()


def weights_of(tensors: Tensors, prefix: str = "w.") -> dict[str, Tensor]:
    """Return the weights of a recording under published names."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def class_refiner(tensors: Tensors, facts: Mapping[str, str]) -> ClassRefiner:
    """Return the class refiner of a recording."""
    hints = Hints(code_classes=int(facts["classes"]), in_context_start=json.loads(facts["config"])["in_context_start"])
    return network_from_weights(weights_of(tensors), hints).build()


def class_forward(tensors: Tensors, facts: Mapping[str, str]) -> Iterator[Row]:
    """Compare logits and activations of a class refiner."""
    refiner = class_refiner(tensors, facts)
    watched: dict[str, Any] = {"t_emb": refiner.signal_embedding, "y_emb": refiner.class_embedding}
    watched |= {"x_embed": refiner.code_embedding, "final": refiner.head}
    watched |= {f"block{index}": block for index, block in enumerate(refiner.blocks)}
    seen: dict[str, Tensor] = {}
    for name, module in watched.items():
        module.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(f"act.{name}", output))
    condition = ClassCondition(tensors["in.y"], refiner.config["num_classes"])
    with torch.no_grad():
        logits = refiner(tensors["in.labels"][:, :, None], tensors["in.t"], condition)
    yield "logits", difference(logits[:, :, 0].movedim(-1, 1), tensors["out.logits"])
    # Absolute below 1, relative above: the residual stream of these random networks grows to tens.
    scaled = [(seen[name], tensors[name]) for name in seen if name in tensors]
    yield (
        "activations, relative",
        max(difference(a / b.abs().clamp_min(1), b / b.abs().clamp_min(1)) for a, b in scaled),
    )


def class_training(tensors: Tensors, facts: Mapping[str, str]) -> Iterator[Row]:
    """Compare loss and gradients of a class refiner; its weights were moved by 0.01 before they were stored."""
    argv = json.loads(facts["argv"])
    drop = float(argv[argv.index("--label_drop_prob") + 1])
    before = {key: tensor - 0.01 if key.startswith("w.") else tensor for key, tensor in tensors.items()}
    refiner = class_refiner(before, facts)
    refiner.train()
    labels = ClassCondition(tensors["in.y"], refiner.config["num_classes"])
    signal = torch.sigmoid(tensors["draw.t_normal"] * 0.8 - 0.8)
    kept = tensors["draw.mask_uniform"] < signal.view(-1, 1, 1, 1)
    noisy = torch.where(kept, tensors["in.x"], tensors["draw.random_labels"])
    logits = refiner(noisy[:, :, None], signal, labels.dropped(tensors["draw.drop_uniform"] < drop))
    loss = F.cross_entropy(logits.flatten(0, -2), tensors["in.x"].flatten().long())
    yield "loss", difference(loss.detach(), tensors["out.loss"])
    loss.backward()
    yield "gradients", _gradients(refiner, tensors, rename_class)


def _gradients(network: Any, tensors: Tensors, rename: Any) -> float:
    own = dict(network.named_parameters())
    recorded = {key.removeprefix("grad."): tensor for key, tensor in tensors.items() if key.startswith("grad.")}
    return max(difference(own[str(rename(key))].grad, tensor) for key, tensor in recorded.items())


def class_sampling(tensors: Tensors, facts: Mapping[str, str]) -> Iterator[Row]:
    """Run our sampler with the recorded draws."""
    refiner = class_refiner(tensors, facts)
    method = facts.get("sampling_method", "linear")
    low, high = json.loads(facts["interval"])
    budget, steps = None, int(facts["steps"])
    if method == "complexity_aware":
        budget = {"warmup": int(facts["wp"]), "slope": float(facts["k"]), "offset": float(facts["b"])}
        budget |= {"min_steps": int(float(facts["tmin"])), "max_steps": steps, "min_temperature_factor": 0.5}
    sampler = class_sampler(
        steps, float(facts["cfg"]), low, high, float(facts["tau"]), method if method == "cosine" else "linear", budget
    )
    condition = ClassCondition(tensors["in.labels"], refiner.config["num_classes"])
    draws = class_draws(tensors["draw.rand_labels"].int(), tensors["draw.exp"], tensors["draw.uniform"])
    shape = (refiner.config["code_channels"], 1, *refiner.config["grid"])
    classes = int(facts["classes"])
    settings = sampler.settings(adaptive=budget is not None)
    records = list(sampler.refine(refiner, condition, draws, shape, classes, settings))
    recorded = tensors["step.pred_labels"]
    yield (
        "labels of every step",
        all(torch.equal(r.prediction[:, :, 0].int(), recorded[r.index][r.active].int()) for r in records),
    )
    yield "signals", max(difference(r.signal, tensors["step.t"][r.index][r.active]) for r in records)
    if "step.entropy" in tensors:
        yield "entropies", max(difference(r.entropy, tensors["step.entropy"][r.index][r.active]) for r in records)
    result = collect(records)
    if "sched.total_steps" in tensors:
        yield "step counts", result.num_steps.tolist() == tensors["sched.total_steps"].int().tolist()
    yield "final labels", torch.equal(result.codes[:, :, 0].int(), tensors["out.z"].int())
    rounds = int(facts["hbq_round"])
    hbq = HBQ(rounds, "bit" if facts["method"] == "GRN_bit" else "index")
    yield "features", difference(hbq.decode(result.codes), tensors["out.features"])


def text_refiner(tensors: Tensors, facts: Mapping[str, str], attention: str) -> Any:
    """Return the text refiner of a recording."""
    hints = Hints(attention=attention, code_classes=_classes(facts))
    return network_from_weights(weights_of(tensors), hints).build()


def _classes(facts: Mapping[str, str]) -> int:
    config = json.loads(facts["config"])
    return 2 if config["mode"] == "bit" else 2 ** int(config["hbq_round"])


def text_forward(tensors: Tensors, facts: Mapping[str, str], attention: str) -> Iterator[Row]:
    """Compare conditional and unconditional logits of a text refiner, and its bfloat16 run with the recorded one."""
    refiner = text_refiner(tensors, facts, attention)
    null = tensors.get("in.text_uncond", tensors["in.text_cond"])
    condition = TextCondition.of([tensors["in.text_cond"]], null, tensors.get("in.first_frame_labels"))
    part = "logits_" if "out.logits_cond" in tensors else ""
    has_null = f"out.{part}uncond" in tensors
    asked = condition.joined(condition.null()) if has_null else condition
    labels, signal = tensors["in.labels"], tensors["in.pt"]
    arguments = labels.repeat(len(asked), 1, 1, 1, 1), signal.repeat(len(asked)), asked
    for name, prefix, tolerated in (("logits", "out", False), ("logits in bfloat16", "outbf16", True)):
        published = [tensors[f"{prefix}.{part}{b}"] for b in ("cond", "uncond") if f"{prefix}.{part}{b}" in tensors]
        if not published:
            continue
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=tolerated):
            logits = refiner(*arguments)
        by_token = logits.permute(0, 2, 3, 4, 1, 5)
        yield name, difference(by_token, torch.cat(published).reshape(len(asked), -1, *published[0].shape[2:]))


def text_training(tensors: Tensors, facts: Mapping[str, str], attention: str) -> Iterator[Row]:
    """Compare losses and gradients of samples in one packed sequence."""
    refiner = text_refiner(tensors, facts, attention)
    config = json.loads(facts["config"])
    hbq = HBQ(int(config["hbq_round"]), "bit" if config["mode"] == "bit" else "index")
    count = sum(key.startswith("in.feat") for key in tensors)
    clean = [hbq.encode(tensors[f"in.feat{i}"])[0] for i in range(count)]
    nominal = tensors["draw.nominal_pt" if "draw.nominal_pt" in tensors else "draw.pt"]
    kept = [tensors[f"draw.uniform{i}"][0] < nominal[i] for i in range(count)]
    noisy = [torch.where(kept[i], clean[i], tensors[f"draw.random_labels{i}"][0]) for i in range(count)]
    realized = torch.stack([mask.double().mean() for mask in kept]).float()
    if "draw.signal" in tensors:
        yield "signals", difference(realized, tensors["draw.signal"])
    samples = json.loads(facts.get("samples", "[]"))
    firsts = [clean[i][:, :1] if samples and samples[i]["first_frame_condition"] else None for i in range(count)]
    seen = [x if first is None else x[:, 1:] for x, first in zip(noisy, firsts, strict=True)]
    wanted = [x if first is None else x[:, 1:] for x, first in zip(clean, firsts, strict=True)]
    lengths = json.loads(facts["lens"])
    text = tensors["in.text"].split(lengths)
    condition = TextCondition.of(text, torch.zeros(1, text[0].shape[1]), firsts)
    logits = refiner(seen, realized if attention == "joint" else nominal.float(), condition)
    losses = [
        F.cross_entropy(x.flatten(0, -2), y.flatten().long(), reduction="none").view(y.shape[0], -1).mean(0)
        for x, y in zip(logits, wanted, strict=True)
    ]
    yield "loss of every token", difference(torch.cat(losses).detach(), tensors["out.loss_tokens"])
    exponent = float(facts.get("reweight_loss_by_scale", 0))
    sizes = torch.tensor([float(len(loss)) for loss in losses]) ** exponent
    loss = (torch.stack([loss.mean() for loss in losses]) * sizes / sizes.sum()).sum()
    yield "loss", difference(loss.detach(), tensors["out.final_loss"])
    loss.backward()
    yield "gradients", _gradients(refiner, tensors, renaming_text(weights_of(tensors)))


def text_sampling(tensors: Tensors, facts: Mapping[str, str], attention: str, name: str) -> Iterator[Row]:
    """Run our sampler with the recorded draws, and decode."""
    refiner = text_refiner(tensors, facts, attention)
    cfg, tau = float(facts["cfg"]), float(facts["tau"])
    kind = facts.get("cfg_type", "cfg_interval_0.0")
    start = float(kind.removeprefix("cfg_interval_")) if kind.startswith("cfg_interval_") else 0.0
    most = int(facts["max_infer_steps"])
    adaptive = "entropy" in name
    if adaptive:
        least, alpha = int(facts.get("min_infer_steps", most)), float(facts.get("alpha", facts.get("snr_shift", 1004)))
        sampler = text_entropy_sampler(least, most, alpha, cfg, start, tau)
    else:
        shift, tmax = float(facts["snr_shift"]), int(facts["complexity_aware_Tmax"])
        sampler = published_text_sampler(attention, cfg, start, tau, shift, tmax, most)
    first = tensors.get("in.first_frame_labels")
    null = tensors.get("in.text_uncond", tensors["in.text_cond"])
    condition = refiner.prepare(TextCondition.of([tensors["in.text_cond"]], null, first))
    draws = text_draws(tensors["draw.rand_labels"].int(), tensors["draw.exp"], tensors["draw.uniform"])
    shape = tuple(tensors["draw.rand_labels"].shape[1:])
    classes = _classes(facts)
    settings = sampler.settings(adaptive=adaptive)
    records = list(sampler.refine(refiner, condition, draws, shape, classes, settings))
    published = tensors["step.sample_labels"]
    equal = [
        torch.equal(r.prediction[0].flatten(1).T.int(), published[r.index].reshape(-1, shape[0]).int()) for r in records
    ]
    yield "labels of every step", all(equal) and len(records) == len(published)
    if "step.pt_token" in tensors:  # recordings of the April sampler have none
        signals = tensors["step.pt_token"][: len(records)]
        yield "signals", difference(torch.cat([r.signal for r in records]), signals)
    if "step.entropy" in tensors:
        entropies = torch.cat([r.entropy for r in records])
        yield "entropies", difference(entropies, tensors["step.entropy"][: len(records)])
    codes = collect(records).codes
    codes = codes if first is None else torch.cat([first.int(), codes], dim=2)
    config = json.loads(facts["config"])
    hbq = HBQ(int(config["hbq_round"]), "bit" if config["mode"] == "bit" else "index")
    yield "features", difference(hbq.decode(codes), tensors["out.features"])
    vae = weights_of(tensors, "vae.")
    if vae and "out.image_bgr_u8" in tensors:
        tokenizer = network_from_weights(vae, Hints(rounds=hbq.rounds, layout=hbq.layout)).build()
        pixels = tokenizer.decode(codes)[0].movedim(0, -1).flip(-1)
        levels = ((pixels + 1) / 2).clamp(0, 1).mul(255).to(torch.uint8)  # cut, as the text programs do
        yield "bytes of the picture, cut", difference(levels, tensors["out.image_bgr_u8"])


def tokenizer(tensors: Tensors, facts: Mapping[str, str]) -> Iterator[Row]:
    """Compare latents, codes and pixels; frames beyond 1 + 4k, which the published program drops, are left out."""
    bounded = json.loads(facts["config"])["encoder_out_type"] == "feature_tanh"
    network = network_from_weights(weights_of(tensors), Hints(bounded=bounded)).build()
    for tag in sorted({key.split(".")[0] for key in tensors if key.endswith(".x")}):
        pixels = tensors[f"{tag}.x"]
        pixels = pixels[:, :, None] if pixels.ndim == 4 else pixels
        pixels = pixels[:, :, : 1 + (pixels.shape[2] - 1) // network.temporal_stride * network.temporal_stride]
        with torch.no_grad():
            latents = network.latents(pixels)
            yield f"{tag}: latents", difference(latents, tensors[f"{tag}.z"])
            quantized = network.hbq.decode(network.hbq.encode(latents))
            yield f"{tag}: quantized", torch.equal(quantized, tensors[f"{tag}.zq"])
            decoded = network.decode_latents(tensors[f"{tag}.z"])
            yield f"{tag}: pixels", difference(decoded, tensors[f"{tag}.dec_z"])
            decoded = network.decode(network.hbq.encode(latents))
            yield f"{tag}: pixels of codes", difference(decoded, tensors[f"{tag}.dec_zq"])
