"""One training loop for every network, over accelerate: devices, precision and processes are its business.

A `Task` says what is trained and yields losses; `train` does the rest: optimizers, averaged weights, progress, scalars,
previews, checkpoints, resume. An interrupted run (Ctrl-C, SIGTERM, a killed process) continues from its newest
checkpoint and gives the weights of a run that was never interrupted: item order and random draws depend on the seed and
the update's number only.
"""

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, set_seed
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from genrefine.errors import GenrefineError
from genrefine.files import one_line, write_atomically
from genrefine.training.arithmetic import arithmetic_of
from genrefine.training.averages import AveragedWeights
from genrefine.training.checkpoint import (
    claim,
    forget_metrics_after,
    keep_adapters_only,
    kept_weights,
    load_newest,
    newest_checkpoint,
    publish,
    recorded_setting,
    save,
)
from genrefine.training.interrupt import Interrupt, leave_signals_to_parent
from genrefine.training.mixture import Mixture, MixtureBatches
from genrefine.training.optimizers import optimizer_for
from genrefine.training.order import EndlessBatches, Grouped, name_of, step_seed
from genrefine.training.settings import TrainingSettings

MOST_NAMED = 8
"""Items of a batch that a message names."""


class Update:
    """One loss, the name of the network whose weights it moves, and what to log."""

    def __init__(self, network: str, loss: Tensor, scalars: Mapping[str, Tensor | float]) -> None:
        self.network, self.loss, self.scalars = network, loss, scalars


@runtime_checkable
class Task(Protocol):
    """What is trained. The first network is the result: it is averaged, previewed and saved."""

    networks: dict[str, nn.Module]
    shown: tuple[str, ...]  # scalars that the progress bar shows

    @property
    def dataset(self) -> Dataset[Any]:
        """What batches are made of."""
        ...

    def updates(
        self, networks: Mapping[str, Callable[..., Any]], batch: Any, generator: torch.Generator
    ) -> Iterator[Update]:
        """Yield the losses of one micro-batch, one at a time; each is stepped before the next is asked for."""
        ...

    def compile(self, network: nn.Module) -> Callable[..., Any]:
        """Return the first network compiled for updates; previews call the network itself."""
        ...

    def preview(self, network: nn.Module) -> Image.Image | None:
        """Return a picture of what the averaged network does now."""
        ...

    def save(self, network: nn.Module, folder: Path) -> None:
        """Write the averaged network so that users can load it."""
        ...


def train(task: Task, settings: TrainingSettings, out: Path, description: Mapping[str, Any] | None = None) -> int:
    """Train, or continue the run in ``out``, and return the number of updates the run has made.

    Args:
        description: everything that identifies the run; a folder that holds another run, or in which another process
            trains, is refused.

    Writes ``run.json``, ``metrics.jsonl``, ``previews/``, ``checkpoints/``, TensorBoard scalars under ``logs/`` and the
    averaged network as `Task.save` writes it.
    """
    with ExitStack() as held:
        if not AcceleratorState._shared_state:  # else the next run of this process could have no other precision
            held.callback(AcceleratorState._reset_state)
        try:
            return _train(task, settings, out, description or {}, held)
        except RuntimeError as error:  # torch tells at any moment that a process has died, in an update too
            if "DataLoader worker" not in str(error):
                raise
            raise GenrefineError(
                f"a process that loads data died ({one_line(error)}), of too little memory perhaps; {_newest_of(out)}; "
                "run again to continue, with fewer training.num_workers"
            ) from error


def _train(task: Task, settings: TrainingSettings, out: Path, description: Mapping[str, Any], held: ExitStack) -> int:
    settings = replace(settings, mixed_precision=_precision(settings, out))
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation,
        log_with=_trackers(),
        project_dir=str(out),
    )
    run: dict[str, Any] = {**description, "training": asdict(settings)}
    if accelerator.is_main_process:
        held.callback(claim(out, run).release)
    accelerator.wait_for_everyone()
    set_seed(settings.seed)
    main = next(iter(task.networks))
    if settings.gradient_checkpointing:
        task.networks[main].enable_gradient_checkpointing()  # type: ignore[operator]
    networks = {name: accelerator.prepare(network) for name, network in task.networks.items()}
    stepped: dict[str, Any] = dict(networks)
    if settings.compile:
        stepped[main] = task.compile(networks[main])
    optimizers = {name: accelerator.prepare(optimizer_for(network, settings)) for name, network in networks.items()}
    kept = kept_weights(task.networks[main])
    ema = EMAModel(kept, decay=settings.ema_decay, foreach=True)
    ema.to(accelerator.device)
    keep_adapters_only(accelerator)
    done = load_newest(accelerator, out, ema)
    if accelerator.is_main_process:
        forget_metrics_after(out, done)
    if done:
        accelerator.print(f"continuing {out} after {done} of {settings.num_steps} updates")
    micro_batch = settings.batch_size // settings.gradient_accumulation
    if len(task.dataset) < 1:  # type: ignore[arg-type]
        raise GenrefineError("the data set is empty; give a folder or data set with at least one picture")
    place = (done * settings.gradient_accumulation, accelerator.process_index, accelerator.num_processes)
    order: EndlessBatches | MixtureBatches
    if isinstance(task.dataset, Mixture):
        order = MixtureBatches(task.dataset.kinds, settings.seed, *place)
    else:
        items = task.dataset.groups if isinstance(task.dataset, Grouped) else len(task.dataset)  # type: ignore[arg-type]
        order = EndlessBatches(items, micro_batch, settings.seed, *place)
    loader = DataLoader(
        task.dataset,
        batch_sampler=order,  # type: ignore[arg-type]
        num_workers=settings.num_workers,
        worker_init_fn=leave_signals_to_parent,
    )
    indices = iter(order)  # again, beside the loader: which items an update is made of
    batches = iter(loader)
    if accelerator.log_with:
        accelerator.init_trackers("logs", init_kwargs={"tensorboard": {"purge_step": done + 1}})
    log = _Log(out, accelerator, settings, done, task.shown)
    averaged = AveragedWeights(ema, task.networks[main], kept)

    def keep(step: int) -> None:
        _require_finite_weights(task.networks, step, out)
        # The result first: a run that ends between the two makes it again, as its checkpoint is older.
        if accelerator.is_main_process:
            with averaged:
                publish(partial(task.save, accelerator.unwrap_model(networks[main])), out)
        save(accelerator, out, step, settings.keep_checkpoints, ema)

    with Interrupt() as interrupt, log:
        step = done
        while step < settings.num_steps:
            for optimizer in optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * settings.rate(step)
            for part in range(settings.gradient_accumulation):
                number = (step * settings.gradient_accumulation + part) * accelerator.num_processes
                seed = step_seed(settings.seed, number + accelerator.process_index, purpose=2)
                try:
                    batch, members = next(batches), next(indices)
                except (GenrefineError, RuntimeError, OSError) as error:
                    if accelerator.num_processes == 1 and step > done and step % settings.save_every:
                        keep(step)  # several processes would wait for each other: they go back to the newest state
                    raise _no_batch(error, step, out) from error
                log.items += len(batch if isinstance(batch, Tensor) else batch[0]) * accelerator.num_processes
                with accelerator.accumulate(*networks.values()):
                    for update in task.updates(stepped, batch, torch.Generator().manual_seed(seed)):
                        if not bool(torch.isfinite(update.loss)):
                            raise _no_number(update, step, out, [name_of(task.dataset, index) for index in members])
                        accelerator.backward(update.loss)
                        network, optimizer = networks[update.network], optimizers[update.network]
                        if settings.clip_norm and accelerator.sync_gradients:
                            accelerator.clip_grad_norm_(network.parameters(), settings.clip_norm)
                        optimizer.step()
                        optimizer.zero_grad()
                        log.add(update.scalars)
            ema.step(kept)
            step += 1
            log.advance(step)
            last = step == settings.num_steps or interrupt.requested
            if step % settings.save_every == 0 or last:
                keep(step)
            # Drawing may take minutes, which nobody who interrupts wants to wait for.
            is_shown = step % settings.preview_every == 0 or step == settings.num_steps
            if accelerator.is_main_process and is_shown and not interrupt.requested:
                with averaged, accelerator.autocast():
                    log.picture(task.preview(accelerator.unwrap_model(networks[main])), step)
            if interrupt.requested:
                accelerator.print(f"stopped after {step} of {settings.num_steps} updates; run again to continue")
                break
    # Not `end_training`: it takes the processes apart, and the next run of a program would have none to talk to.
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.wait_for_everyone()
    return step


def _precision(settings: TrainingSettings, out: Path) -> Any:
    """Return accelerate's name of the precision, the same in all processes; say what was measured."""
    state = PartialState()
    if settings.mixed_precision != "auto":
        return settings.mixed_precision
    chosen = [recorded_setting(out, "mixed_precision")]
    if chosen[0] is None:
        arithmetic = arithmetic_of(state.device)
        state.print(f"training in {arithmetic}; training.mixed_precision=no or bf16 decides otherwise")
        chosen = [arithmetic.autocast]
    return broadcast_object_list(chosen)[0]


def _no_number(update: Update, step: int, out: Path, names: Sequence[str]) -> GenrefineError:
    """Say which loss is no number, before it reaches the weights, and what it was made of."""
    shown = ", ".join([*names[:MOST_NAMED], *(["..."] if len(names) > MOST_NAMED else [])])
    return GenrefineError(
        f"the loss of the {update.network} must be a number; got {update.loss.item()} in update {step + 1} of {shown}, "
        f"which was not made; {_newest_of(out)}; lower training.learning_rate, or look at these items"
    )


def _no_batch(error: Exception, step: int, out: Path) -> GenrefineError:
    """Say in one line why there is no batch; a process that loads data sends its whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = lines[-1] if "Traceback" in str(error) else " ".join(lines)
    reason = reason.removeprefix(f"{GenrefineError.__module__}.{GenrefineError.__name__}: ")
    return GenrefineError(
        f"there is no batch for update {step + 1} ({reason}); {_newest_of(out)}; mend it and run again to continue"
    )


def _require_finite_weights(networks: Mapping[str, nn.Module], step: int, out: Path) -> None:
    """Refuse weights that are no numbers, before they take the place of good ones on disk."""
    for name, network in networks.items():
        for weight, value in network.named_parameters():
            if not bool(torch.isfinite(value).all()):
                raise GenrefineError(
                    f"weights must be numbers; '{weight}' of the {name} is not after update {step}, which was not "
                    f"saved; {_newest_of(out)}; lower training.learning_rate"
                )


def _newest_of(out: Path) -> str:
    saved = newest_checkpoint(out)
    return f"the last good state is {saved}" if saved else "nothing was saved yet"


def _trackers() -> list[str] | None:
    from accelerate.utils import is_tensorboard_available

    return ["tensorboard"] if is_tensorboard_available() else None


class _Log:
    """Average scalars over ``log_every`` updates; show them, write them to ``metrics.jsonl`` and to the trackers."""

    def __init__(
        self, out: Path, accelerator: Accelerator, settings: TrainingSettings, done: int, shown: tuple[str, ...]
    ) -> None:
        self.out, self.accelerator, self.settings, self.shown = out, accelerator, settings, shown
        self.bar = tqdm(
            total=settings.num_steps,
            initial=done,
            unit="step",
            disable=not accelerator.is_main_process,
            mininterval=1.0,
            dynamic_ncols=True,
        )
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}
        self.since, self.items = time.perf_counter(), 0

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Take the scalars of one loss; NaN entries stand for nothing seen and are left out."""
        for name, value in scalars.items():
            value = torch.as_tensor(value).detach().float()
            total, count = self.sums.get(name, (torch.zeros_like(value), torch.zeros_like(value)))
            seen = ~value.isnan()  # stays on the device: a look at each scalar would wait for it
            self.sums[name] = (total + value.nan_to_num(0.0), count + seen)

    def advance(self, step: int) -> None:
        """Count one update and report when it is time."""
        self.bar.update(1)
        if step % self.settings.log_every and step != self.settings.num_steps:
            return
        seconds = time.perf_counter() - self.since
        means = {name: float(total / count) for name, (total, count) in self.sums.items() if count}
        means["items_per_second"] = self.items / seconds
        self.bar.set_postfix({k: f"{means[k]:.4g}" for k in (*self.shown, "items_per_second") if k in means})
        if self.accelerator.is_main_process:
            with (self.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in means.items()}}) + "\n")
            self.accelerator.log(means, step=step)
        self.sums, self.since, self.items = {}, time.perf_counter(), 0

    def picture(self, image: Image.Image | None, step: int) -> None:
        """Keep a preview as PNG and show it to the trackers."""
        if image is None:
            return
        with io.BytesIO() as stream:
            image.save(stream, "PNG")
            write_atomically(self.out / "previews" / f"step-{step:07d}.png", stream.getvalue())
        for tracker in self.accelerator.trackers:
            import numpy as np

            tracker.log_images({"preview": np.asarray(image.convert("RGB"))[None]}, step=step, dataformats="NHWC")
