"""Break the product on purpose, one place at a time, and see which tests notice.

    python scripts/mutations.py                # all, a table; a minute or two each
    python scripts/mutations.py kernel         # those with this word in their name

Every mutation is one replaced line in a copy of the checkout, where the tests named beside it run. A mutation that no
test notices is a hole: the program ends with 1.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutation:
    """One replaced piece of code.

    Args:
        name: what is broken.
        file: below `src/genrefine`.
        old: code that stands there once.
        new: what takes its place.
        tests: where it should be noticed.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    Mutation(
        "sampler: the state is never corrected",
        "sampling/sampler.py",
        "settings.kernel(state, Transition(prediction, noise,",
        "settings.kernel(state, Transition(torch.where(state.held, state.codes, prediction), noise,",
        "tests/sampling",
    ),
    Mutation(
        "sampler: draws of finished samples go on to others",
        "sampling/sampler.py",
        "guided, source, known = guided.select(going), source.select(going), known.select(there)",
        "guided, source, known = guided.select(going), source.select(torch.arange(len(going))), known.select(there)",
        "tests/sampling tests/pipelines",
    ),
    Mutation(
        "refresh kernel: keeps what the signal before says",
        "sampling/kernels.py",
        "transition.uniform < _spread(transition.next_signal)",
        "transition.uniform < _spread(transition.signal)",
        "tests/sampling",
    ),
    Mutation(
        "exact kernel: stays with t instead of t / t'",
        "sampling/kernels.py",
        "torch.where(later > signal, signal / later.clamp_min(1e-30), 1.0)",
        "torch.where(later > signal, signal, 1.0)",
        "tests/sampling",
    ),
    Mutation(
        "guidance: from the condition instead of from the null condition",
        "sampling/guidance.py",
        "guided = unconditional + weight",
        "guided = conditional + weight",
        "tests/sampling",
    ),
    Mutation(
        "guidance: the low end of the interval is inside",
        "sampling/guidance.py",
        "return below if low == 0 else below & (signal > low)",
        "return below & (signal >= low)",
        "tests/sampling",
    ),
    Mutation(
        "step budget: rounds down",
        "sampling/budgets.py",
        "self.warmup + round(min(",
        "self.warmup + int(min(",
        "tests/sampling",
    ),
    Mutation(
        "corruption: keeps 1 - t",
        "corruption.py",
        "kept = uniform < signal",
        "kept = uniform >= signal",
        "tests/test_corruption.py tests/training",
    ),
    Mutation(
        "order: every epoch in the same order",
        "training/order.py",
        "step_seed(self.seed, epoch, purpose=1)",
        "step_seed(self.seed, 0, purpose=1)",
        "tests/training",
    ),
    Mutation(
        "order: a continued run begins the epoch again",
        "training/order.py",
        "position = self.start * self.batch_size",
        "position = 0",
        "tests/training",
    ),
    Mutation(
        "loop: draws do not depend on the process",
        "training/loop.py",
        "seed = step_seed(settings.seed, number + accelerator.process_index, purpose=2)",
        "seed = step_seed(settings.seed, number, purpose=2)",
        "tests/training",
    ),
    Mutation(
        "loop: a continued run draws from the beginning",
        "training/loop.py",
        "number = (step * settings.gradient_accumulation + part)",
        "number = ((step - done) * settings.gradient_accumulation + part)",
        "tests/training",
    ),
    Mutation(
        "checkpoint: the averages are not restored",
        "training/averages.py",
        "    ema.load_state_dict(state)\n    if device",
        "    if device",
        "tests/training",
    ),
    Mutation(
        "hbq: values stand at the lower end of their cells",
        "hbq.py",
        "(2 * index + 1).float()",
        "(2 * index).float()",
        "tests/test_hbq.py",
    ),
)


def noticed_by(mutation: Mutation, copy: Path) -> str:
    """Return the first test that fails in a checkout with a mutation; nothing if none does.

    Raises:
        SystemExit: the code to replace does not stand there exactly once.
    """
    path = copy / "src/genrefine" / mutation.file
    whole = path.read_text(encoding="utf-8")
    if whole.count(mutation.old) != 1:
        raise SystemExit(
            f"'{mutation.old}' must stand in {mutation.file} once; it stands {whole.count(mutation.old)} times"
        )
    path.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "--tb=no",
                "--maxfail=1",
                *mutation.tests.split(),
            ],
            cwd=copy,
            env={"PYTHONPATH": str(copy / "src"), "PATH": "/usr/bin:/bin", "HOME": str(copy), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        path.write_text(whole, encoding="utf-8")
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].rpartition("::")[2].partition("[")[0] if failed else ""


def main() -> None:
    """Carry out the mutations and print a table."""
    chosen = [one for one in MUTATIONS if all(word in one.name for word in sys.argv[1:])]
    holes = 0
    with tempfile.TemporaryDirectory() as work:
        copy = Path(work) / "copy"
        left = shutil.ignore_patterns(".git", ".venv", "build", "datasets", "weights", ".*_cache", "images")
        shutil.copytree(CHECKOUT, copy, ignore=left)
        print("| broken | noticed first by |\n|---|---|")
        for mutation in chosen:
            test = noticed_by(mutation, copy)
            print(f"| {mutation.name} | {f'`{test}`' if test else '**nothing**'} |", flush=True)
            holes += not test
    raise SystemExit(1 if holes else 0)


if __name__ == "__main__":
    main()
