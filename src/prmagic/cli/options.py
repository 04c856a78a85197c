"""The options that several commands share, and the command class that gives them --help-all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from prmagic.cli.old_names import refuse_old_options, refuse_old_values
from prmagic.cli.terminal import capitalised, end_on_sigterm, errors_for_people, say

if TYPE_CHECKING:
    from prmagic.distributed import Cluster
    from prmagic.options import Setting

INPUT, EPISODES, OUTPUT = "Input", "Episodes", "Output"  # the panels of the help
MODEL, REFINEMENT, RUNNING, SERVER = "Model", "Refinement", "Running", "Server"

ARGS = "prmagic.args"
OPTIONS: ContextVar[frozenset[str]] = ContextVar("OPTIONS", default=frozenset())  # of the command that runs
PATHS = ("--out", "--data", "--cache", "--save-reference", "--reference", "--support-coco", "--support-dir",
         "--support-images", "--root", "--store")  # fmt: skip


def option(
    panel: str, metavar: str | None, help: str, *names: str, rare: bool = False, default: str | bool = True, **more: Any
) -> Any:
    """An option in a panel of the help.

    Args:
        panel: Its heading.
        metavar: What stands for the value; None for a flag.
        help: One short sentence.
        names: Such as "--set", where the parameter has another name.
        rare: Shown with --help-all only.
        default: What the help says instead of the parameter's default, or False for nothing.
        more: For `typer.Option`.
    """
    return typer.Option(
        *names, metavar=metavar, help=help, hidden=rare, show_default=default, rich_help_panel=panel, **more
    )


class Command(TyperCommand):
    """A command that names the successors of old options, and keeps its words for --help-all."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with errors_for_people():
            refuse_old_options(args)
            _refuse_empty_paths(args)
        ctx.meta[ARGS] = list(args)
        OPTIONS.set(frozenset(name for each in self.params for name in each.opts if name.startswith("--")))
        return super().parse_args(ctx, args)


def _refuse_empty_paths(args: Sequence[str]) -> None:
    """An unset variable of the shell would name the current folder."""
    for name in PATHS:
        if "" in _values_of(name, args):
            raise ValueError(f"{name} is empty: is a variable unset?")


def _show_help_all(ctx: typer.Context, wanted: bool) -> None:
    if not wanted:
        return
    for parameter in ctx.command.params:
        parameter.hidden = False  # type: ignore[attr-defined]
    typer.echo(ctx.get_help(), nl=False)
    with errors_for_people():
        _print_settings(ctx.meta[ARGS])
    raise typer.Exit


def _values_of(name: str, args: Sequence[str]) -> Iterator[str]:
    """The values of an option that is given, also as NAME=VALUE."""
    end = args.index("--") if "--" in args else len(args)
    for position, arg in enumerate(args[:end]):
        given, equals, value = arg.partition("=")
        if given == name and equals:
            yield value
        elif given == name:
            yield from args[position + 1 : min(position + 2, end)]


def _print_settings(args: Sequence[str]) -> None:
    """What --set takes: for the framework that was named, or for each that is known."""
    from prmagic.frameworks.registry import framework_names, preset_names
    from prmagic.loading import settings_of

    named, preset = [*_values_of("--framework", args)][-1:], [*_values_of("--preset", args)][-1:]
    settings = {}
    for name in named or framework_names():
        try:
            if named or set(preset) <= set(preset_names(name)):
                settings[name] = settings_of(name, *preset)
        except ValueError as error:  # one that another package brings may be broken
            if named:
                raise
            say(capitalised(str(error)), "Note:")
    if not settings:
        raise ValueError(f"no framework has the preset {preset[0]!r}")
    first, *others = settings.values()
    shared = {name for name in first if all(several.get(name) == first[name] for several in others)}
    _print_table("--set NAME=VALUE", [first[name] for name in first if name in shared])
    for framework, several in settings.items():
        _print_table(f"--set with {framework}", [each for name, each in several.items() if name not in shared])


def _print_table(title: str, settings: Sequence[Setting]) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    if not settings:
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for setting in settings:
        known = f" ({', '.join(setting.choices)})" if setting.choices else ""
        table.add_row(Text(f"{setting.name}={_written(setting.default)}", style="cyan"), Text(setting.help + known))
    Console().print(Panel(table, title=title, title_align="left", border_style="dim"))


def _written(value: Any) -> str:
    """As --set takes it."""
    if isinstance(value, tuple):
        return ",".join(map(_written, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


HELP_ALL = Annotated[
    bool,
    typer.Option(
        "--help-all",
        is_eager=True,
        callback=_show_help_all,
        help="Show the rare options too, and every NAME that --set takes.",
    ),
]

OVERWRITE = Annotated[bool, option(OUTPUT, None, "Delete the folder's earlier results first.", "--overwrite")]

FRAMEWORK = Annotated[str, option(MODEL, "NAME", "persam-f, persam, matcher, gf-sam, or your own FILE.py:CLASS.")]
SAM = Annotated[str, option(MODEL, "MODEL", "A name of `prmagic models`, a folder, or a published file.")]
ENCODER = Annotated[
    str | None, option(MODEL, "MODEL", "The same for the DINOv2 or DINOv3 of matcher and gf-sam.", default="embedded")
]
DEVICE = Annotated[str | None, option(MODEL, "NAME", "cpu, cuda, cuda:1, mps.", default="a GPU if there is one")]
DTYPE = Annotated[
    str,
    option(
        MODEL,
        "NAME",
        "Of the image encoders: float32, bfloat16, float16; mixed: bfloat16 for SAM; auto: what is fast here.",
        rare=True,
    ),
]
RUNTIME = Annotated[
    str, option(MODEL, "NAME", "Of the image encoders: torch, openvino; auto: openvino if it pays.", rare=True)
]

PRESET = Annotated[
    str,
    option(
        REFINEMENT, "NAME", "default; paper: what the published code does; official: matcher as its authors run it."
    ),
]
STEPS = Annotated[int | None, option(REFINEMENT, "T", "Refinements after the baseline.", default="the preset's")]
MIN_SCORE = Annotated[
    float | None,
    option(
        REFINEMENT,
        "S",
        "Masks with a lower score count as not found; from -1 to 1.",
        default="none; matcher with the embedded models: 0.359",
    ),
]
SEED = Annotated[int, option(REFINEMENT, "N", "Same seed, same result.")]
SET = Annotated[
    list[str] | None, option(REFINEMENT, "NAME=VALUE", "Any other setting; repeat it. --help-all lists them.", "--set")
]
FLOW = Annotated[
    str | None,
    option(
        REFINEMENT,
        "NAME",
        "spread: other places; full: the gradient; noise: without it; none.",
        rare=True,
        default="the preset's",
    ),
]
SELECTOR = Annotated[
    str | None,
    option(
        REFINEMENT, "NAME", "judge, reencode (the paper's), cycle-recall, guard.", rare=True, default="the preset's"
    ),
]

CACHE = Annotated[Path | None, option(RUNNING, "DIR", "A folder that keeps what is learnt from examples.", rare=True)]
MAX_PIXELS = Annotated[int, option(RUNNING, "N", "Larger photos are refused.", rare=True, min=1)]
TILES = Annotated[
    str,
    option(RUNNING, "auto|N|off", "Look at large photos in tiles too: N along the longer side.", rare=True),
]
BATCH_SIZE = Annotated[int, option(RUNNING, "N", "Photos encoded together on a GPU.", rare=True, min=1)]
THREADS = Annotated[
    int | None,
    option(RUNNING, "N", "CPU threads of each process.", rare=True, default="torch's own", min=1, max=1024),
]
RAY = Annotated[
    str | None, option(RUNNING, "auto|ADDRESS", "Spread the work over a Ray cluster.", rare=True, default="off")
]
WORKERS = Annotated[int | None, option(RUNNING, "N", "With --ray: processes.", rare=True, default="2", min=1)]
GPUS = Annotated[
    float | None,
    option(RUNNING, "N", "With --ray: GPUs of each process; fractions share one.", rare=True, default="0", min=0),
]


# Of what listens, `serve` and `app`.
PORT = Annotated[int, option(SERVER, "N", "0: any that is free.", min=0, max=65535)]
HOST_NAME = Annotated[
    list[str] | None, option(SERVER, "NAME", "Also answer to this name, such as a proxy's. Repeatable.")
]


# Of benchmarks, for `evaluate` and `datasets`.
BENCHMARK = Annotated[
    str,
    typer.Argument(
        metavar="BENCHMARK",
        help="fss, coco, lvis, paco, pascal-part, dis5k, pascal, perseg, or own; for evaluate also davis.",
        show_default=False,
    ),
]
DATA = Annotated[Path, option(EPISODES, "DIR", "The benchmark's folder.", default=False)]
SHOTS = Annotated[int, option(EPISODES, "K", "Supports per episode.", min=1)]
FOLDS = Annotated[str, option(EPISODES, "N,N…", "all, or some of them, such as 0,2 or 0-3.")]
LIMIT = Annotated[int | None, option(EPISODES, "N", "Only the first N episodes of each fold.", default="all", min=1)]
SPLIT = Annotated[
    str | None,
    option(EPISODES, "NAME", "For own: the split in its index; for davis: such as 2016/val.", default="see the docs"),
]
CLASSES = Annotated[str | None, option(EPISODES, "A,B…|FILE", "For own: only these classes.", default="all")]


def settings_from(
    framework: str, preset: str, given: Iterable[str] | None, selector: str | None = None, **named: Any
) -> dict[str, Any]:
    """The settings that --set and options of their own (--steps, --flow) ask for, as `prmagic.load` takes them.

    Raises:
        ValueError: A name or value is not known, or something is said twice.
    """
    from prmagic.loading import parse_settings, settings_of

    refuse_old_values(preset, selector, named.get("flow"))
    settings: dict[str, Any] = {}
    for text in given or ():
        written, _, value = text.partition("=")
        option = f"--{written.strip().replace('_', '-')}"
        if option in OPTIONS.get() and option[2:].replace("-", "_") not in settings_of(framework, preset):
            raise ValueError(f"{written.strip()} is an option of its own: write {option} {value}".rstrip())
        for name, value in parse_settings(framework, preset, [text]).items():
            if name in settings:
                raise ValueError(f"--set {name} is given twice: leave one out")
            settings[name] = value
    chosen = {name: value for name, value in named.items() if value is not None}
    for name in chosen.keys() & settings.keys():
        raise ValueError(f"--{name} and --set {name} are the same setting: leave one out")
    _tell_of_no_effect(settings | chosen, selector, framework, preset)
    return settings | chosen


def _tell_of_no_effect(chosen: Mapping[str, Any], selector: str | None, framework: str, preset: str) -> None:
    """A note on what a flow, or a number of steps, leaves without effect."""
    from prmagic.flow import GRADIENT, USED
    from prmagic.frameworks.base import Framework
    from prmagic.frameworks.registry import variant

    known = variant(framework, preset)
    usual = "full" if chosen.keys() & GRADIENT and known.preset.flow.mode == "spread" else known.preset.flow.mode
    flow = chosen.get("flow", usual)
    used = USED.get(str(flow), USED["full"])
    unused = [name for name in USED["full"] if name not in (*used, "rho")]  # such a flow refuses rho
    once = known.framework.next_prompts is Framework.next_prompts
    if chosen.get("flow") == "none" or chosen.get("steps") == 0:
        why = "flow none" if chosen.get("flow") == "none" else "0 steps"
        idle = [name for name in USED["full"] if chosen.get(name)]
        idle += ["selector"] if selector else []
    elif flow == "spread" and once:  # there is one candidate, unless the selector looks at further masks
        why = f"flow spread with {known.framework.name}"
        idle = [name for name in ("steps", *unused) if name in chosen]
        idle += ["selector"] if selector not in (None, "judge") else []
    else:
        why = f"flow {flow}"
        idle = [name for name in unused if name in chosen]
    if idle:
        say(capitalised(f"{why} leaves {', '.join(idle)} without effect"), "Note:")


def check_root(root: Path | None) -> None:
    """ValueError if --root is given and no folder."""
    if root is not None and not root.is_dir():
        raise ValueError(f"--root {root} is not a folder")


def use_threads(threads: int | None) -> None:
    """Tell torch how many; None for its own number."""
    import torch

    torch.set_num_threads(threads or torch.get_num_threads())


def as_begun(arguments: Mapping[str, Any], out: Path, overwrite: bool) -> dict[str, Any]:
    """Arguments of `prmagic.load`, where "auto" gives way to what the folder's earlier results were made with."""
    begun: Any = None
    if not overwrite:
        with suppress(OSError, ValueError, LookupError, TypeError):  # damaged: told when the folder is opened
            begun = json.loads((out / "run.json").read_text(encoding="utf-8"))["settings"]
    if not isinstance(begun, dict) or "dtype" not in begun:
        return dict(arguments)
    known = {"dtype": begun["dtype"], "runtime": begun.get("runtime", "torch")}
    return {**arguments, **{name: value for name, value in known.items() if arguments[name] == "auto"}}


def cluster_of(ray: str | None, workers: int | None, gpus: float | None) -> Cluster | None:
    """Connect, so that what is wrong with the cluster is told before models are loaded; None without --ray."""
    if ray is None:
        if workers is not None or gpus is not None:
            raise ValueError("--workers and --gpus-per-worker are for --ray: add it, or leave them out")
        return None
    from prmagic.distributed import Cluster, connect

    cluster = Cluster(ray, workers or 2, gpus or 0.0)
    connect(cluster)
    end_on_sigterm()
    return cluster
