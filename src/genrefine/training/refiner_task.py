"""Train a class-conditional refiner (arXiv 2604.13030, section 3.2; method section 3).

    X_t = S Y + (1 - S) N,   S ~ Bernoulli(t) per element,   t from the signal law
    loss = mean over every element of -log p(Y | X_t, t, class), the kept elements included

Y are clean codes, from a code store or encoded on the fly. Labels are dropped to the null class at a fixed rate, so
that the same network serves guidance. Accuracy and loss are logged per decile of the signal.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus
from torch.utils.data import Dataset

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.corruption import LogitNormalSignal, corrupt
from genrefine.refiner import ClassRefiner
from genrefine.tokenizer import VisualTokenizer
from genrefine.training.loop import Update


def element_losses(logits: Tensor, codes: Tensor) -> Tensor:
    """Return the cross-entropy of every element; two classes need one softplus instead of a log-softmax."""
    if logits.shape[-1] == 2:
        margin = (logits[..., 1] - logits[..., 0]) * (2 * codes - 1)
        return softplus(-margin)
    return cross_entropy(logits.flatten(0, -2), codes.flatten().long(), reduction="none").view(codes.shape)


class ClassRefinerTask:
    """Predict clean codes from noisy ones.

    Args:
        refiner: the network to train.
        dataset: items are (codes, label), or (pixels, label) when ``tokenizer`` is given.
        signal_law: training distribution of the signal.
        label_dropout: share of labels replaced by the null class.
        tokenizer: encodes pixels on the fly; None where the data set holds codes.
        make_preview: turns the averaged refiner into a sheet of samples.
        write: saves the averaged refiner; by default as ``FOLDER/refiner``.
    """

    def __init__(
        self,
        refiner: ClassRefiner,
        dataset: Dataset[Any],
        signal_law: LogitNormalSignal,
        label_dropout: float = 0.1,
        tokenizer: VisualTokenizer | None = None,
        make_preview: Callable[[ClassRefiner], Image.Image] | None = None,
        write: Callable[[ClassRefiner, Path], None] | None = None,
    ) -> None:
        self.dataset, self.signal_law, self.label_dropout = dataset, signal_law, label_dropout
        self.tokenizer, self.make_preview, self.write = tokenizer, make_preview, write
        self.networks: dict[str, nn.Module] = {"refiner": refiner}
        self.num_classes, self.code_classes = refiner.config["num_classes"], refiner.config["code_classes"]
        self.shown: tuple[str, ...] = ("loss", "accuracy")

    def updates(
        self, networks: Mapping[str, Callable[..., Any]], batch: Sequence[Tensor], generator: torch.Generator
    ) -> Iterator[Update]:
        """Yield the loss of one batch."""
        codes, labels = batch
        device = next(self.networks["refiner"].parameters()).device
        if self.tokenizer is not None:
            codes = self.tokenizer.encode(codes.to(device=device, dtype=self.tokenizer.dtype))
        codes, labels = codes.cpu(), labels.cpu()  # draws are made on the CPU, so that devices agree
        signal = self.signal_law.sample(len(codes), generator)
        corrupted = corrupt(codes, signal, self.code_classes, generator)
        dropped = torch.rand(len(codes), generator=generator) < self.label_dropout
        condition = ClassCondition(labels, self.num_classes).dropped(dropped).to(device)
        codes = codes.to(device)
        logits = networks["refiner"](corrupted.noisy.to(device), signal.to(device), condition)
        losses = element_losses(logits, codes)
        loss = losses.mean()
        with torch.no_grad():
            correct = (logits.argmax(-1) == codes).flatten(1).float().mean(1)
            scalars = {"loss": loss, "accuracy": correct.mean()}
            per_sample = losses.flatten(1).mean(1)
            decile = (signal * 10).long().clamp(max=9).to(device)
            for d in range(10):
                scalars[f"loss_decile_{d}"] = per_sample[decile == d].mean()
                scalars[f"accuracy_decile_{d}"] = correct[decile == d].mean()
        yield Update("refiner", loss, scalars)

    def compile(self, network: nn.Module) -> Callable[..., Any]:
        """Compile the whole refiner."""
        compiled: Callable[..., Any] = torch.compile(network)
        return compiled

    def preview(self, network: nn.Module) -> Image.Image | None:
        """Show samples."""
        assert isinstance(network, ClassRefiner)
        return self.make_preview(network) if self.make_preview is not None else None

    def save(self, network: nn.Module, folder: Path) -> None:
        """Write the refiner."""
        assert isinstance(network, ClassRefiner)
        if self.write is not None:
            self.write(network, folder)
        else:
            network.save_pretrained(folder / "refiner")
