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
    MAX_PIXELS,
    MIN_SCORE,
    PRESET,
    RUNTIME,
    SAM,
    SEED,
    SET,
    THREADS,
    option,
    settings_from,
)
from prmagic.cli.terminal import errors_for_people, say

SERVER = "Server"  # a panel of the help


def serve_page(
    host: Annotated[str, option(SERVER, "ADDRESS", "0.0.0.0 lets other machines in; there is no password.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, option(SERVER, "N", "0: any that is free.", min=0, max=65535)] = 7860,
    host_name: Annotated[
        list[str] | None, option(SERVER, "NAME", "Also answer to this name, such as a proxy's. Repeatable.")
    ] = None,
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
        if root is not None and not root.is_dir():
            raise ValueError(f"--root {root} is not a folder")
        import torch

        from prmagic.app.server import Address, serve
        from prmagic.app.settings import Models, Settings

        torch.set_num_threads(threads or torch.get_num_threads())
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
