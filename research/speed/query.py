"""What a refined query costs beside its neural calls: `python research/speed/query.py`.

The embedded models answer in place of SAM ViT-H and DINOv2 ViT-L: their embeddings, logits and tokens are enlarged to
those sizes, so that points, masks and scores are those of real photos. The time of these calls, their backward passes
included, is left out. One thread, default presets, T = 5; milliseconds of CPU time, medians over the rounds, means over
the photos.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from compare import EIGHT
from machine import about
from prmagic import Reference, Segmenter, stopwatch
from prmagic.backbones.dino import Dino, PatchTokens
from prmagic.backbones.promptable import CPU_CACHE, CallCounts, Decoded, Embedding
from prmagic.backbones.sam import Sam
from prmagic.demo import cases
from prmagic.frameworks.registry import variant
from prmagic.reference import Example
from prmagic.types import ByteArray, Prompts

SETTINGS: dict[str, dict[str, Any]] = {
    "PerSAM-F": {"framework": "persam-f"},
    "Matcher, 8 centres": EIGHT,
    "GF-SAM": {"framework": "gf-sam"},
}
NEURAL = "neural"
Clock = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Size:
    """How many times as large as the embedded SAM's are pixels and cells a side; its channels; the encoder's patches a
    side, and channels."""

    pixels: int
    cells: int
    channels: int
    patches: int
    width: int


SIZES = {"vit-h": Size(4, 2, 256, 37, 1024), "embedded": Size(1, 1, 128, 32, 192)}


class Neural(torch.autograd.Function):
    """A function of features whose own time, forwards and backwards, is booked as neural."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, run: Callable[[Tensor], Tensor], clock: Clock) -> Tensor:
        with clock(NEURAL), torch.enable_grad():
            ctx.leaf, ctx.clock = features.detach().requires_grad_(), clock
            ctx.answer = run(ctx.leaf)
            answer: Tensor = ctx.answer.detach()
            return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        with ctx.clock(NEURAL):
            (found,) = torch.autograd.grad(ctx.answer, ctx.leaf, gradients[0])
            return found, None, None


class EnlargedSam(Sam):
    """The embedded SAM's answers in another SAM's sizes, for one photo at a time."""

    clock: Clock

    def __init__(self, size: Size):
        self.inner, self.size = Sam.load("embedded"), size
        self.name, self.fingerprint = self.inner.name, self.inner.fingerprint
        self.device, self.dtype, self.calls = self.inner.device, self.inner.dtype, CallCounts()
        self.input_size = size.pixels * self.inner.input_size
        self.patch = size.pixels * self.inner.patch // size.cells
        self.decode_batch = max(2, CPU_CACHE // (4 * size.channels * (self.input_size // self.patch) ** 2))

    def encode(self, images: Iterable[ByteArray]) -> list[Embedding]:
        with self.clock(NEURAL):
            photos = list(images)
            self.calls.encodes += len(photos)
            each = [self._larger(inner.features) for inner in self.inner.encode(photos)]
            times = self.size.channels // each[0].shape[1]
            frames = [self.frame(photo.shape[:2]) for photo in photos]
            return [Embedding(e.repeat(1, times, 1, 1), frame) for e, frame in zip(each, frames, strict=True)]

    def decode(
        self, embeddings: Embedding | Sequence[Embedding], prompts: Sequence[Prompts], **options: Any
    ) -> Decoded:  # fmt: skip
        embedding = embeddings if isinstance(embeddings, Embedding) else embeddings[0]
        found: list[Decoded] = []

        def run(features: Tensor) -> Tensor:
            found.append(self._answers(embedding, features, prompts, options))
            return found[0].logits

        if torch.is_grad_enabled() and embedding.features.requires_grad:
            self.calls.gradient_decodes += len(prompts)
            logits: Tensor = Neural.apply(embedding.features, run, self.clock)  # type: ignore[no-untyped-call]
        else:
            with self.clock(NEURAL), torch.no_grad():
                logits = run(embedding.features)
        self.calls.decodes += len(prompts)
        return Decoded(logits, found[0].predicted_iou.detach())

    def _answers(self, embedding: Embedding, features: Tensor, prompts: Sequence[Prompts], options: Any) -> Decoded:
        cells, channels = self.size.cells, self.inner._position.shape[1]
        inner = Embedding(F.avg_pool2d(features[:, :channels], cells), self.inner.frame(embedding.frame.photo))
        found = self.inner.decode(inner, [self._smaller(each) for each in prompts], **options)
        return Decoded(F.interpolate(found.logits, scale_factor=cells, mode="bilinear"), found.predicted_iou)

    def _larger(self, features: Tensor) -> Tensor:
        """Smooth, so that no two cells are equal; the mean of each block is what it was."""
        smooth = F.interpolate(features, scale_factor=self.size.cells, mode="bilinear")
        return smooth + F.interpolate(features - F.avg_pool2d(smooth, self.size.cells), scale_factor=self.size.cells)

    def _smaller(self, prompts: Prompts) -> Prompts:
        if prompts.mask_logits is None:
            return prompts
        return replace(prompts, mask_logits=F.avg_pool2d(prompts.mask_logits[None], self.size.cells)[0])


class EnlargedDino(Dino):
    """The embedded encoder's tokens on another encoder's grid, and as wide."""

    clock: Clock

    def __init__(self, size: Size):
        self.inner = Dino.load("embedded")
        self.name, self.fingerprint, self.calls = self.inner.name, self.inner.fingerprint, self.inner.calls
        self.device, self.dtype, self.patch = self.inner.device, self.inner.dtype, 14
        self.grid = (size.patches, size.patches)
        self.input_size = (14 * size.patches, 14 * size.patches)
        narrow = self.inner.model.config.hidden_size
        self.turned = torch.linalg.qr(torch.randn(size.width, narrow, generator=torch.Generator().manual_seed(0)))[0]

    def encode(self, images: Iterable[ByteArray]) -> list[PatchTokens]:
        with self.clock(NEURAL), torch.no_grad():
            found = self.inner.encode(images)
            return [PatchTokens(self._enlarged(each.before_norm), self._enlarged(each.after_norm)) for each in found]

    def _enlarged(self, tokens: Tensor) -> Tensor:
        cells = tokens.T.reshape(1, -1, *self.inner.grid)
        enlarged: Tensor = F.interpolate(cells, self.grid, mode="bilinear")[0].flatten(1).T @ self.turned.T
        return enlarged


def build(name: str, size: Size) -> Segmenter:
    """A segmenter of the default preset on enlarged models; what is not neural is timed by part."""
    options = dict(SETTINGS[name])
    chosen = variant(options.pop("framework"), "default")
    sam, encoder = EnlargedSam(size), EnlargedDino(size) if chosen.framework.uses_encoder else None
    given = chosen.preset.options if not options else chosen.framework.Options(**options)
    framework = chosen.framework.build(sam, encoder, given)
    sam.clock = framework.stopwatch
    if encoder is not None:
        encoder.clock = framework.stopwatch
    for method in ("sample_prompts", "decode", "logits"):
        setattr(framework, method, staged(framework.stopwatch, method, getattr(framework, method)))
    return Segmenter(framework, chosen.preset.flow, chosen.preset.selector)


def staged(clock: Clock, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        with clock(stage):
            return work(*arguments)

    return run


def photos(side: int, count: int) -> list[tuple[Example, ByteArray]]:
    """Examples and queries of the demo, the queries with this longest side."""
    found = []
    for case in cases()[:: len(cases()) // count][:count]:
        image = Image.fromarray(case.query)
        scale = side / max(image.size)
        size = round(image.width * scale), round(image.height * scale)
        found.append((Example(case.support, case.support_mask), np.array(image.resize(size))))
    return found


def measure(found: Segmenter, side: int, count: int, rounds: int) -> dict[str, float]:
    """Milliseconds by stage; "total" is without the neural calls, "rest" what no stage has."""
    stages: dict[str, list[float]] = defaultdict(list)
    for example, photo in photos(side, count):
        reference = found.encode_examples([example])
        runs = [milliseconds(found, photo, reference) for _ in range(rounds + 1)][1:]  # the first warms up
        for stage in set().union(*runs):
            stages[stage].append(median(run.get(stage, 0.0) for run in runs))
    return {stage: sum(each) / count for stage, each in stages.items()}


def milliseconds(found: Segmenter, photo: ByteArray, reference: Reference) -> dict[str, float]:
    """Of one query."""
    start = stopwatch._now()
    result = found.segment(photo, reference, "photo")
    spent = 1000 * (stopwatch._now() - start)
    stages = {stage: 1000 * seconds for stage, seconds in result.seconds.items()}
    return {**stages, "total": spent - stages[NEURAL], "rest": spent - sum(stages.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="vit-h", choices=SIZES)
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=SETTINGS, metavar="SETTING")
    parser.add_argument("--side", type=int, default=1024, help="longest side of the photos")
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="also the N costliest functions of a query")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stopwatch._now = time.process_time  # other work on the machine does not count
    print(", ".join(f"{name} {value}" for name, value in about().items()))
    print("\n| setting | total, ms | by part |\n|---|---|---|")
    for name in arguments.only:
        found = build(name, SIZES[arguments.size])
        spent = measure(found, arguments.side, arguments.photos, arguments.rounds)
        total = spent.pop("total")
        parts = sorted((-ms, stage) for stage, ms in spent.items() if stage != NEURAL and ms > 0.05)
        print(f"| {name} | {total:.1f} | {', '.join(f'{stage} {-ms:.1f}' for ms, stage in parts)} |", flush=True)
        if arguments.profile:
            ((example, photo),) = photos(arguments.side, 1)
            reference = found.encode_examples([example])
            profile = cProfile.Profile()
            profile.runcall(found.segment, photo, reference, "photo")
            pstats.Stats(profile).sort_stats("tottime").print_stats(arguments.profile)


if __name__ == "__main__":
    main()
