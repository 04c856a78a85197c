"""`prmagic models`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prmagic.cli.options import DEVICE, DTYPE, RUNTIME, THREADS
from prmagic.cli.terminal import errors_for_people, say, waiting_for

if TYPE_CHECKING:
    from rich.table import Table

    from prmagic.backbones.checkpoints import Cost, KnownModel


NAMES = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="For --measure: also these.", show_default=False)
]
MEASURE = Annotated[
    bool, typer.Option("--measure", help="Time the embedded models and those named, or else those in the hub's cache.")
]


def models(
    names: NAMES = None,
    *,
    measure: MEASURE = False,
    device: DEVICE = None,
    dtype: DTYPE = "float32",
    runtime: RUNTIME = "auto",
    threads: THREADS = None,
) -> None:
    """List the models that can be named after --sam and --encoder, or time them on this machine.

    Example: prmagic models --measure facebook/sam2.1-hiera-tiny
    """
    failed = False
    with errors_for_people():
        if measure:
            failed = _measure(names, {"device": device, "dtype": dtype, "runtime": runtime}, threads)
        elif names:
            raise ValueError("only --measure takes names of models: add it, or leave them out")
        else:
            _list()
    if failed:
        raise typer.Exit(1)


def _list() -> None:
    from rich.console import Console

    from prmagic.backbones.checkpoints import BESIDE_ENCODERS, KNOWN_ENCODERS, KNOWN_SAMS, MEASURED_ON

    console = Console()
    console.print(_table("Models for --sam", KNOWN_SAMS))
    console.print(
        "Any other SAM, SAM-HQ, SAM 2, EdgeTAM or SAM 3 in Hugging Face format works too, by hub id or folder."
    )
    console.print()
    console.print(_table("Models for --encoder (framework matcher)", KNOWN_ENCODERS))
    console.print("So does any other DINOv2, with or without registers, and any DINOv3 (ViT).")
    console.print()
    console.print(
        "Encode: of one photo. Query: a refined one, T = 5, default preset, reference at hand; by PerSAM-F, and for an "
        f"encoder by Matcher with {BESIDE_ENCODERS} (embedded with embedded). Seconds, and the process's peak memory, "
        f"where measured: on {MEASURED_ON}."
    )
    console.print("Gated: its page on huggingface.co asks for consent before the download; then run `hf auth login`.")
    console.print(
        "An @ behind a hub id takes a certain revision, such as facebook/sam-vit-huge@main. The original files of SAM "
        "(sam_vit_h_4b8939.pth, …), SAM-HQ and DINOv2 (dinov2_vitl14_pretrain.pth, …) are taken as they are."
    )


def _measure(names: Sequence[str] | None, arguments: dict[str, Any], threads: int | None) -> bool:
    """Time each model in turn and print a table; True if some could not be timed."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from prmagic.backbones.checkpoints import EMBEDDED, KNOWN
    from prmagic.cli.measure import measured

    kinds = {known.name: kind for kind, several in KNOWN.items() for known in several if known.name != EMBEDDED}
    chosen = [(name, kinds.get(name, "")) for name in names or _cached(kinds) if name != EMBEDDED]
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model, image encoder's place", no_wrap=True)
    for heading in ("encode", "query", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    failed = False
    for name, kind in [(EMBEDDED, "sam"), (EMBEDDED, "encoder"), *chosen]:
        try:
            with waiting_for(f"Timing {name}"):
                found = measured(name, kind, arguments, threads)
        except ValueError as error:
            say(str(error), f"{name}:")
            failed = True
            continue
        memory = "unknown" if found.memory is None else f"{found.memory:.1f} GB"
        where = f"{name}\n  --{found.kind}, {found.device}, {found.runtime}, {found.dtype}"
        table.add_row(where, f"{found.encode:.2g} s", f"{found.query:.2g} s", memory)
    Console().print(table)
    Console().print(
        "Encode: of one photo. Query: a refined one, T = 5, default preset, reference at hand; by PerSAM-F, and for an "
        "encoder by Matcher with the embedded SAM. Memory: the process's peak, this machine's libraries included."
    )
    return failed


def _cached(names: Iterable[str]) -> list[str]:
    """Those of the hub's models that are on this machine."""
    from prmagic.backbones.hub import HubModel

    return [name for name in names if HubModel(name).folder is not None]


def _table(title: str, known: Iterable[KnownModel]) -> Table:
    """Narrow enough for 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("name, licence of the weights, remark", no_wrap=True)  # names are for copying
    for heading in ("param.,\ndownload", "input", "encode", "query"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in known:
        licence = f"{model.licence}, gated" if model.gated else model.licence
        lines = [model.name, licence, model.remark] if model.remark else [model.name, licence]
        size = f"{model.parameters} M\n" + (f"{model.download} MB" if model.download else "none")
        table.add_row(
            "\n  ".join(lines), size, f"{model.input_size} px", _measured(model.encode), _measured(model.query)
        )
    return table


def _measured(cost: Cost | None) -> str:
    return "not\nmeasured" if cost is None else f"{cost.seconds:g} s\n{cost.memory:.1f} GB"
