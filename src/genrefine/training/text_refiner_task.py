"""Train a text-conditional refiner on stills and clips mixed (arXiv 2604.13030, section 3.2; method sections 3 and 5).

    X_t = S Y + (1 - S) N,   S ~ Bernoulli(t) per element,   t from the signal law
    l_s = mean over the predicted elements of sample s of -log p(Y | X_t, t, prompt, first frame)
    loss of a batch of kind k = W_k mean_s (n_s / n_k)^a l_s,     W_k = B_k n_k^a / sum_j share_j B_j n_j^a

n_s are the visual tokens that sample s predicts, n_k those of a whole sample of the kind, B_k its batch size. So every
sample has the weight n_s^a (a = 0.5 published) whatever batch it comes in, and the mean weight of a batch is 1. A share
of the clips shows its first frame to the network (image-to-video): those codes are clean, and no loss is on them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from genrefine.conditioning.text_condition import TextCondition
from genrefine.corruption import LogitNormalSignal, corrupt
from genrefine.data.text_store import TextStore
from genrefine.errors import GenrefineError
from genrefine.refiner import TextRefiner
from genrefine.training.loop import Update
from genrefine.training.mixture import Kind, Mixture
from genrefine.training.order import Groups, name_of
from genrefine.training.refiner_task import element_losses


@dataclass(frozen=True)
class TextSamples:
    """Codes of one shape with their captions.

    Args:
        name: what they are called in the log, "stills" or "clips".
        codes: items are (codes, anything).
        captions: rows of the text store for each item, at least one, the most telling one first.
        batch_size: samples of a micro-batch over all processes.
        share: share of the batches, relative to the other kinds.
        groups: of the items, see `genrefine.training.order`; None where every item counts by itself.
    """

    name: str
    codes: Dataset[Any]
    captions: Sequence[Sequence[int]]
    batch_size: int
    share: float = 1.0
    groups: Groups | None = None


class TextRefinerTask:
    """Predict clean codes from noisy ones and a caption.

    Args:
        refiner: the network to train.
        samples: one or more kinds.
        texts: embeddings of all captions; row 0 is the null condition.
        signal_law: training distribution of the signal.
        caption_dropout: share of captions replaced by the null condition.
        first_caption_share: share of draws that take the first of several captions; the others share the rest.
        first_frame_share: share of clips whose first frame is given.
        token_exponent: a above.
        signal: what the network is told: "nominal", t itself; or "realized", the share of the codes that were kept, of
            all frames, also of a first frame that is then given.
        batching: how the refiner lays out a batch, "packed" or "padded".
        make_preview: turns the averaged refiner into a sheet of samples.
        write: saves the averaged refiner; by default as ``FOLDER/refiner``.

    Raises:
        GenrefineError: captions and codes do not fit, or a share is out of range.
    """

    def __init__(
        self,
        refiner: TextRefiner,
        samples: Sequence[TextSamples],
        texts: TextStore,
        signal_law: LogitNormalSignal,
        caption_dropout: float = 0.1,
        first_caption_share: float = 0.5,
        first_frame_share: float = 0.0,
        token_exponent: float = 0.5,
        signal: str = "nominal",
        batching: str = "packed",
        make_preview: Callable[[TextRefiner], Image.Image] | None = None,
        write: Callable[[TextRefiner, Path], None] | None = None,
    ) -> None:
        shares = {
            "caption_dropout": caption_dropout,
            "first_caption_share": first_caption_share,
            "first_frame_share": first_frame_share,
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise GenrefineError(f"loss.{name} must lie in 0 .. 1; got {share}")
        for kind in samples:
            if len(kind.captions) != len(kind.codes) or not all(kind.captions):  # type: ignore[arg-type]
                raise GenrefineError(
                    f"every one of the {len(kind.codes)} {kind.name} needs a caption; "  # type: ignore[arg-type]
                    f"got captions for {sum(map(bool, kind.captions))}; set the caption column"
                )
        if signal not in ("nominal", "realized"):
            raise GenrefineError(f"loss.signal must be 'nominal' or 'realized'; got {signal!r}; choose one of the two")
        if first_frame_share and refiner.config["attention"] == "prefix":
            raise GenrefineError("prefix attention takes no first frame; set loss.first_frame_share=0 or use joint")
        self.texts, self.signal_law, self.signal = texts, signal_law, signal
        self.caption_dropout, self.first_caption_share = caption_dropout, first_caption_share
        self.first_frame_share, self.token_exponent, self.batching = first_frame_share, token_exponent, batching
        self.make_preview, self.write = make_preview, write
        self.networks: dict[str, nn.Module] = {"refiner": refiner}
        self.code_classes = refiner.config["code_classes"]
        self.shown: tuple[str, ...] = ("loss", "accuracy")
        kinds = [Kind(s.name, len(s.captions), s.batch_size, s.share, s.groups) for s in samples]
        starts = [sum(kind.num_items for kind in kinds[:place]) for place in range(len(kinds))]
        self.dataset = Mixture([_Numbered(s.codes, start) for s, start in zip(samples, starts, strict=True)], kinds)
        self.captions = [rows for s in samples for rows in s.captions]
        self._tokens = [s.codes[0][0][0].numel() for s in samples]
        weight = [s.batch_size * n**token_exponent for s, n in zip(samples, self._tokens, strict=True)]
        total = sum(s.share for s in samples)
        mean = sum(s.share / total * w for s, w in zip(samples, weight, strict=True))
        self._weights = [w / mean for w in weight]

    def updates(
        self, networks: Mapping[str, Callable[..., Any]], batch: Sequence[Tensor], generator: torch.Generator
    ) -> Iterator[Update]:
        """Yield the loss of one batch."""
        codes, numbers = (part.cpu() for part in batch)  # draws are made on the CPU, so that devices agree
        kind = self.dataset.kind_of(int(numbers[0]))
        count = len(codes)
        signal = self.signal_law.sample(count, generator)
        corrupted = corrupt(codes, signal, self.code_classes, generator)
        noisy, told = corrupted.noisy, signal
        if self.signal == "realized":
            told = corrupted.kept.flatten(1).double().mean(dim=1).float()
        given = (torch.rand(count, generator=generator) < self.first_frame_share) & (codes.shape[2] > 1)
        condition = self.condition(numbers, codes, given, generator)
        device = next(self.networks["refiner"].parameters()).device
        codes, noisy = codes.to(device), noisy.to(device)
        firsts = given.tolist()
        seen: Any = [x[:, 1:] if first else x for x, first in zip(noisy, firsts, strict=True)] if any(firsts) else noisy
        logits = networks["refiner"](seen, told.to(device), condition.to(device), batching=self.batching)
        losses, correct = [], []
        for rows, own, first in zip(logits, codes, firsts, strict=True):
            wanted = own[:, 1:] if first else own
            losses.append(element_losses(rows, wanted).mean())
            correct.append((rows.detach().argmax(-1) == wanted).float().mean())
        per_sample, accuracy = torch.stack(losses), torch.stack(correct)
        tokens = torch.tensor([codes[0, 0, int(first) :].numel() for first in firsts], device=device)
        relative = (tokens / self._tokens[kind]) ** self.token_exponent
        loss = self._weights[kind] * (relative * per_sample).mean()
        yield Update("refiner", loss, self._scalars(kind, per_sample.detach(), accuracy, signal, given))

    def condition(
        self,
        numbers: Int[Tensor, "batch"],
        codes: Int[Tensor, "batch c t h w"],
        given: Tensor,
        generator: torch.Generator,
    ) -> TextCondition:
        """Draw a caption for every item, drop some, and give the first frames under the mask."""
        dropped = torch.rand(len(numbers), generator=generator) < self.caption_dropout
        draws = torch.rand(len(numbers), 2, generator=generator).tolist()
        rows = [self._draw(self.captions[n], draw) for n, draw in zip(numbers.tolist(), draws, strict=True)]
        tokens = {row: self.texts[row] for row in {0, *rows}}
        frames = [x[:, :1] if first else None for x, first in zip(codes, given.tolist(), strict=True)]
        return TextCondition.of([tokens[row] for row in rows], tokens[0], frames).dropped(dropped)

    def _draw(self, rows: Sequence[int], draw: Sequence[float]) -> int:
        """Return the first caption in its share of the cases, else one of the others."""
        if len(rows) == 1 or draw[0] < self.first_caption_share:
            return rows[0]
        return rows[1 + int(draw[1] * (len(rows) - 1))]

    def _scalars(
        self, kind: int, losses: Float[Tensor, "batch"], accuracy: Tensor, signal: Tensor, given: Tensor
    ) -> dict[str, Tensor | float]:
        name = self.dataset.kinds[kind].name
        scalars: dict[str, Tensor | float] = {"loss": losses.mean(), "accuracy": accuracy.mean()}
        if len(self.dataset.kinds) > 1:
            scalars |= {f"loss_{name}": losses.mean(), f"accuracy_{name}": accuracy.mean()}
        if self.first_frame_share:
            scalars["loss_first_frame"] = losses[given.to(losses.device)].mean()
        decile = (signal * 10).long().clamp(max=9).to(losses.device)
        for d in range(10):
            scalars[f"loss_decile_{d}"] = losses[decile == d].mean()
            scalars[f"accuracy_decile_{d}"] = accuracy[decile == d].mean()
        return scalars

    def compile(self, network: nn.Module) -> Callable[..., Any]:
        """Compile the blocks, one graph for all of them and for any number of tokens.

        In the packed layout attention is one call under a mask there: its groups differ from batch to batch with the
        captions' lengths, and would be a graph each.
        """
        refiner = self.networks["refiner"]
        assert isinstance(refiner, TextRefiner)
        refiner.compile_repeated_blocks(dynamic=True)
        return network

    def preview(self, network: nn.Module) -> Image.Image | None:
        """Show samples, uncompiled: a refinement has batches of many sizes."""
        assert isinstance(network, TextRefiner)
        if self.make_preview is None:
            return None
        with torch.compiler.set_stance("force_eager"):
            return self.make_preview(network)

    def save(self, network: nn.Module, folder: Path) -> None:
        """Write the refiner."""
        assert isinstance(network, TextRefiner)
        if self.write is not None:
            self.write(network, folder)
        else:
            network.save_pretrained(folder / "refiner")


class _Numbered(Dataset[tuple[Tensor, int]]):
    """Give codes with their number in the mixture, which leads to their captions."""

    def __init__(self, codes: Dataset[Any], start: int) -> None:
        self.codes, self.start = codes, start

    def name_of(self, index: int) -> str:
        """Return the name of an item."""
        return name_of(self.codes, index)

    def __len__(self) -> int:
        return len(self.codes)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.codes[index][0], self.start + index
