"""Pictures and clips with class names and captions, and their codes: what refiners and tokenizers are trained on."""

from genrefine.data.clips import ClipSource
from genrefine.data.code_store import CodeStore
from genrefine.data.images import ImageSource, PixelsOnly

__all__ = ["ClipSource", "CodeStore", "ImageSource", "PixelsOnly"]
