"""What the page may be asked for, so that no request takes the machine."""

from dataclasses import dataclass, field, fields
from typing import Any

from genrefine.errors import GenrefineError


def _limit(default: int, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Limits:
    """Most of everything; the help of each is its field's `metadata["help"]`."""

    steps: int = _limit(100, "refinements of a sample")
    images: int = _limit(8, "samples of a request")
    frames: int = _limit(33, "frames of a clip")
    side: int = _limit(1024, "pixels of a side that the model works at, and that outpainting may reach")
    upload_megabytes: int = _limit(10, "megabytes of a file that is dropped")
    queue: int = _limit(16, "requests that wait")
    prompt_characters: int = _limit(1000, "characters of a prompt")

    def __post_init__(self) -> None:
        for part in fields(self):
            if getattr(self, part.name) < 1:
                name = part.name.replace("_", "-")
                raise GenrefineError(f"--max-{name} must be at least 1; got {getattr(self, part.name)}")

    def require(self, name: str, value: int) -> None:
        """Refuse more than the limit of this name.

        Raises:
            GenrefineError: says which limit it is and who can raise it.
        """
        most: int = getattr(self, name)
        if value > most:
            meaning = next(part.metadata["help"] for part in fields(self) if part.name == name)
            raise GenrefineError(
                f"this page makes at most {most} {meaning.split(' that ')[0]}; got {value}; ask for less, or start the "
                f"studio with --max-{name.replace('_', '-')}"
            )
