"""Programs in two processes that know of each other."""

import socket
import subprocess
import sys


def in_two_processes(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a program, or ``-m module``, the way `accelerate launch` does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port)]
    return subprocess.run([*launch, *map(str, command)], capture_output=True, text=True, timeout=600)
