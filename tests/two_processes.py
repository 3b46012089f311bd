"""Programs in two processes that know of each other."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

NUM_PROCESSES = 2
# Runs in every process before the program: a launcher that starts one process alone would make every test here idle.
WITNESS = """
import os, runpy, sys
from pathlib import Path

import torch
from accelerate import PartialState

torch.set_num_threads(1)
state = PartialState(cpu=True)
Path(sys.argv.pop(1), f"{state.process_index} of {state.num_processes}").touch()
kind, name = sys.argv.pop(1), sys.argv.pop(1)
sys.argv[0] = name
if kind == "-m":
    runpy.run_module(name, run_name="__main__", alter_sys=True)
else:
    runpy.run_path(name, run_name="__main__")
"""


def in_two_processes(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a program, or ``-m module``, in two processes joined by gloo, and make sure that there were two."""
    words = list(map(str, command))
    words = words if words[0] == "-m" else ["", *words]
    with tempfile.TemporaryDirectory() as folder:
        witness = Path(folder, "witness.py")
        witness.write_text(WITNESS)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={NUM_PROCESSES}"]
        done = subprocess.run(
            [*launch, str(witness), folder, *words],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        )
        seen = sorted(path.name for path in Path(folder).glob("* of *"))
    assert seen == ["0 of 2", "1 of 2"], (seen, done.stderr)
    return done
