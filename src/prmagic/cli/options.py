"""The options that `segment` and `evaluate` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from prmagic.distributed import Cluster

FRAMEWORK = Annotated[str, typer.Option(help="persam, persam-f, or matcher.")]
SAM = Annotated[str, typer.Option(metavar="NAME|DIR|FILE", help="See `prmagic models`.")]
ENCODER = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR|FILE", help="Matcher's DINOv2 or DINOv3; see `prmagic models`.", show_default="embedded"
    ),
]
ENCODER_SIZE = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        min=1,
        help="The side of its input, a multiple of its patch.",
        show_default="what it was trained at",
    ),
]
STEPS = Annotated[int | None, typer.Option(metavar="T", help="Refinements after the baseline.", show_default="5")]
ETA = Annotated[
    float | None,
    typer.Option(
        help="The published d and step, of this size η; with --rho the size of the noise alone.",
        show_default="the preset's, or the framework's own d and step",
    ),
]
RHO = Annotated[
    float | None,
    typer.Option(
        metavar="RHO",
        help="Length of a step's drift, in parts of the embedding's own root mean square; d stays what it is.",
        show_default="the preset's, or the framework's own step",
    ),
]
GAMMA = Annotated[float | None, typer.Option(help="Entropy weight γ.", show_default="the preset's")]
FLOW = Annotated[str | None, typer.Option(help="full, drift, noise, resample, or none.", show_default="full")]
EXTRA_POINTS = Annotated[
    str | None,
    typer.Option(
        help="PerSAM-F's points beside the peak: none, 0.99/0.90, 0.99999/0.9999.", show_default="the preset's"
    ),
]
BRIDGE = Annotated[
    str | None,
    typer.Option(
        help="How the shift of SAM's embedding reaches Matcher's tokens: pad, ridge, or similarity.",
        show_default="the preset's",
    ),
]
CENTERS = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="With how many places Matcher prompts; more of them find more things of the kind in one photo.",
        show_default="the preset's",
    ),
]
SELECTOR = Annotated[
    str | None,
    typer.Option(
        help="guard (keeps the baseline unless two signals prefer another); reencode (the paper's, an encode per "
        "candidate); pooled, predicted-iou, separation; or patches compared with the supports': cycle, recall, "
        "cycle-recall, fusion, consensus, veto; or full-cycle, which looks for the thing in the supports again.",
        show_default="cycle-recall; guard with matcher; reencode with presets paper and official",
    ),
]
MIN_SCORE = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        min=-1,
        max=1,
        help="What looks less like the examples counts as not found, and its mask is empty; -1: nothing does.",
        show_default="calibrated for matcher with the embedded models; elsewhere none",
    ),
]
CACHE = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Keep here what is learnt from supports, and do not encode the same ones again."),
]
DEVICE = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.", show_default="a GPU if there is one")]
DTYPE = Annotated[str, typer.Option(help="Of the image encoders: float32, bfloat16, float16.")]
BATCH_SIZE = Annotated[int, typer.Option(min=1, help="Photos encoded together on a GPU.")]
THREADS = Annotated[
    int | None,
    typer.Option(
        min=1, help="torch's, in each process; the last bits of results depend on it.", show_default="torch's own"
    ),
]
RAY = Annotated[
    str | None, typer.Option(metavar="auto|ADDRESS", help="Spread the work over a Ray cluster.", show_default="off")
]
WORKERS = Annotated[int | None, typer.Option(min=1, help="With --ray: processes.", show_default="2")]
GPUS = Annotated[
    float | None, typer.Option(min=0, help="With --ray: of each process; fractions share one.", show_default="0")
]


def cluster_of(ray: str | None, workers: int | None, gpus: float | None) -> Cluster | None:
    """Connected, so that what is wrong with it is told before models are loaded; None without --ray."""
    if ray is None:
        if workers is not None or gpus is not None:
            raise ValueError("--workers and --gpus-per-worker are for --ray: add it, or leave them out")
        return None
    from prmagic.distributed import Cluster, connect

    cluster = Cluster(ray, workers or 2, gpus or 0.0)
    connect(cluster)
    return cluster
