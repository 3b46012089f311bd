"""The averaged weights of a run: lent to the network for results and previews, kept beside each training state.

They are stored as safetensors, in the order of the network's weights, and never as a pickle: a run folder that came
from somebody else must not be able to run code. States of version 0.1.0 hold a pickle; it is read by torch's restricted
reader, which takes tensors and numbers and nothing else.
"""

import json
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

AVERAGES = "averages.safetensors"
_PICKLE = "custom_checkpoint_0.pkl"


class AveragedWeights:
    """Lend the averaged weights to the network while a block runs."""

    def __init__(self, ema: EMAModel, network: nn.Module, kept: list[nn.Parameter]) -> None:
        self.ema, self.network, self.kept = ema, network, kept

    def __enter__(self) -> None:
        self.ema.store(self.kept)
        self.ema.copy_to(self.kept)
        self.network.eval()

    def __exit__(self, *_: object) -> None:
        self.ema.restore(self.kept)
        self.network.train()


def save_averages(ema: EMAModel, folder: Path) -> None:
    """Write the averages and the numbers that decide their next step."""
    state = ema.state_dict()
    weights = state.pop("shadow_params")
    tensors = {f"{number:05d}": weight.detach().cpu().contiguous() for number, weight in enumerate(weights)}
    save_file(tensors, folder / AVERAGES, {"state": json.dumps(state)})


def load_averages(ema: EMAModel, folder: Path) -> None:
    """Read what `save_averages` wrote.

    Raises:
        KeyError, ValueError: the averages are not those of this network.
    """
    device = ema.shadow_params[0].device if ema.shadow_params else None
    shapes = [weight.shape for weight in ema.shadow_params]
    with safe_open(folder / AVERAGES, "pt") as stored:
        state = json.loads((stored.metadata() or {})["state"])
        state["shadow_params"] = [stored.get_tensor(name) for name in sorted(stored.keys())]
    found = [weight.shape for weight in state["shadow_params"]]
    if found != shapes:
        raise ValueError("averaged weights of another network")
    ema.load_state_dict(state)
    if device is not None:
        ema.to(device)


def forget_pickle(folder: Path) -> None:
    """Turn the averages of a state of version 0.1.0 into what is written today, so that nobody unpickles them."""
    path = folder / _PICKLE
    if path.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
        ema = EMAModel([nn.Parameter(weight) for weight in state["shadow_params"]])
        ema.load_state_dict(state)
        save_averages(ema, folder)
        path.unlink()
