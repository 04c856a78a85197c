"""Train the embedded encoder, a small DINOv2:
`python research/training/embedded_encoder.py --config CONFIG --data DATA --out RUN [--sam FOLDER]`.

It exists so that Matcher can compare patches of different photos, and is trained for just that, on the tokens before
the final norm that Matcher looks at. Three contrastive losses, all over patches:

- two pictures of one class, or of one species of the synthetic scenes: a patch under the mask of one should find its
  nearest patches under the mask of the other;
- one prototype per class: a labelled patch should be nearest to that of its own class;
- two crops of one photo, coloured differently: a patch should find itself again (self-supervised, on all photos).

It starts from the image encoder of an embedded SAM that was trained on the same sources, or goes on from an encoder
that began so; no other weights enter.
What it is trained on, and for how long, is in the configuration, one file per model in `research/training/configs/`.
Interrupt it at any time; the same command goes on where it stopped. `--export FOLDER` writes the weights as they are.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Dinov2Config, Dinov2Model

from attention import use_plain_attention
from optimizer import Optimizer, precision
from prmagic.backbones.dino import Dino
from prmagic.backbones.sam import Sam
from scenes import Photo, Sources, jitter, load_batches, load_photos, load_sources, render_scenes
from schedule import trapezoid

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@dataclass(frozen=True)
class Recipe:
    sources: Sources
    size: int  # input pixels
    steps: int
    lr: float  # between warm-up and cool-down
    pairs: int  # couples of pictures of one class in a batch
    views: int  # photos that are cropped twice
    start: str | None = None  # an encoder to go on from; None: from the image encoder of a SAM
    cooldown: float = 0.2  # share of the steps at the end in which the rate falls


def load_recipe(path: Path) -> Recipe:
    values = json.loads(path.read_text())
    return Recipe(sources=load_sources(values.pop("sources")), **values)


WIDTH, DEPTH, HEADS, PATCH, NATIVE = 192, 8, 3, 8, 256
TEMPERATURE = 0.1
VOID = -2  # label of a patch of which nobody knows what it shows
SEED = 0
VALIDATE_EVERY = 250  # steps
CHECKPOINT_EVERY = 240  # seconds


def initial_model(recipe: Recipe, sam: str) -> Dinov2Model:
    model = build_model(sam)
    if recipe.start is not None:
        model.load_state_dict(Dino.load(recipe.start).model.state_dict())
    return model


def build_model(sam: str = "embedded") -> Dinov2Model:
    """A small Dinov2Model whose blocks, patches and positions are those of an embedded SAM's image encoder."""
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, mlp_ratio=4, image_size=NATIVE,
        patch_size=PATCH, layerscale_value=1.0, drop_path_rate=0.05,
    )  # fmt: skip
    vision = Sam.load(sam).model.float().vision_encoder
    weights = Dinov2Model(config).state_dict()
    weights = {name: value for name, value in weights.items() if not name.startswith("encoder.layer.")}
    weights["embeddings.patch_embeddings.projection.weight"] = vision.patch_embed.projection.weight
    weights["embeddings.patch_embeddings.projection.bias"] = vision.patch_embed.projection.bias
    table = vision.pos_embed.flatten(1, 2)
    weights["embeddings.position_embeddings"] = torch.cat([torch.zeros_like(table[:, :1]), table], 1)
    for index, layer in enumerate(vision.layers):
        block = f"encoder.layer.{index}."  # with the names of the published files, which every transformers reads
        for kind in ("weight", "bias"):
            for name, value in zip(("query", "key", "value"), getattr(layer.attn.qkv, kind).chunk(3), strict=True):
                weights[f"{block}attention.attention.{name}.{kind}"] = value
            weights[f"{block}attention.output.dense.{kind}"] = getattr(layer.attn.proj, kind)
            weights[f"{block}norm1.{kind}"] = getattr(layer.layer_norm1, kind)
            weights[f"{block}norm2.{kind}"] = getattr(layer.layer_norm2, kind)
            weights[f"{block}mlp.fc1.{kind}"] = getattr(layer.mlp.lin1, kind)
            weights[f"{block}mlp.fc2.{kind}"] = getattr(layer.mlp.lin2, kind)
        for scale in (1, 2):
            weights[f"{block}layer_scale{scale}.lambda1"] = torch.ones(WIDTH)
    with torch.no_grad():
        state = {name: value.detach().clone() for name, value in weights.items()}
        model, told = Dinov2Model.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    if told["missing_keys"] or told["unexpected_keys"]:
        raise RuntimeError(f"this transformers names weights otherwise: {told}")  # else they would be random
    return model


class Crops(Dataset[tuple[Tensor, ...]]):
    """Draws batches of square crops with one class label per patch, as a pure function of (seed, step)."""

    def __init__(
        self,
        photos: list[Photo],
        scenes: list[list[Photo]],
        classes: list[str],
        sources: Sources,
        size: int,
        pairs: int,
        views: int,
        seed: int,
        augment: bool = True,
    ):
        self.scenes = scenes
        self.photos, self.size, self.pairs, self.views, self.seed = photos, size, pairs, views, seed
        self.classes, self.augment = len(classes), augment
        self.synthetic = sources.synthetic if augment else 0.0
        self.labels = [label_map(photo, classes) for photo in photos]
        self.by_class: dict[int, list[int]] = defaultdict(list)
        self.by_source: dict[str, list[int]] = defaultdict(list)
        for index, (photo, labels) in enumerate(zip(photos, self.labels, strict=True)):
            self.by_source[photo.source].append(index)
            for number in np.unique(labels[labels >= 0]).tolist():
                self.by_class[number].append(index)
        self.shared = [number for number in sorted(self.by_class) if len(self.by_class[number]) > 1]
        # Square root: between "every class alike" (rare ones would be learnt by heart) and "every photo alike".
        weights = np.sqrt([len(self.by_class[number]) for number in self.shared])
        self.class_weights = weights / weights.sum()
        self.sources = [source for source in sources.weights if source in self.by_source]
        weights = np.array([sources.weights[source] for source in self.sources])
        self.source_weights = weights / weights.sum()

    def __getitem__(self, step: int) -> Batch:
        """2 × pairs + 2 × views crops; crops 2i and 2i + 1 are a couple."""
        rng = np.random.default_rng((self.seed, step))
        drawn = []
        wanted = []
        for _ in range(self.pairs):
            if rng.random() < self.synthetic:
                # Numbered after the classes, so that no prototype is trained for a species.
                number, views = self.classes, self.scenes[rng.integers(len(self.scenes))]
                for view in rng.choice(len(views), 2, replace=False):
                    labels = np.where(views[view].mask(0), number, -1).astype(np.int16)
                    drawn.append(self._crop(views[view].rgb, labels, number, rng))
            else:
                number = self.shared[rng.choice(len(self.shared), p=self.class_weights)]
                for index in rng.choice(self.by_class[number], 2, replace=False):
                    drawn.append(self._crop(self.photos[index].rgb, self.labels[index], number, rng))
            wanted.append(number)
        for _ in range(self.views):
            source = self.sources[rng.choice(len(self.sources), p=self.source_weights)]
            photo = int(rng.choice(self.by_source[source]))
            drawn += [self._crop(self.photos[photo].rgb, self.labels[photo], None, rng) for _ in range(2)]
        pixels, labels, places = (torch.stack(list(column)) for column in zip(*drawn, strict=True))
        return Batch(pixels, labels, places, torch.tensor(wanted))

    def _crop(
        self, rgb: np.ndarray, labels: np.ndarray, wanted: int | None, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        height, width = labels.shape
        box = (0.0, 0.0, float(width), float(height))
        if wanted is None or rng.random() < 0.5:
            crop_w, crop_h = rng.uniform(0.45, 1, 2) * (width, height)
            left, top = rng.uniform(0, width - crop_w), rng.uniform(0, height - crop_h)
            if wanted is not None:  # around some pixel of the class
                ys, xs = np.nonzero(labels == wanted)
                pick = rng.integers(len(ys))
                left = float(np.clip(xs[pick] - rng.uniform(0.2, 0.8) * crop_w, 0, width - crop_w))
                top = float(np.clip(ys[pick] - rng.uniform(0.2, 0.8) * crop_h, 0, height - crop_h))
            box = (left, top, left + crop_w, top + crop_h)
        cells = self.size // PATCH
        image = Image.fromarray(rgb).resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if self.augment:
            image = jitter(image, rng)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        xs = box[0] + (np.arange(cells) + 0.5) * (box[2] - box[0]) / cells
        ys = box[1] + (np.arange(cells) + 0.5) * (box[3] - box[1]) / cells
        if rng.random() < 0.5:
            pixels, xs = pixels.flip(2), xs[::-1]
        grid = np.stack(np.meshgrid(xs, ys), -1)  # the photo's x, y at the middle of each patch
        found = labels[grid[..., 1].astype(int), grid[..., 0].astype(int)]
        pitch = np.array([(box[2] - box[0]) / cells, (box[3] - box[1]) / cells])
        places = np.concatenate([grid, np.broadcast_to(pitch, grid.shape)], -1)
        return (
            pixels,
            torch.from_numpy(found.astype(np.int64)).flatten(),
            torch.from_numpy(places).float().flatten(0, 1),
        )


class Batch(NamedTuple):
    """pixels (B, 3, S, S) uint8; labels (B, N) class of each patch, -1 or VOID; places (B, N, 4) middle and pitch of
    each patch in the photo's pixels; wanted (pairs,) the class that a couple shares."""

    pixels: Tensor
    labels: Tensor
    places: Tensor
    wanted: Tensor


def label_map(photo: Photo, classes: list[str]) -> np.ndarray:
    """(H, W) int16, the index of each pixel's class, -1 or VOID."""
    labels = np.where(photo.void, VOID, -1).astype(np.int16)
    for target, (_, _, name) in enumerate(photo.targets):
        if name is not None:
            labels[photo.mask(target)] = classes.index(name)
    return labels


def tokens_of(model: Dinov2Model, pixels: Tensor) -> Tensor:
    """(B, N, C) unit vectors of uint8 pixels (B, 3, S, S): the patch tokens before the final norm."""
    normalised = (pixels / 255 - MEAN.to(pixels.device)) / STD.to(pixels.device)
    hidden = model(normalised, output_hidden_states=True).hidden_states[-1]
    return F.normalize(hidden[:, 1:].float(), dim=-1)


def pair_loss(tokens: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """Minus the log of the share of a patch's soft-max over the partner's patches that lies on the wanted class;
    patches of VOID are no partners."""
    cover = labels == wanted.repeat_interleave(2)[:, None]
    partner = torch.arange(len(tokens), device=tokens.device).view(-1, 2).flip(1).flatten()
    inside, positive = cover.float(), cover[partner]
    found = positive.sum(1).clamp(min=1)
    logits = tokens @ tokens[partner].transpose(1, 2) / TEMPERATURE
    log_share = logits.masked_fill((labels[partner] == VOID)[:, None], -1e4).log_softmax(2)
    log_sum = log_share.masked_fill(~positive[:, None], -1e4).logsumexp(2)
    mean_of_logs = (log_share * positive[:, None]).sum(2) / found[:, None]
    # Every patch of the class should be found, not only the nearest: the mean of logs beside the log of sums.
    losses = -(log_sum + 0.3 * (mean_of_logs + found.log()[:, None]))
    usable = cover.any(1) & positive.any(1)
    means = (losses * inside).sum(1) / inside.sum(1).clamp(min=1)
    return (means * usable).sum() / usable.sum().clamp(min=1)


def prototype_loss(tokens: Tensor, labels: Tensor, prototypes: Tensor) -> Tensor:
    """Cross-entropy of the labelled patches over the classes; a class weighs by the root of its patches in a photo."""
    rows, columns = torch.nonzero((labels >= 0) & (labels < len(prototypes)), as_tuple=True)
    if not len(rows):
        return tokens.sum() * 0
    truth = labels[rows, columns]
    _, group, count = torch.unique(rows * len(prototypes) + truth, return_inverse=True, return_counts=True)
    logits = tokens[rows, columns] @ F.normalize(prototypes, dim=1).T / TEMPERATURE
    weights = 1 / count[group].float().sqrt()
    return (F.cross_entropy(logits, truth, reduction="none") * weights).sum() / weights.sum()


def view_loss(tokens: Tensor, places: Tensor) -> Tensor:
    """Cross-entropy of finding each patch again in the other crop of the same photo, where it is in both."""
    if not len(tokens):
        return tokens.sum() * 0
    ours, theirs = places[::2], places[1::2]
    offset = (ours[:, :, None, :2] - theirs[:, None, :, :2]) / theirs[:, None, :, 2:]
    distance, nearest = offset.abs().amax(-1).min(2)
    common = distance <= 0.5
    logits = tokens[::2] @ tokens[1::2].transpose(1, 2) / TEMPERATURE
    losses = F.cross_entropy(logits.flatten(0, 1), nearest.flatten(), reduction="none").view(common.shape)
    means = (losses * common).sum(1) / common.sum(1).clamp(min=1)
    return means.sum() / common.any(1).sum().clamp(min=1)


@torch.no_grad()
def validate(model: Dinov2Model, crops: Crops, batches: int = 12) -> dict[str, float]:
    """On the dev classes, for photos of one class: the share of the patches under a mask whose nearest patch in the
    other photo is under its mask (against what chance would give), and of mean features whose nearest patch is."""
    nearest, chance, peak = [], [], []
    device = next(model.parameters()).device
    for index in range(batches):
        batch = Batch(*(each.to(device) for each in crops[10**6 + index]))
        tokens = tokens_of(model, batch.pixels)
        for pair, number in enumerate(batch.wanted.tolist()):
            for one, other in ((2 * pair, 2 * pair + 1), (2 * pair + 1, 2 * pair)):
                inside, there = batch.labels[one] == number, batch.labels[other] == number
                if inside.any() and there.any():
                    found = tokens[one][inside] @ tokens[other].T
                    nearest.append(float(there[found.argmax(1)].float().mean()))
                    peak.append(float(there[found.mean(0).argmax()]))
                    chance.append(float(there.float().mean()))
    means = {"nearest": nearest, "chance": chance, "peak": peak}
    return {name: round(float(np.mean(values)), 4) for name, values in means.items()}


def train(
    recipe: Recipe, data: Sequence[Path], out: Path, sam: str = "embedded", device: str = "cpu", workers: int = 1
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if finished(recipe, out):
        export_checkpoint(recipe, out, out / "embedded_encoder")
        return
    photos, dev = load_photos(data, recipe.sources, dev=False), load_photos(data, dev=True)
    print(f"{len(photos)} photos to train on, {len(dev)} with dev classes", flush=True)
    torch.manual_seed(SEED)
    classes, dev_classes = (
        sorted({name for photo in some for _, _, name in photo.targets if name is not None}) for some in (photos, dev)
    )
    model = initial_model(recipe, sam).train().to(device)
    prototypes = nn.Parameter(torch.randn(len(classes), WIDTH).to(device))
    scenes = render_scenes(recipe.sources, workers)
    crops = Crops(photos, scenes, classes, recipe.sources, recipe.size, recipe.pairs, recipe.views, SEED)
    judge = Crops(dev, [], dev_classes, recipe.sources, recipe.size, pairs=8, views=0, seed=SEED, augment=False)
    export(descend(model, prototypes, recipe, crops, judge, out, workers), out / "embedded_encoder", recipe)


def finished(recipe: Recipe, out: Path) -> bool:
    """Whether the last step has been made."""
    checkpoint = out / "checkpoint.pt"
    return checkpoint.exists() and torch.load(checkpoint, map_location="cpu", weights_only=True)["step"] == recipe.steps


def descend(
    model: Dinov2Model, prototypes: nn.Parameter, recipe: Recipe, crops: Crops, judge: Crops, out: Path, workers: int
) -> Dinov2Model:
    """Returns the running average of the weights, which is what is validated and kept."""
    device = prototypes.device
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = Optimizer(model, [prototypes])
    checkpoint, start = out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        prototypes.data.copy_(saved["prototypes"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    names = ("pair", "prototype", "view")
    running, since, clock, saved_at = torch.zeros(3, device=device), start, time.time(), time.time()
    paired = 2 * recipe.pairs
    with (out / "log.jsonl").open("a") as log:
        for step, drawn in enumerate(load_batches(crops, range(start, recipe.steps), workers, device), start):
            batch = Batch(*(each.to(device, non_blocking=True) for each in drawn))
            torch.manual_seed(SEED * 10**6 + step)  # stochastic depth
            with precision(device):
                tokens = tokens_of(model, batch.pixels)
            losses = (
                pair_loss(tokens[:paired], batch.labels[:paired], batch.wanted),
                prototype_loss(tokens, batch.labels, prototypes),
                view_loss(tokens[paired:], batch.places[paired:]),
            )
            (losses[0] + losses[1] + 0.5 * losses[2]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(trapezoid(step, recipe.steps, recipe.lr, 200, recipe.cooldown))
            with torch.no_grad():
                keep = min(0.998, (1 + step) / (20 + step))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
            running += torch.stack([loss.detach() for loss in losses])
            last = step + 1 == recipe.steps
            if last or time.time() - saved_at > CHECKPOINT_EVERY:
                state = {"step": step + 1, "model": model.state_dict(), "prototypes": prototypes.data}
                state |= {"average": average.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
                saved_at = time.time()
            if last or (step + 1) % VALIDATE_EVERY == 0:
                means = (running / (step + 1 - since)).tolist()
                record = {"step": step + 1, "seconds": round(time.time() - clock, 1)}
                record |= {name: round(value, 4) for name, value in zip(names, means, strict=True)}
                record["dev"] = validate(average, judge)
                print(json.dumps(record), flush=True)
                log.write(json.dumps(record) + "\n")
                log.flush()
                running, since, clock = torch.zeros_like(running), step + 1, time.time()
    return average


def export(model: Dinov2Model, folder: Path, recipe: Recipe) -> None:
    """Half precision, in the format that `Dinov2Model.from_pretrained` reads."""
    model.cpu().half().save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")


def export_checkpoint(recipe: Recipe, out: Path, folder: Path) -> None:
    """The running average of the weights; of an unfinished run, too."""
    saved = torch.load(out / "checkpoint.pt", map_location="cpu", weights_only=True)
    model = build_model()
    model.load_state_dict(saved["average"])
    export(model, folder, recipe)
    print(f"step {saved['step']}: {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="a file of research/training/configs/")
    parser.add_argument("--data", type=Path, nargs="+", help="folders with index.jsonl and instances.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, log and the finished weights go here")
    parser.add_argument("--sam", help="the SAM whose image encoder is gone on from; by default the embedded one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1), help="drawing samples")
    parser.add_argument("--export", type=Path, help="only write the last checkpoint's weights into this folder")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.config)
    if recipe.start is not None and arguments.sam is not None:
        parser.error(f"{arguments.config} goes on from the encoder {recipe.start!r}, so that --sam would do nothing")
    if arguments.export is not None:
        export_checkpoint(recipe, arguments.out, arguments.export)
    elif arguments.data is None:
        parser.error("training needs --data")
    else:
        if arguments.device == "cpu":
            use_plain_attention()
        sam = arguments.sam or "embedded"
        train(recipe, arguments.data, arguments.out, sam, arguments.device, arguments.workers)


if __name__ == "__main__":
    main()
