"""What `genrefine studio` refuses before it loads anything; the page itself is tested in `tests/studio`."""

import importlib.util
import socket
import subprocess
import sys
import time
from dataclasses import fields

import pytest
from test_options import declared, write_adapter

from genrefine.studio.limits import Limits
from tiny_models import tiny_text_pipeline


@pytest.fixture(scope="module")
def taken():
    """Return a port that another program listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one.getsockname()[1]


@pytest.fixture
def seen(genrefine, monkeypatch, model, text_model, tmp_path):
    """Return a function that says what would be served, and with which words."""
    caught = []

    def serve(host, address, port, runs, wait):
        caught.append((host, address, port, runs))
        raise KeyboardInterrupt

    monkeypatch.setattr("genrefine.studio.page.serve", serve)
    write_adapter(tmp_path / "adapter", tiny_text_pipeline().refiner)
    (tmp_path / "runs").mkdir()

    def look(words):
        caught.clear()
        replaced = [str({"TEXT": text_model, "CLASS": model}.get(word, word)) for word in words.split()]
        answer = genrefine("studio", *replaced)
        if not caught:
            return answer.code, answer.err
        ((host, address, port, runs),) = caught
        weights = float(sum(one.detach().double().abs().sum() for one in host.pipeline.refiner.parameters()))
        kind, dtype = type(host.pipeline).__name__, host.pipeline.refiner.dtype
        return answer.code, answer.err, kind, dtype, weights, host.name, host.limits, address, port, runs

    return look


OPENED = "--model TEXT"
EFFECTS = {
    "--model": (OPENED, "--model CLASS"),
    "--port": (OPENED, OPENED + " --port 8123"),
    "--host": (OPENED, OPENED + " --host 0.0.0.0"),
    "--runs": (OPENED, OPENED + " --runs runs"),
    "--adapter": (OPENED, OPENED + " --adapter adapter"),
    "--adapter-scale": (OPENED + " --adapter adapter", OPENED + " --adapter adapter --adapter-scale 0.5"),
    "--device": (OPENED, OPENED + " --device nowhere"),
    "--dtype": (OPENED, OPENED + " --dtype bfloat16"),
    **{
        f"--max-{limit.name.replace('_', '-')}": (OPENED, f"{OPENED} --max-{limit.name.replace('_', '-')} 3")
        for limit in fields(Limits)
    },
}


def test_every_option_is_in_the_table():
    assert declared("studio") == EFFECTS.keys()


@pytest.mark.parametrize("option", EFFECTS)
def test_every_option_has_an_effect(seen, option):
    without, with_option = EFFECTS[option]
    assert seen(without) == seen(without)
    assert seen(without) != seen(with_option)


def test_a_page_for_others_comes_with_a_warning(seen):
    assert seen(OPENED)[1] == "genrefine studio: interrupted\n"
    assert "warning: whoever reaches 0.0.0.0:7860 can use this model" in seen(OPENED + " --host 0.0.0.0")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "0"], "--port must lie in 1 .. 65535; got 0"),
        (["--port", "70000"], "--port must lie in 1 .. 65535; got 70000"),
        (["--runs", "none"], "--runs must be a folder; 'none' is none"),
        (["--model", "none"], "no model at 'none'"),
        (["--host", "no.such.host.invalid"], "--host must be an address of this machine"),
        (["--host", "192.0.2.1"], "cannot listen at 192.0.2.1:7860"),
        (["--max-steps", "0"], "must be at least 1; got 0"),
        (["--max-queue", "many"], "invalid positive value"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(genrefine, words, message):
    answer = genrefine("studio", *words)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert message in answer.err


def test_a_taken_port_is_named(genrefine, taken):
    answer = genrefine("studio", "--port", taken)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert f"cannot listen at 127.0.0.1:{taken} (Address already in use)" in answer.err
    assert "give another --port" in answer.err


def test_without_gradio_it_says_what_to_install(genrefine, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("genrefine.cli.studio.find_spec", lambda name: None if name == "gradio" else found(name))
    answer = genrefine("studio")
    assert answer.code == 2
    assert "pip install 'genrefine[studio]'" in answer.err


def test_refusals_do_not_wait_for_torch(taken):
    program = f"import sys; sys.argv = ['genrefine', 'studio', '--port', '{taken}']; from genrefine.cli import main; "
    program += "code = main(); assert code == 2; assert 'torch' not in sys.modules; assert 'gradio' not in sys.modules"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 10
