"""Published checkpoints -> our directories: the only place that knows foreign names and containers."""

from genrefine.convert.conversion import Conversion, convert
from genrefine.convert.networks import Hints, Network, network_from_weights
from genrefine.convert.published import class_sampler, text_entropy_sampler, text_sampler
from genrefine.convert.recordings import class_draws, text_draws

__all__ = [
    "Conversion",
    "Hints",
    "Network",
    "class_draws",
    "class_sampler",
    "convert",
    "network_from_weights",
    "text_draws",
    "text_entropy_sampler",
    "text_sampler",
]
