"""What the gradient buys: the same episodes with every flow, `python perf/flows.py --data DATA --split test --out RUN`.

DATA has an index.jsonl with a line {"image", "mask", "mask_value", "class", "split"} per photo and class. Episodes are
drawn per class from the seed alone. One JSON line per episode and flow goes to RUN/records.jsonl, and the table is
computed from these lines; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from prmagic import Segmenter, Support
from prmagic.backbones.adapters import load_promptable
from prmagic.backbones.dino import Dino
from prmagic.evaluation.metrics import Areas, areas, class_miou, empty_areas, episode_miou, full_areas, interval
from prmagic.flow import FLOW_MODES
from prmagic.frameworks import FRAMEWORKS, Framework, Matcher
from prmagic.images import load_mask
from prmagic.presets import PRESETS
from prmagic.select import SELECTORS


@dataclass(frozen=True)
class Episode:
    """K supports, one query, one class; lines of the index."""

    name: str
    supports: list[dict[str, Any]]
    query: dict[str, Any]


def episodes(data: Path, split: str, per_class: int, seed: int, shots: int = 1, photos: int = 2) -> list[Episode]:
    """`split`: "test", or "dev" for the classes of the train split that are held out for choices.

    Only classes with at least `photos` photos, and with enough for the shots. The queries, and the first supports, are
    the same whatever the number of shots."""
    lines = [json.loads(line) for line in (data / "index.jsonl").read_text().splitlines()]
    dev = set((data / "dev_classes.txt").read_text().split("\n")) - {""}
    by_class: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if line["class"] and (line["split"] == "test" if split == "test" else line["class"] in dev):
            by_class[line["class"]].append(line)
    found = []
    for index, (name, lines) in enumerate(sorted(by_class.items())):
        rng = np.random.default_rng((seed, index))
        for number in range(per_class if len(lines) >= max(photos, shots + 1) else 0):
            query, first = rng.choice(len(lines), 2, replace=False)
            rest = [other for other in range(len(lines)) if other not in (query, first)]
            more = np.random.default_rng((seed, index, number)).permutation(rest)[: shots - 1]
            found.append(Episode(f"{name}/{number}", [lines[i] for i in (first, *more)], lines[query]))
    return found


def remembering(framework: Framework) -> Framework:
    """The flows look at the same photo, mostly with the same prompts and at the same masks: what was encoded and
    decoded for one serves the others."""
    encode, describe, decode = framework.encode_queries, framework.describe, framework.decode
    queries: dict[tuple[Any, ...], Any] = {}
    vectors: dict[tuple[Any, ...], Any] = {}
    answers: dict[tuple[Any, ...], Any] = {}

    def encode_queries(images):
        keys = [(image.shape, image.tobytes()) for image in images]
        if not queries.keys() >= set(keys):
            queries.clear()
            vectors.clear()
            answers.clear()
            queries.update(zip(keys, encode(images), strict=True))
        return [queries[key] for key in keys]

    def described(images, masks):
        keys = [(i.shape, i.tobytes(), m.tobytes()) for i, m in zip(images, masks, strict=True)]
        new = {key: pair for key, pair in zip(keys, zip(images, masks, strict=True), strict=True) if key not in vectors}
        if new:
            vectors.update(zip(new, describe(*zip(*new.values(), strict=True)), strict=True))
        return torch.stack([vectors[key] for key in keys])

    def decoded(query, reference, prompts):
        if getattr(prompts, "moved", None) is not None:  # scored by similarities that differ from step to step
            return decode(query, reference, prompts)
        asked = (prompts, *getattr(prompts, "subsets", ()))
        matched = getattr(prompts, "matched", prompts.points).tobytes()
        key = (query, reference, matched, *(p.points.tobytes() for p in asked))
        if key not in answers:
            answers[key] = decode(query, reference, prompts)
        return answers[key]

    framework.encode_queries, framework.describe, framework.decode = encode_queries, described, decoded
    return framework


def truth(data: Path, line: dict[str, Any]) -> np.ndarray:
    return load_mask(data / line["mask"], value=line["mask_value"])


def run(data: Path, todo: list[Episode], segmenters: dict[str, Segmenter], records: Path) -> None:
    done = {(r["episode"], r["flow"]) for r in _read(records)}
    with records.open("a") as file:
        for episode in track(todo, "Episodes"):
            waiting = {flow: s for flow, s in segmenters.items() if (episode.name, flow) not in done}
            if not waiting:
                continue
            supports = [
                Support(data / line["image"], data / line["mask"], line["mask_value"]) for line in episode.supports
            ]
            reference = next(iter(waiting.values())).encode_support(supports)
            expected = truth(data, episode.query)
            for flow, segmenter in waiting.items():
                result = segmenter.segment(data / episode.query["image"], reference, name=episode.name)
                found = [areas(candidate.mask, expected) for candidate in result.candidates]
                record = {
                    "episode": episode.name, "class": episode.query["class"], "flow": flow, "chosen": result.chosen,
                    "scores": [None if not np.isfinite(s) else s for s in result.scores],
                    "areas": [area.tolist() for area in found],
                    "pixels": expected.size, "object": int(expected.sum()),
                    "distinct": len({candidate.mask.tobytes() for candidate in result.candidates}),
                }  # fmt: skip
                file.write(json.dumps(record) + "\n")
                file.flush()


def check_settings(path: Path, segmenters: dict[str, Segmenter], arguments: argparse.Namespace) -> None:
    """Records made with other settings or weights must not be mixed into one table."""
    settings = {mode: segmenter.settings for mode, segmenter in segmenters.items()}
    names = ("split", "per_class", "shots", "photos")
    settings["episodes"] = {name: getattr(arguments, name) for name in names}
    known = json.loads(path.read_text()) if path.exists() else {}
    for name, value in json.loads(json.dumps(settings)).items():
        if known.setdefault(name, value) != value:
            raise SystemExit(f"{path.parent} holds records made with other settings; choose another --out")
    path.write_text(json.dumps(known, indent=2))


def report(records: Path) -> None:
    """Print the table of all flows from the records."""
    by_flow: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in _read(records):
        by_flow[record["flow"]].append(record)
    first = next(iter(by_flow.values()))
    print(f"\n{len(first)} episodes, {len({r['class'] for r in first})} classes\n")
    print("| | episode-mIoU | class-mIoU | T − B, episode-mIoU, 95 % interval | distinct masks of 6 |")
    print("|---|---|---|---|---|")
    for floor, scored in (("empty", empty_areas), ("full", full_areas)):
        found = scored([r["pixels"] for r in first], [r["object"] for r in first])
        _row(f"floor: {floor} mask", found, [r["class"] for r in first])
    for flow, lines in by_flow.items():
        candidates, classes = np.array([r["areas"] for r in lines]), [r["class"] for r in lines]  # (episodes, T + 1, 4)
        each = np.arange(len(lines))
        baseline, top = candidates[:, 0], candidates[each, [r["chosen"] for r in lines]]
        if flow == "none":
            _row("none (B, the plain framework)", baseline, classes)
            continue
        gain = episode_miou(top) - episode_miou(baseline)
        low, high = interval(gain)
        extra = f"{100 * gain.mean():+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
        _row(f"{flow}: T", top, classes, extra, f"{np.mean([r['distinct'] for r in lines]):.1f}")
        _row(f"{flow}: O", candidates[each, episode_miou(candidates).argmax(1)], classes)


def _row(title: str, found: Areas, classes: list[str], extra: str = "", distinct: str = "") -> None:
    episode, pooled = episode_miou(found).mean(), class_miou(found, classes)
    print(f"| {title} | {100 * episode:.2f} | {100 * pooled:.2f} | {extra} | {distinct} |")


def _read(records: Path) -> Iterator[dict[str, Any]]:
    if records.exists():
        yield from (json.loads(line) for line in records.read_text().splitlines(keepends=True) if line.endswith("\n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--flows", nargs="+", choices=FLOW_MODES, default=["none", "resample", "noise", "drift", "full"]
    )
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--photos", type=int, default=2, help="leave out classes with fewer photos than this")
    parser.add_argument("--framework", choices=FRAMEWORKS, default="persam-f")
    parser.add_argument("--sam", default="embedded")
    parser.add_argument("--encoder", default="embedded", help="Matcher's")
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=JSON", help="settings of the framework to replace"
    )
    parser.add_argument("--eta", type=float)
    parser.add_argument("--selector", choices=SELECTORS, help="instead of eq. (4)")
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    changes = {name: json.loads(value) for name, _, value in (item.partition("=") for item in arguments.set)}
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    if preset.persam is None and arguments.framework != "matcher":
        parser.error(f"preset {arguments.preset} is Matcher's own")
    built, sam = FRAMEWORKS[arguments.framework], load_promptable(arguments.sam)
    framework = (
        built(sam, Dino.load(arguments.encoder), replace(preset.matcher, **changes))
        if issubclass(built, Matcher)
        else built(sam, replace(preset.persam, **changes))
    )
    framework = remembering(framework)
    flow = preset.flow or framework.flow
    if arguments.eta is not None:
        flow = replace(flow.published, eta=arguments.eta)
    judge = SELECTORS[arguments.selector] if arguments.selector else preset.selector or SELECTORS["reencode"]
    segmenters = {mode: Segmenter(framework, flow.in_mode(mode), judge, arguments.seed) for mode in arguments.flows}
    arguments.out.mkdir(parents=True, exist_ok=True)
    check_settings(arguments.out / "settings.json", segmenters, arguments)
    todo = episodes(
        arguments.data, arguments.split, arguments.per_class, arguments.seed, arguments.shots, arguments.photos
    )
    run(arguments.data, todo, segmenters, arguments.out / "records.jsonl")
    report(arguments.out / "records.jsonl")


if __name__ == "__main__":
    main()
