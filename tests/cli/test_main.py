"""Laws of the command line as a whole."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields

import pytest

from genrefine import GenrefineError
from genrefine.cli import VERBS
from genrefine.cli import describe as describe_verb
from genrefine.sampling.options import SamplingOptions


def test_help_names_every_verb(genrefine):
    answer = genrefine("--help")
    assert answer.code == 0
    assert all(verb in answer.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(genrefine, verb):
    answer = genrefine(verb, "--help")
    assert answer.code == 0
    assert f"usage: genrefine {verb}" in answer.out


def test_every_sampling_option_is_a_flag_with_its_help(genrefine):
    answer = " ".join(genrefine("generate", "--help").out.split())
    for option in fields(SamplingOptions):
        assert f"--{option.name.replace('_', '-')}" in answer
        assert option.metadata["help"] in answer.replace("- ", "-")


@pytest.mark.parametrize(
    "words",
    [[], ["paint"], ["generate", "--sed", "7"], ["generate", "--seed", "x"], ["generate", "--num-inf", "3"], ["--x"]],
)
def test_wrong_usage_ends_in_one_line_and_code_2(genrefine, words):
    answer = genrefine(*words)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert "--help" in answer.err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (GenrefineError("expected a; got b"), 2, "genrefine describe: expected a; got b\n"),
        (GenrefineError("two\nlines"), 2, "genrefine describe: two lines\n"),
        (PermissionError(13, "Permission denied", "x.png"), 2, "genrefine describe: cannot use 'x.png' (Permission"),
        (KeyboardInterrupt(), 130, "genrefine describe: interrupted\n"),
        (BrokenPipeError(32, "Broken pipe"), 0, ""),
    ],
)
def test_what_went_wrong_is_one_line_and_a_code(genrefine, monkeypatch, error, code, line):
    def fail(options: object) -> None:
        raise error

    monkeypatch.setattr(describe_verb, "run", fail)
    monkeypatch.setattr(os, "dup2", lambda old, new: new)
    answer = genrefine("describe", "model")
    assert answer.code == code
    assert answer.err.startswith(line)
    assert answer.err.count("\n") == (1 if line else 0)


def test_defects_of_ours_and_debugging_show_the_traceback(genrefine, monkeypatch):
    with pytest.raises(GenrefineError, match="no model at"):
        genrefine("describe", "missing", "--debug")

    def fail(options: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(describe_verb, "run", fail)
    with pytest.raises(RuntimeError, match="ours"):
        genrefine("describe", "missing")


def test_an_interrupt_of_the_real_program_ends_in_one_line_and_130(tmp_path):
    # The verb waits inside a module that Python imports on start-up, so the signal always finds it there.
    (tmp_path / "sitecustomize.py").write_text(
        "import genrefine.cli.describe as d, sys, time\n"
        "def run(options):\n    print('waiting', flush=True)\n    time.sleep(60)\n"
        "d.run = run\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "genrefine.cli", "describe", "x"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell job ignores it
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "genrefine describe: interrupted\n")


@pytest.mark.parametrize("closing", ["", " >&-", " 2>&-", " >&- 2>&-"])
def test_a_narrow_or_closed_terminal_does_not_end_a_command(closing):
    line = "say('a red heart \u2764, \u7ea2\u5fc3')"
    program = f"import genrefine.cli as cli; cli._prepare_streams(); from genrefine.cli.answers import say; {line}"
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -c "$1"{closing}', sys.executable, program],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stderr
    if ">&-" not in closing.replace("2>&-", ""):
        assert done.stdout == b"a red heart \\u2764, \\u7ea2\\u5fc3\n"
