"""`genrefine studio`: a local page to make, edit and look inside."""

import argparse
import socket
import sys
import time
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from genrefine.cli.answers import say
from genrefine.cli.loading import adapt, find_model, load_pipeline
from genrefine.cli.options import (
    TEXT_MODEL,
    add_adapter_options,
    add_device_option,
    add_dtype_option,
    add_model_option,
    positive,
)
from genrefine.errors import GenrefineError
from genrefine.studio.limits import Limits

HERE = "127.0.0.1"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of the verb."""
    add_model_option(parser, default=TEXT_MODEL)
    parser.add_argument("--port", type=int, default=7860, metavar="P", help="of the page (default: %(default)s)")
    parser.add_argument(
        "--host", default=HERE, metavar="ADDRESS", help=f"to listen at; {HERE}, the default, is this machine only"
    )
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder below which runs of training are shown")
    for limit in fields(Limits):
        parser.add_argument(
            f"--max-{limit.name.replace('_', '-')}",
            type=positive,
            default=limit.default,
            metavar="N",
            help=f"most {limit.metadata['help']} (%(default)s)",
        )
    add_adapter_options(parser)
    add_device_option(parser)
    add_dtype_option(parser)


def run(options: argparse.Namespace) -> None:
    """Serve the page until it is interrupted."""
    _check(options)
    limits = Limits(**{limit.name: getattr(options, f"max_{limit.name}") for limit in fields(Limits)})
    say(f"loading '{options.model}'")
    pipeline = load_pipeline(options.model, options.device, options.dtype)
    adapt(pipeline, options)

    from genrefine.model_folder.find import local_model
    from genrefine.studio.host import Host, read_card
    from genrefine.studio.page import serve, temporary_files

    if options.host not in (HERE, "localhost", "::1"):
        sys.stderr.write(
            f"warning: whoever reaches {options.host}:{options.port} can use this model and machine; there is no "
            "password and no encryption\n"
        )
    with temporary_files():
        host = Host(pipeline, options.model, limits, read_card(local_model(options.model)))
        say("making the picture that the page opens with")
        page = serve(host, options.host, options.port, options.runs, wait=False)
        say(f"open http://{options.host}:{options.port} in a browser; Ctrl-C ends")
        sys.stdout.flush()
        try:
            while True:  # gradio's own way to wait takes an interrupt for the end of work
                time.sleep(3600)
        finally:
            page.close(verbose=False)


def _check(options: argparse.Namespace) -> None:
    """Refuse before anything is loaded what cannot be served."""
    if find_spec("gradio") is None:
        raise GenrefineError("the studio needs gradio, which is not installed; pip install 'genrefine[studio]'")
    if not 1 <= options.port <= 65535:
        raise GenrefineError(f"--port must lie in 1 .. 65535; got {options.port}")
    if options.runs is not None and not options.runs.is_dir():
        raise GenrefineError(f"--runs must be a folder; '{options.runs}' is none")
    find_model(options.model)
    _require_free(options.host, options.port)


def _require_free(address: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((address, port))
    except socket.gaierror as error:
        raise GenrefineError(
            f"--host must be an address of this machine; got '{address}' ({error.strerror})"
        ) from error
    except OSError as error:
        raise GenrefineError(
            f"cannot listen at {address}:{port} ({error.strerror}); another program has it, or it is not this "
            "machine's; give another --port or --host"
        ) from error
