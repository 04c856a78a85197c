"""`prmagic app`: the web page."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from prmagic.cli.options import (
    DEVICE,
    DTYPE,
    ENCODER,
    FRAMEWORK,
    HELP_ALL,
    HOST_NAME,
    MAX_PIXELS,
    MIN_SCORE,
    PORT,
    PRESET,
    RUNTIME,
    SAM,
    SEED,
    SERVER,
    SET,
    THREADS,
    check_root,
    option,
    settings_from,
    use_threads,
)
from prmagic.cli.terminal import errors_for_people, say


def serve_page(
    host: Annotated[str, option(SERVER, "ADDRESS", "0.0.0.0 lets other machines in; there is no password.")] = (
        "127.0.0.1"
    ),
    port: PORT = 7860,
    host_name: HOST_NAME = None,
    root: Annotated[
        Path | None, option(SERVER, "DIR", "Visitors may search folders below it, by name.", default=False)
    ] = None,
    max_upload: Annotated[int, option(SERVER, "MB", "Larger files are refused.", min=1)] = 50,
    framework: FRAMEWORK = "persam-f",
    sam: SAM = "embedded",
    encoder: ENCODER = None,
    device: DEVICE = None,
    dtype: DTYPE = "float32",
    runtime: RUNTIME = "auto",
    preset: PRESET = "default",
    min_score: MIN_SCORE = None,
    seed: SEED = 0,
    settings: SET = None,
    max_pixels: MAX_PIXELS = 64_000_000,
    threads: THREADS = None,
    help_all: HELP_ALL = False,
) -> None:
    """Serve the web page: mark a thing in a photo, find it in others, correct, take the masks away.

    Everything stays on this machine. Ctrl-C ends it and deletes what visitors uploaded.

    Example: prmagic app --root photos/
    """
    with errors_for_people():
        if find_spec("gradio") is None:
            raise ValueError("the page needs Gradio: pip install 'prmagic[app]'")
        check_root(root)
        from prmagic.app.server import Address, serve
        from prmagic.app.settings import Models, Settings

        use_threads(threads)
        options = tuple(sorted(settings_from(framework, preset, settings).items()))
        begin = Settings(framework, preset, None, min_score, seed, options)
        address = Address(host, port, tuple(host_name or ()), max_upload << 20)
        try:
            serve(
                Models(sam, encoder, device, dtype, runtime, max_pixels), begin, address, root,
                lambda url: say(f"Open {url} in a browser."),
            )  # fmt: skip
        except KeyboardInterrupt:
            say("Closed.")
