"""Train the embedded SAM: `python research/training/embedded_sam.py --config CONFIG --data DATA --out RUN`.

A transformers SamModel, small enough for a laptop's CPU, trained as SAM was (arXiv 2304.02643, appendix A): points or
a box, then corrections with points from the error region and the previous mask; three masks of which only the best is
trained; an IoU head; focal and dice loss. Added to it, because the model exists to be prompted by similarity: pictures
of one class are matched: the mean feature under the mask of one must be nearest to features inside the mask of the
other. What it is trained on, for how long and from what is in the configuration, one file per model in
`research/training/configs/`.

Interrupt it at any time; the same command goes on where it stopped. `--export FOLDER` writes the weights as they are.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

from attention import use_plain_attention
from optimizer import Optimizer, precision
from prmagic.backbones.sam import Sam
from scenes import Sampler, Sources, load_batches, load_photos, load_sources, render_scenes
from schedule import trapezoid

PIXEL_MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
PIXEL_STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)


@dataclass(frozen=True)
class Stage:
    size: int  # input pixels
    steps: int
    lr: float  # between warm-up and cool-down
    pairs: int  # couples of pictures of one class in a batch
    singles: int  # further pictures in a batch
    cooldown: float = 0.2  # share of the steps at the end in which the rate falls
    masks: int = 2  # targets per photo
    rounds: int = 4  # of prompting at most; two at least
    outlines: float = 0.0  # weight of the loss along the outlines of the target and of the guess
    balanced_steps: int = 0  # class-balanced BCE before focal loss, which collapses to empty masks at the start


@dataclass(frozen=True)
class Recipe:
    sources: Sources
    stages: tuple[Stage, ...]
    start: str | None = None  # weights to start from, as `prmagic segment --sam` takes them; None: from scratch


def load_recipe(path: Path) -> Recipe:
    values = json.loads(path.read_text())
    stages = tuple(Stage(**stage) for stage in values["stages"])
    return Recipe(load_sources(values["sources"]), stages, values["start"])


WIDTH, DEPTH, HEADS, PATCH, FEATURES = 192, 8, 3, 8, 128
TEMPERATURE = 0.1  # of the matching loss
SEED = 0
VALIDATE_EVERY = 250  # steps
CHECKPOINT_EVERY = 240  # seconds


def build_model(size: int) -> SamModel:
    """A small SamModel for size × size pixels, initialised so that it can be trained from scratch."""
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=WIDTH, output_channels=FEATURES, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
            image_size=size, patch_size=PATCH, use_rel_pos=False, window_size=8, global_attn_indexes=[2, 5, 7],
            mlp_dim=4 * WIDTH, num_pos_feats=FEATURES // 2, scale=1,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=FEATURES, image_size=size, patch_size=PATCH, image_embedding_size=size // PATCH
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=FEATURES, mlp_dim=4 * FEATURES, num_attention_heads=4, iou_head_hidden_dim=FEATURES,
            layer_norm_eps=1e-5,
        ),
    )  # fmt: skip
    model = SamModel(config)
    for module in model.modules():
        # transformers draws every weight with 0.02; the decoder's output then stays constant for hundreds of steps.
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    nn.init.normal_(model.vision_encoder.pos_embed, std=0.02)
    # transformers starts the positional encoding with a deviation of width / 2; SAM's own is a unit Gaussian.
    nn.init.normal_(model.shared_image_embedding.positional_embedding)
    model.prompt_encoder.shared_embedding.positional_embedding = model.shared_image_embedding.positional_embedding
    return model


def grow(small: SamModel, size: int) -> SamModel:
    """The same weights for larger pictures: only the table of absolute positions depends on the size."""
    model = build_model(size)
    weights = small.state_dict()
    table = weights["vision_encoder.pos_embed"].permute(0, 3, 1, 2)
    grid = (size // PATCH, size // PATCH)
    weights["vision_encoder.pos_embed"] = F.interpolate(table, grid, mode="bicubic").permute(0, 2, 3, 1)
    model.load_state_dict(weights)
    return model


@dataclass
class Batch:
    pixels: Tensor  # (B, 3, S, S) normalised, zero outside the photo
    masks: Tensor  # (B, M, S, S) bool
    valid: Tensor  # (B, S / PATCH, S / PATCH) bool, positions of which a part lies in the photo
    void: Tensor  # (B, S, S) bool, where the masks do not count


def collate(drawn: tuple[Tensor, Tensor, Tensor, Tensor], device: torch.device) -> Batch:
    """What a Sampler draws, on the device."""
    images, masks, extents, void = (each.to(device, non_blocking=True) for each in drawn)
    size = images.shape[1]

    def inside(side: int, limits: Tensor) -> Tensor:
        places = torch.arange(side, device=device)
        return (places[None, :, None] < limits[:, :1, None]) & (places[None, None] < limits[:, 1:, None])

    pixels = (images.permute(0, 3, 1, 2).float() - PIXEL_MEAN.to(device)) / PIXEL_STD.to(device)
    valid = inside(size // PATCH, -(-extents // PATCH))
    return Batch(pixels * inside(size, extents)[:, None], masks, valid, void)


def decode(
    model: SamModel, features: Tensor, points: Tensor, labels: Tensor, boxes: Tensor | None, masks: Tensor | None,
    multimask: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One prompt set for each of the N rows of features; logits (N, 3 or 1, s, s) and predicted IoU (N, 3 or 1)."""
    sparse, dense = model.prompt_encoder(
        points[:, None], labels[:, None], None if boxes is None else boxes[:, None], masks
    )
    position = model.get_image_wide_positional_embeddings().expand(len(features), -1, -1, -1)
    logits, iou = model.mask_decoder(features, position, sparse, dense, multimask_output=multimask)
    return logits[:, 0].float(), iou[:, 0].float()


def random_point(region: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 2) float x, y: one uniform position inside each bool region (N, H, W); anywhere for an empty one."""
    width = region.shape[2]
    flat = region.flatten(1)
    flat = flat | ~flat.any(1, keepdim=True)
    rank = flat.cumsum(1, dtype=torch.int32)  # the k-th position inside is the first of rank k; a multinomial is slow
    share = torch.rand(len(flat), generator=generator).to(region.device, non_blocking=True)
    wanted = 1 + (share * rank[:, -1]).int().clamp(max=rank[:, -1] - 1)
    index = torch.searchsorted(rank, wanted[:, None])[:, 0]
    return torch.stack([index % width, index // width], dim=1).float()


def bounding_box(mask: Tensor) -> Tensor:
    """(N, 4) float x0, y0, x1, y1 of bool masks (N, H, W); an empty mask gives the whole picture."""
    columns, rows = mask.any(1).int(), mask.any(2).int()
    # argmax finds the first of equals.
    first, last = ([each.argmax(1) for each in (columns, rows)], [each.flip(1).argmax(1) for each in (columns, rows)])
    width, height = columns.shape[1], rows.shape[1]
    return torch.stack([*first, width - 1 - last[0], height - 1 - last[1]], 1).float()


# The losses of logits (..., H, W) with a 0/1 truth, over the last two axes, where `known` (0/1) says that it counts.


def soft_dice(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    probability, truth = logits.sigmoid() * known, truth * known
    overlap = (probability * truth).sum((-2, -1))
    return 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + truth.sum((-2, -1)) + 1)


def focal(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = logits.sigmoid()
    wrong = torch.where(truth > 0.5, 1 - probability, probability)
    return (wrong**2 * cross_entropy * known).mean((-2, -1))


def balanced(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    inside, outside = truth * known, (1 - truth) * known
    return sum((cross_entropy * each).sum((-2, -1)) / each.sum((-2, -1)).clamp(min=1) for each in (inside, outside)) / 2


def outline_loss(logits: Tensor, cover: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy with the share of each cell that the target covers, where the target or the guess has its outline:
    it moves outlines by less than a cell, and a crumb costs as much as an outline of its length."""
    with torch.no_grad():
        weight = (outline(cover) | outline((logits > 0).float())) * known
    cross_entropy = F.binary_cross_entropy_with_logits(logits, cover.expand_as(logits), reduction="none")
    return (cross_entropy * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp(min=1)


def outline(mask: Tensor) -> Tensor:
    """(N, M, H, W) bool: whether the cells around are of both kinds, for masks with values in 0…1."""
    return (F.max_pool2d(mask, 3, 1, 1) > 0.5) & (F.max_pool2d(1 - mask, 3, 1, 1) > 0.5)


def overlap(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """IoU of logits > 0."""
    predicted, wanted = (logits > 0) & (known > 0.5), (truth > 0.5) & (known > 0.5)
    return (predicted & wanted).sum((-2, -1)) / (predicted | wanted).sum((-2, -1)).clamp(min=1)


def prompt_loss(
    model: SamModel, features: Tensor, batch: Batch, generator: torch.Generator, stage: Stage, warm: bool
) -> Tensor:
    """Rounds of prompting: points or a box, then corrections with the previous mask."""
    per_image, size = batch.masks.shape[1:3]
    truth, void = batch.masks.flatten(0, 1), batch.void.repeat_interleave(per_image, 0)
    features = features.repeat_interleave(per_image, 0)
    n = len(truth)
    cover, unknown = (F.interpolate(each[:, None].float(), scale_factor=0.5, mode="area") for each in (truth, void))
    small, known = cover.gt(0.5).float(), unknown.eq(0).float()
    points = random_point(truth, generator)[:, None]
    labels = torch.ones(n, 1, dtype=torch.long, device=truth.device)
    if torch.rand((), generator=generator) < 0.25:  # as PerSAM prompts: with a point of the background, too
        points = torch.cat([points, random_point(~truth & ~void, generator)[:, None]], 1)
        labels = torch.cat([labels, torch.zeros_like(labels)], 1)
    boxes = None
    if torch.rand((), generator=generator) < 0.4:
        boxes = bounding_box(truth)
        extent = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        shift = torch.randn(n, 4, generator=generator).clamp(-2, 2).to(truth.device, non_blocking=True)
        boxes = (boxes + 0.1 * extent * shift).clamp(0, size - 1)
        if torch.rand((), generator=generator) < 0.5:  # the box alone: its points are ones that the encoder ignores
            labels = torch.full_like(labels, -10)
    previous, total = None, torch.zeros((), device=truth.device)
    rounds = int(torch.randint(2, stage.rounds + 1, (), generator=generator))
    for round_index in range(rounds):
        multimask = bool(torch.rand((), generator=generator) < (0.85 if round_index == 0 and boxes is None else 0.6))
        logits, iou = decode(model, features, points, labels, boxes, previous, multimask)
        target = small.expand_as(logits)
        losses = balanced(logits, target, known) if warm else 20 * focal(logits, target, known)
        losses = losses + soft_dice(logits, target, known)
        if stage.outlines:
            losses = losses + stage.outlines * outline_loss(logits, cover, known)
        loss, best = losses.min(1)
        with torch.no_grad():
            actual = overlap(logits, target, known)
        total = total + loss.mean() + 2 * (iou - actual).pow(2).mean()
        if round_index == rounds - 1:
            break
        with torch.no_grad():
            chosen = iou.argmax(1) if round_index else best
            previous = logits[torch.arange(n, device=truth.device), chosen][:, None].detach()
            guess = F.interpolate(previous, (size, size), mode="bilinear")[:, 0] > 0
            missed, spurious = truth & ~guess & ~void, guess & ~truth & ~void
            positive = missed.sum((1, 2)) >= spurious.sum((1, 2))
            region = torch.where(positive[:, None, None], missed, spurious)
            points = torch.cat([points, random_point(region, generator)[:, None]], 1)
            labels = torch.cat([labels, positive.long()[:, None]], 1)
            previous = previous.clamp(-32, 32)
            if torch.rand((), generator=generator) < 0.3:  # as in PerSAM's cascade: the box of the model's own mask
                boxes = bounding_box(guess)
    return total / rounds


def matching_scores(features: Tensor, batch: Batch, pairs: int) -> tuple[Tensor, Tensor]:
    """Cosine maps (2 × pairs, g²) of each photo with the mean feature under its partner's mask; the masks there."""
    grid = features.shape[-1]
    cover = F.adaptive_avg_pool2d(batch.masks[: 2 * pairs, :1].float(), grid)[:, 0].flatten(1)
    weights = torch.where(cover.amax(1, keepdim=True) > 0.5, (cover > 0.5).float(), cover)
    tokens = F.normalize(features[: 2 * pairs].float().flatten(2), dim=1)
    target = torch.einsum("bcp,bp->bc", tokens, weights / weights.sum(1, keepdim=True).clamp(min=1e-6))
    partner = torch.arange(2 * pairs, device=features.device).view(-1, 2).flip(1).flatten()
    cosine = torch.einsum("bc,bcp->bp", F.normalize(target[partner], dim=1), tokens)
    return cosine.masked_fill(~batch.valid[: 2 * pairs].flatten(1), -1e4), cover


def matching_loss(features: Tensor, batch: Batch, pairs: int) -> Tensor:
    """Minus the log of the probability mass that the soft-max of the partner's cosine map puts inside the mask."""
    cosine, cover = matching_scores(features, batch, pairs)
    log_probability = (cosine / TEMPERATURE).log_softmax(1)
    usable = cover.sum(1) > 0
    inside = (log_probability + cover.clamp(min=1e-6).log()).logsumexp(1)
    # Every inside position should be a match, not only the best one: the mean of the logs beside the log of the sum.
    spread = (log_probability * cover).sum(1) / cover.sum(1).clamp(min=1e-6) + cover.sum(1).clamp(min=1e-6).log()
    return -((inside + 0.3 * spread) * usable).sum() / usable.sum().clamp(min=1)


@torch.no_grad()
def validate(model: SamModel, sampler: Sampler, batches: int = 12) -> dict[str, float]:
    """On the dev classes: IoU of one random point (chosen by the IoU head; best of three), with a box; matching."""
    generator, size, device = torch.Generator().manual_seed(1), sampler.size, next(model.parameters()).device
    sums: dict[str, list[float]] = {"point": [], "best": [], "box": [], "match": []}
    for index in range(batches):
        batch = collate(sampler[10**6 + index], device)
        with precision(device):
            features = model.vision_encoder(batch.pixels).last_hidden_state.float()
        truth = batch.masks[:, 0]
        points = random_point(truth, generator)[:, None]
        ones = torch.ones(len(truth), 1, dtype=torch.long, device=device)
        for name, boxes in (("point", None), ("box", bounding_box(truth))):
            logits, iou = decode(model, features, points, ones, boxes, None, True)
            full = F.interpolate(logits, (size, size), mode="bilinear")
            score = overlap(full, truth[:, None].expand(-1, 3, -1, -1).float(), (~batch.void[:, None]).float())
            sums[name] += score.gather(1, iou.argmax(1, keepdim=True))[:, 0].tolist()
            if boxes is None:
                sums["best"] += score.amax(1).tolist()
        cosine, cover = matching_scores(features, batch, sampler.pairs)
        sums["match"] += (cover.gather(1, cosine.argmax(1, keepdim=True))[:, 0] > 0.5).float().tolist()
    return {name: round(float(np.mean(values)), 4) for name, values in sums.items()}


def initial_model(recipe: Recipe) -> SamModel:
    torch.manual_seed(SEED)
    if recipe.start is None:
        return build_model(recipe.stages[0].size)
    return grow(Sam.load(recipe.start).model.float(), recipe.stages[0].size)


def train(recipe: Recipe, data: Sequence[Path], out: Path, device: str = "cpu", workers: int = 1) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if finished(recipe, out):
        export_checkpoint(recipe, out, out / "embedded_sam")
        return
    photos, dev = load_photos(data, recipe.sources, dev=False), load_photos(data, dev=True)
    print(f"{len(photos)} photos to train on, {len(dev)} with dev classes", flush=True)
    scenes = render_scenes(recipe.sources, workers)
    model = initial_model(recipe).to(device)
    for number, stage in enumerate(recipe.stages):
        weights, last = out / f"stage{number}.pt", number == len(recipe.stages) - 1
        if number:
            model = grow(model, stage.size).to(device)
        if weights.exists() and not last:
            model.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
            continue
        sampler = Sampler(
            photos, scenes, recipe.sources, stage.size, stage.masks, stage.pairs, stage.singles, SEED + number
        )
        judge = Sampler(dev, [], recipe.sources, stage.size, 1, pairs=6, singles=0, seed=SEED, augment=False)
        model = train_stage(model, stage, number, sampler, judge, out, workers)
        if not last:  # whose checkpoint stays, so that it can be made longer
            torch.save(model.state_dict(), weights)
    export(model, out / "embedded_sam", recipe)


def finished(recipe: Recipe, out: Path) -> bool:
    """Whether the last step of the last stage has been made."""
    if not (out / "checkpoint.pt").exists():
        return False
    saved = torch.load(out / "checkpoint.pt", map_location="cpu", weights_only=True)
    return (saved["stage"], saved["step"]) == (len(recipe.stages) - 1, recipe.stages[-1].steps)


def train_stage(
    model: SamModel, stage: Stage, number: int, sampler: Sampler, judge: Sampler, out: Path, workers: int
) -> SamModel:
    """Returns the running average of the weights, which is what is validated and kept."""
    device = next(model.parameters()).device
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = Optimizer(model)
    checkpoint, start = out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if saved["stage"] == number:
            model.load_state_dict(saved["model"])
            average.load_state_dict(saved["average"])
            optimizer.load_state_dict(saved["optimizer"])
            start = saved["step"]
    names = ("prompt", "match")
    running, since, clock, saved_at = torch.zeros(2, device=device), start, time.time(), time.time()
    with (out / "log.jsonl").open("a") as log:
        for step, drawn in enumerate(load_batches(sampler, range(start, stage.steps), workers, device), start):
            batch = collate(drawn, device)
            generator = torch.Generator().manual_seed(SEED * 10**6 + number * 10**5 + step)
            with precision(device):
                features = model.vision_encoder(batch.pixels).last_hidden_state.float()
                prompts = prompt_loss(model, features, batch, generator, stage, step < stage.balanced_steps)
            matching = matching_loss(features, batch, stage.pairs)
            (prompts + 0.5 * matching).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(trapezoid(step, stage.steps, stage.lr, 300, stage.cooldown))
            with torch.no_grad():
                keep = min(0.999, (1 + step) / (20 + step))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
            running += torch.stack([prompts.detach(), matching.detach()])
            last = step + 1 == stage.steps
            if last or time.time() - saved_at > CHECKPOINT_EVERY:
                state = {"stage": number, "step": step + 1, "model": model.state_dict()}
                state |= {"average": average.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
                saved_at = time.time()
            if last or (step + 1) % min(50, VALIDATE_EVERY) == 0:
                means = (running / (step + 1 - since)).tolist()
                record = {"stage": number, "step": step + 1, "seconds": round(time.time() - clock, 1)}
                record |= {name: round(value, 4) for name, value in zip(names, means, strict=True)}
                if last or (step + 1) % VALIDATE_EVERY == 0:
                    record["dev"] = validate(average, judge)
                print(json.dumps(record), flush=True)
                log.write(json.dumps(record) + "\n")
                log.flush()
                running, since, clock = torch.zeros_like(running), step + 1, time.time()
    return average


def export(model: SamModel, folder: Path, recipe: Recipe) -> None:
    """Half precision, in the format that `SamModel.from_pretrained` reads."""
    model.cpu().half().save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")


def export_checkpoint(recipe: Recipe, out: Path, folder: Path) -> None:
    """The running average of the weights, at the size of the last stage; of an unfinished run, too."""
    saved = torch.load(out / "checkpoint.pt", map_location="cpu", weights_only=True)
    model = build_model(recipe.stages[saved["stage"]].size)
    model.load_state_dict(saved["average"])
    export(grow(model, recipe.stages[-1].size), folder, recipe)
    print(f"stage {saved['stage']}, step {saved['step']}: {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="a file of research/training/configs/")
    parser.add_argument("--data", type=Path, nargs="+", help="folders with index.jsonl and instances.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, log and the finished weights go here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1), help="drawing samples")
    parser.add_argument("--export", type=Path, help="only write the last checkpoint's weights into this folder")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.config)
    if arguments.export is not None:
        export_checkpoint(recipe, arguments.out, arguments.export)
    elif arguments.data is None:
        parser.error("training needs --data")
    else:
        if arguments.device == "cpu":
            use_plain_attention()
        train(recipe, arguments.data, arguments.out, arguments.device, arguments.workers)


if __name__ == "__main__":
    main()
