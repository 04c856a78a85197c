"""`prmagic serve`: the HTTP server."""

from __future__ import annotations

import os
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

TOOLS = "Labelling tools"  # a panel of the help
NEEDED = ("fastapi", "uvicorn", "fastapi_offline", "prometheus_client", "httpx")


STORE = Annotated[Path, option(SERVER, "DIR", "Where references are kept.")]
HOST = Annotated[str, option(SERVER, "ADDRESS", "0.0.0.0 lets other machines in, with --token.")]
TOKEN = Annotated[
    str | None, option(SERVER, "TEXT", "Requests must show it: Authorization: Bearer TEXT.", envvar="PRMAGIC_TOKEN")
]
ROOT = Annotated[
    Path | None, option(SERVER, "DIR", "Requests may name files below it, instead of sending them.", default=False)
]
QUEUE = Annotated[int, option(SERVER, "N", "Requests that may wait; more are told to come again.", min=1)]
TIMEOUT = Annotated[int, option(SERVER, "SECONDS", "That a request may take.", min=1)]
MAX_UPLOAD = Annotated[int, option(SERVER, "MB", "Larger requests are refused.", min=1)]
TOGETHER = Annotated[int, option(SERVER, "N", "Photos that a GPU takes together.", min=1)]
LABEL_STUDIO = Annotated[
    str | None,
    option(
        TOOLS, "URL", "Be the ML backend of this Label Studio; its token is in LABEL_STUDIO_API_KEY.", default=False
    ),
]
PHOTO_HOST = Annotated[
    list[str] | None, option(TOOLS, "NAME", "Its tasks may name photos on this host, too. Repeatable.")
]
INSTANCES = Annotated[
    bool, option(TOOLS, None, "Labelling tools get one region per thing, not one per label.", "--instances")
]


def serve(
    store: STORE = Path("references"),
    host: HOST = "127.0.0.1",
    port: PORT = 8000,
    token: TOKEN = None,
    host_name: HOST_NAME = None,
    root: ROOT = None,
    queue: QUEUE = 32,
    timeout: TIMEOUT = 120,
    max_upload: MAX_UPLOAD = 50,
    batch_size: TOGETHER = 8,
    label_studio: LABEL_STUDIO = None,
    photo_host: PHOTO_HOST = None,
    instances: INSTANCES = False,
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
    """Serve over HTTP: send examples once, then photos, and get masks. Also for labelling tools.

    The page /docs describes every request. Ctrl-C ends it, when the requests that it has are answered.

    Example: prmagic serve --store references/
    """
    with errors_for_people():
        if any(find_spec(name) is None for name in NEEDED):
            raise ValueError("the server needs some packages: pip install 'prmagic[serve]'")
        from prmagic.io.records import check_out

        check_root(root)
        check_out(store, "--store")
        from prmagic.serve.label_studio_api import Access
        from prmagic.serve.server import Address, Plan, serve
        from prmagic.serve.service import Limits

        use_threads(threads)
        address = Address(host, port, tuple(host_name or ()), token)
        models = {
            "framework": framework, "sam": sam, "encoder": encoder, "device": device, "dtype": dtype,
            "runtime": runtime, "preset": preset, "min_score": min_score, "seed": seed, "max_pixels": max_pixels,
            **settings_from(framework, preset, settings),
        }  # fmt: skip
        key = os.environ.get("LABEL_STUDIO_API_KEY", "")
        studio = None if label_studio is None else Access(label_studio, key, tuple(photo_host or ()))
        limits = Limits(max_upload << 20, queue, batch_size, float(timeout))
        try:
            serve(
                Plan(models, store, address, limits, root, studio, instances),
                lambda url: say(f"Serving on {url} (its requests: {url}docs). References: {store}"),
            )
        except KeyboardInterrupt:
            say("Closed.")
