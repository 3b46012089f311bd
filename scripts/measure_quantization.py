"""Quantized refiners beside plain ones: memory, seconds, difference of logits and of pictures, saved and loaded again.

    pip install torchao optimum-quanto
    python scripts/measure_quantization.py --model emoji

Prints one row for every way. Seconds are those of one evaluation of a batch, the median of some; all in one run.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

import genrefine
from genrefine.media.pixels import from_pil
from genrefine.pipelines import ClassPipeline


def ways() -> dict[str, Any]:
    """Return the configurations that are installed, by name; None is none."""
    found: dict[str, Any] = {"float32": None}
    try:
        from diffusers import TorchAoConfig
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig

        found["torchao int8 weights"] = TorchAoConfig(Int8WeightOnlyConfig())
        found["torchao int8 weights and activations"] = TorchAoConfig(Int8DynamicActivationInt8WeightConfig())
    except ImportError:
        print("torchao is not installed")
    try:
        import optimum.quanto  # noqa: F401
        from diffusers import QuantoConfig

        found["quanto int8 weights"] = QuantoConfig("int8")
    except ImportError:
        print("optimum-quanto is not installed")
    return found


def size_of(network: nn.Module) -> int:
    """Return the bytes that weights and buffers take, whatever they are made of."""

    def count(tensor: Any) -> int:
        if hasattr(tensor, "__tensor_flatten__"):
            return sum(count(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
        return int(tensor.numel() * tensor.element_size())

    return sum(count(tensor) for tensor in (*network.parameters(), *network.buffers()))


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji", help="name or folder (default: %(default)s)")
    parser.add_argument("--count", type=int, default=8, help="pictures to compare (default: %(default)s)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    plain = genrefine.load(options.model)
    plain.set_progress_bar_config(disable=True)
    is_class = isinstance(plain, ClassPipeline)
    whats = plain.class_names[:: len(plain.class_names) // options.count] if is_class else ["a red heart", "a dog"]
    whats = (list(whats) * options.count)[: options.count]
    request = plain.prepare(whats, seed=list(range(options.count)), num_inference_steps=12)
    condition = plain._condition(request)
    config = plain.refiner.config
    draw = torch.Generator().manual_seed(0)
    shape = (options.count, config.code_channels, *request.grid)
    codes = torch.randint(config.code_classes, shape, generator=draw)
    signal = torch.linspace(0, 0.9, options.count)
    expected, made = plain.refiner(codes, signal, condition), plain.run(request)
    with tempfile.TemporaryDirectory() as folder:
        plain.refiner.save_pretrained(Path(folder) / "plain")
        print("| way | MB | seconds | logits apart, most | mean | equal codes | PSNR of pictures | loaded again |")
        print("|---|---|---|---|---|---|---|---|")
        for number, (name, quantization) in enumerate(ways().items()):
            given = {} if quantization is None else {"quantization_config": quantization}
            refiner = type(plain.refiner).from_pretrained(Path(folder) / "plain", torch_dtype=torch.float32, **given)
            logits = refiner(codes, signal, condition)
            seconds = []
            for _ in range(5):
                start = time.process_time()
                refiner(codes, signal, condition)
                seconds.append(time.process_time() - start)
            plain.refiner = refiner
            out = plain.run(request)
            refiner.save_pretrained(Path(folder) / str(number))
            again = type(refiner).from_pretrained(Path(folder) / str(number), torch_dtype=torch.float32)
            same = torch.equal(again(codes, signal, condition), logits)
            error = (from_pil_all(out.images) - from_pil_all(made.images)).square().mean(dim=(1, 2, 3))
            decibels = [20 * torch.log10(2 / e.sqrt()).item() if e > 0 else float("inf") for e in error]
            apart = (logits - expected).abs()
            print(
                f"| {name} | {size_of(refiner) / 1e6:.1f} | {statistics.median(seconds):.3f} | {apart.max():.3f} | "
                f"{apart.mean():.4f} | {(out.codes == made.codes).float().mean():.4f} | "
                f"{statistics.median(decibels):.1f} | {'equal' if same else 'DIFFERS'} |"
            )


def from_pil_all(images: list[Any]) -> torch.Tensor:
    """Return pictures as one tensor in [-1, 1]."""
    return torch.cat([from_pil(image)[:, :, 0] for image in images])


if __name__ == "__main__":
    main()
