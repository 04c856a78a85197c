"""`prmagic app`, the web page. (A module called app would hide the `app` of the package.)"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from prmagic.cli import app, errors_for_people, say
from prmagic.cli.options import DEVICE, DTYPE, ENCODER, ENCODER_SIZE, FRAMEWORK, MIN_SCORE, SAM, THREADS


@app.command("app")
def serve_page(
    framework: FRAMEWORK = "persam-f",
    sam: SAM = "embedded",
    encoder: ENCODER = None,
    encoder_size: ENCODER_SIZE = None,
    preset: Annotated[str, typer.Option(help="As for segment.")] = "default",
    min_score: MIN_SCORE = None,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in; there is no password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Visitors may search folders below it, by name.")
    ] = None,
    max_upload: Annotated[int, typer.Option(metavar="MB", min=1, help="Larger files are refused.")] = 50,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger photos are refused.")] = 64_000_000,
    device: DEVICE = None,
    dtype: DTYPE = "float32",
    threads: THREADS = None,
) -> None:
    """Open the web page: mark the thing in a photo, find it in others, see why, correct it, take the masks away.

    Everything stays on this machine. Ends with Ctrl-C, and what visitors uploaded goes with it.

    Example: prmagic app --root photos/
    """
    with errors_for_people():
        if find_spec("gradio") is None:
            raise ValueError("the page needs Gradio: pip install 'prmagic[app]'")
        if root is not None and not root.is_dir():
            raise ValueError(f"--root {root} is not a folder")
        import torch

        from prmagic.app.engine import Models, Settings
        from prmagic.app.server import Address, serve

        torch.set_num_threads(threads or torch.get_num_threads())
        models = Models(sam, encoder, encoder_size, device, dtype, max_pixels)
        try:
            serve(
                models, Settings(framework=framework, preset=preset, min_score=min_score, seed=seed),
                Address(host, port, max_upload << 20), root, lambda url: say(f"Open {url} in a browser."),
            )  # fmt: skip
        except KeyboardInterrupt:
            say("Closed.")
