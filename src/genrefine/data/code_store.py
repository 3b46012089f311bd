"""Pictures and clips encoded once: bit-packed codes in a folder, memory-mapped and shared by all workers.

An item of ``n`` codes of ``b`` bits takes ``ceil(n b / 8)`` bytes (`genrefine.hbq.pack_bits`): with 64 bits a position
1/24 of the RGB bytes at stride 8 and 1/96 at stride 16. With flips, item ``2 i`` is picture ``i`` and item ``2 i + 1``
its mirror image, which is encoded and not a mirrored map of codes: the tokenizer is not symmetric. `store_files`
describes the files.
"""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from genrefine.data.record import DataRecord
from genrefine.data.source import Source
from genrefine.data.store_files import DATA, StoreIndex, check_hashes, check_sizes, new_store, read_index
from genrefine.errors import GenrefineError
from genrefine.hbq import HBQ, Layout, pack_bits, unpack_bits

HASHED_ON_OPEN = 256_000_000  # bytes; a larger store is checked by size on opening and wholly by `verify`


@runtime_checkable
class PixelEncoder(Protocol):
    """What a store needs of a visual tokenizer."""

    hbq: HBQ

    @property
    def device(self) -> torch.device:
        """Where pixels must be."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What pixels must be."""
        ...

    def encode(self, pixels: Float[Tensor, "batch 3 frames height width"]) -> Int[Tensor, "batch channels t h w"]:
        """Turn pixels into codes."""
        ...

    def fingerprint(self) -> str:
        """Name everything that decides the codes of a picture."""
        ...


class CodeStore(Dataset[tuple[Tensor, int]]):
    """Give `(codes, label)` at random: codes int32 ``channels t h w``, label a class number.

    `create` makes a store, `open` opens one. A store can be pickled: workers map the same files anew.
    """

    def __init__(self, path: Path, index: StoreIndex) -> None:
        self.path, self.index = path, index
        self._bits_per_code = HBQ(index.rounds, index.layout).bits_per_code
        self._labels = np.fromfile(path / "labels.bin", dtype="<i4").astype(np.int64)
        self._shards: list[NDArray[np.uint8]] | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        tokenizer: PixelEncoder,
        source: Source,
        *,
        flips: bool = True,
        batch_size: int = 64,
        num_workers: int = 0,
        shard_bytes: int = 256_000_000,
        progress: Callable[[int, int], None] | None = None,
    ) -> "CodeStore":
        """Encode every picture or clip of a source and return the opened store.

        Memory is that of one batch; `names` of the store are those of the source, in the same order, and so match its
        captions and columns.

        Args:
            path: folder to make; one that holds anything is refused.
            source: pictures or clips of one size.
            flips: store each picture's mirror image too.
            batch_size: pictures or clips encoded at a time.
            num_workers: processes that decode pictures; 0 decodes here.
            shard_bytes: aimed size of a file of codes.
            progress: called with (pictures done, pictures in all) after each batch.

        Raises:
            GenrefineError: a picture cannot be read or has another size, or the folder cannot be written.
        """
        if min(batch_size, shard_bytes) < 1:
            raise GenrefineError(f"batch_size and shard_bytes must be at least 1; got {batch_size} and {shard_bytes}")
        loader = DataLoader(
            source,
            batch_size,
            num_workers=num_workers,
            collate_fn=_stack,
            generator=torch.Generator(),  # or the loader would draw from torch's global one
        )
        code_shape: tuple[int, ...] | None = None
        done = 0
        with new_store(Path(path), shard_bytes) as writer:
            for pixels in loader:
                views = [pixels, pixels.flip(-1)] if flips else [pixels]
                encoded = [tokenizer.encode(view.to(tokenizer.device, tokenizer.dtype)).cpu() for view in views]
                codes = torch.stack(encoded, dim=1).flatten(0, 1)
                code_shape = code_shape or tuple(codes.shape[1:])
                if code_shape != codes.shape[1:]:
                    raise _mixed_sizes()
                writer.add(pack_bits(codes, tokenizer.hbq.bits_per_code).numpy())
                done += len(pixels)
                if progress is not None:
                    progress(done, len(source))
            assert code_shape is not None  # a source is never empty
            channels, t, h, w = code_shape
            writer.finish(
                source.labels,
                source.names,
                tokenizer_fingerprint=tokenizer.fingerprint(),
                rounds=tokenizer.hbq.rounds,
                layout=tokenizer.hbq.layout,
                code_shape=(channels, t, h, w),
                views=2 if flips else 1,
                class_names=source.class_names,
                data=DataRecord.of(source).without_stamps().to_json(),
            )
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path, tokenizer_fingerprint: str | None = None) -> "CodeStore":
        """Open a store and check it: sizes always, every byte where it has less than 256 MB.

        Args:
            path: folder of the store.
            tokenizer_fingerprint: refuse codes of another tokenizer (`VisualTokenizer.fingerprint()`).

        Raises:
            GenrefineError: no store, a truncated or altered one, or one of another tokenizer.
        """
        folder = Path(path)
        index = read_index(folder)
        if tokenizer_fingerprint not in (None, index.tokenizer_fingerprint):
            raise GenrefineError(
                f"code store '{folder}' was made by tokenizer {index.tokenizer_fingerprint[:12]}; got tokenizer "
                f"{str(tokenizer_fingerprint)[:12]}; use that tokenizer or encode the pictures again"
            )
        check_sizes(folder, index)
        if sum(file.num_bytes for file in index.files) < HASHED_ON_OPEN:
            check_hashes(folder, index)
        return cls(folder, index)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every byte and refuse a store that was altered.

        Args:
            progress: called with (bytes read, bytes in all).

        Raises:
            GenrefineError: a file is missing, truncated or altered.
        """
        check_sizes(self.path, self.index)
        check_hashes(self.path, self.index, progress)

    @property
    def tokenizer_fingerprint(self) -> str:
        """Names the tokenizer that made the codes."""
        return self.index.tokenizer_fingerprint

    @property
    def rounds(self) -> int:
        """HBQ rounds M of the codes."""
        return self.index.rounds

    @property
    def layout(self) -> Layout:
        """HBQ layout of the codes."""
        return self.index.layout

    @property
    def bits_per_code(self) -> int:
        """Bits that one code label takes."""
        return self._bits_per_code

    @property
    def code_shape(self) -> tuple[int, int, int, int]:
        """Channels, t, h, w of one item."""
        return self.index.code_shape

    @property
    def bytes_per_item(self) -> int:
        """Bytes that one item takes on disk."""
        return self.index.bytes_per_item

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""
        return self.index.class_names

    @property
    def labels(self) -> Int64[Tensor, " items"]:
        """Class number of every item."""
        return torch.from_numpy(self._labels.repeat(self.index.views))

    @cached_property
    def names(self) -> list[str]:
        """Name of every picture; item ``i`` shows picture ``i // views``."""
        names: list[str] = json.loads((self.path / "names.json").read_bytes())
        return names

    def name_of(self, index: int) -> str:
        """Return the name of the picture that an item shows."""
        return self.names[index // self.index.views]

    @cached_property
    def data(self) -> DataRecord | None:
        """What the codes were made of; None for a store of version 0.1.0."""
        path = self.path / DATA
        return DataRecord.from_json(path.read_bytes()) if path.is_file() else None

    @property
    def views(self) -> int:
        """Items per picture: 1, or 2 with mirror images."""
        return self.index.views

    def __len__(self) -> int:
        return self.index.num_pictures * self.index.views

    def __getitem__(self, index: int) -> tuple[Int[Tensor, "channels t h w"], int]:
        """Return the codes and the class number of one item."""
        codes, labels = self.batch([index])
        return codes[0], int(labels[0])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return many items at once; torch's `DataLoader` calls it in place of `__getitem__`."""
        codes, labels = self.batch(indices)
        return list(zip(codes, labels.tolist(), strict=True))

    def batch(
        self, indices: Sequence[int] | Int[Tensor, " batch"]
    ) -> tuple[Int[Tensor, "batch channels t h w"], Int64[Tensor, " batch"]]:
        """Return the codes and class numbers of many items, unpacked in one go.

        Raises:
            IndexError: an index lies outside the store.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        chosen = np.where(chosen < 0, chosen + len(self), chosen)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise IndexError(f"indices must lie in -{len(self)}..{len(self) - 1}; got {list(indices)}")
        packed = np.empty((len(chosen), self.bytes_per_item), dtype=np.uint8)
        number, row = np.divmod(chosen, self.index.shard_items)
        for shard in np.unique(number):
            packed[number == shard] = self._maps()[shard][row[number == shard]]
        codes = unpack_bits(torch.from_numpy(packed), self.code_shape, self.bits_per_code)
        return codes, torch.from_numpy(self._labels[chosen // self.index.views])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": None}

    def _maps(self) -> list[NDArray[np.uint8]]:
        if self._shards is None:
            files = [self.path / file.name for file in self.index.files if file.name.startswith("codes-")]
            self._shards = [np.memmap(f, np.uint8, mode="r").reshape(-1, self.bytes_per_item) for f in files]
        return self._shards


def _stack(items: Sequence[tuple[Tensor, int]]) -> Tensor:
    if len({pixels.shape for pixels, _ in items}) > 1:
        raise _mixed_sizes()
    return torch.stack([pixels for pixels, _ in items])


def _mixed_sizes() -> GenrefineError:
    return GenrefineError("pictures of a code store must have one size; they differ; open the source with size=")
