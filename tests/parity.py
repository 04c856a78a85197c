"""Our numbers beside those of the published code, stage by stage, each from the recorded inputs of that stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from common import gradient_of_d
from torch import Tensor

from prmagic.backbones.promptable import Embedding
from prmagic.backbones.sam import Sam
from prmagic.frameworks.base import Framework, Query
from prmagic.frameworks.maps import cosine_map
from prmagic.frameworks.mask_weights import fit_published
from prmagic.frameworks.persam import QUANTILES, feature_mask, sample_points
from prmagic.frameworks.published import PublishedFlow, PublishedPerSamF
from prmagic.frameworks.registry import variant
from prmagic.metrics import areas, episode_miou
from prmagic.reference import Example, Reference
from prmagic.refine import Draws, refine
from prmagic.select import Reencode, best
from prmagic.types import Prompts


@dataclass(frozen=True)
class Comparison:
    """One array: ours against theirs. tolerance 0 means that a discrete choice must be the same."""

    name: str
    ours: np.ndarray
    theirs: np.ndarray
    tolerance: float

    @property
    def difference(self) -> float:
        if self.ours.shape != self.theirs.shape:
            return float("inf")
        return float(np.abs(self.ours.astype(np.float64) - self.theirs.astype(np.float64)).max())


def compare(name: str, ours: Tensor | np.ndarray | float, theirs: np.ndarray, tolerance: float = 1e-4) -> Comparison:
    array = ours.detach().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    return Comparison(name, array, np.asarray(theirs), tolerance)


class RecordedNoise(PublishedFlow):
    """The paper's flow with given noise, because the published one comes from a global generator; keeps the shifts."""

    @classmethod
    def of(cls, noise: np.ndarray, steps: int = 5) -> RecordedNoise:
        flow = cls(steps=steps)
        object.__setattr__(flow, "draws", [torch.from_numpy(draw).float()[None] for draw in noise])
        object.__setattr__(flow, "shifts", [])
        return flow

    def step(self, shift: Tensor, gradient: Tensor | None, rng: torch.Generator, z0: Tensor) -> Tensor:
        with patch.object(torch, "randn", return_value=self.draws[len(self.shifts)]):
            self.shifts.append(super().step(shift, gradient, rng, z0))
        return self.shifts[-1]


def paper_framework(sam: Sam) -> PublishedPerSamF:
    return PublishedPerSamF(sam, variant("persam-f", "paper").preset.options)


def described(framework: Framework, image: np.ndarray, mask: np.ndarray) -> Tensor:
    """E in eq. (4), (1, C), as published."""
    return Reencode(published=True).prepare(framework, [Example(image, mask)])["padded_descriptors"]


def mini_comparisons(sam: Sam, g: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    """The set that lies in tests/golden."""
    yield compare("preprocessing", sam.preprocess(g["query_rgb"])[None], g["query_tensor"], 2e-3)  # theirs is float16
    support, query = sam.encode([g["support_rgb"], g["query_rgb"]])
    yield compare("resized size", np.array(query.frame.resized), g["query_input_size"], 0)
    yield compare("embedding, support", support.features, g["support_embedding"])
    yield compare("embedding, query", query.features, g["query_embedding"])
    support = support.moved_to(torch.from_numpy(g["support_embedding"]))
    query = query.moved_to(torch.from_numpy(g["query_embedding"]))
    framework = paper_framework(sam)
    example = Example(g["support_rgb"], g["support_mask"])
    yield compare(
        "support mask on the cells", feature_mask(example.mask, support).view(16, 16), g["support_feature_mask"], 0
    )
    target = framework.target(framework.under_mask(example, support))
    yield compare("target feature", target[None], g["target_feature"])
    yield compare("similarity, cells", cosine_map(query.features, target), g["similarity_low"])
    yield compare("similarity, photo", framework.similarity(query, target), g["similarity_full"])
    points, labels = g["points"].astype(np.float32), g["labels"]
    box = tuple(map(float, g["box"][0]))
    mask = torch.from_numpy(g["mask_input"][0])
    for name, prompts in {
        "point": Prompts(points[:1], labels[:1]),
        "points": Prompts(points, labels),
        "points_box": Prompts(points, labels, box),
    }.items():
        single, multi = (sam.decode(query, [prompts], multimask=many) for many in (False, True))
        yield compare(f"logits, {name}", torch.cat([single.logits[0], multi.logits[0]]), g[f"{name}_logits"])
        yield compare(
            f"predicted IoU, {name}", torch.cat([single.predicted_iou[0], multi.predicted_iou[0]]), g[f"{name}_iou"]
        )
    full = query.frame.upscale(sam.decode(query, [Prompts(points, labels)]).logits[0])
    yield compare("logits at the photo's size", full, g["points_full_logits"])
    decoded = sam.decode(query, [Prompts(points, labels, box, mask)])
    yield compare("logits, points_box_mask", decoded.logits[0], g["points_box_mask_logits"])
    yield compare("predicted IoU, points_box_mask", decoded.predicted_iou[0], g["points_box_mask_iou"])
    own = framework.similarity(support, target)
    peak = sample_points(own, 0, (), torch.Generator())
    yield compare("support's own peak", peak, g["support_point"], 0)
    yield compare("logits, support", sam.decode(support, [_positive(peak)]).logits[0], g["support_point_logits"])
    low = torch.from_numpy(g["support_point_logits"])
    weights = fit_published([support.frame.upscale(low)], [torch.from_numpy(example.mask).float()])
    yield compare("mask weights after 1000 steps", weights, g["mask_weights"])
    peak = sample_points(g["similarity_full"], 0, (), torch.Generator())
    yield compare("query's peak", peak, g["cascade_point"], 0)
    reference = Reference(
        {
            "target": target,
            "mask_weights": torch.from_numpy(g["mask_weights"]),
            "padded_descriptors": torch.from_numpy(g["selection_support_vector"]),
        },
        {},
        (example.image, example.mask),
    )
    episode = Query(g["query_rgb"], framework, query)
    (candidate,) = framework.decode(episode, [reference], [_positive(peak)])
    yield compare("cascade, first-stage mask", candidate.scored_mask, g["cascade_fused_mask"], 0)
    yield compare("cascade, box", np.array(candidate.prompts.box), g["cascade_box"], 0)
    yield compare("cascade, last channel", candidate.channel, g["cascade_stage3_best"], 0)
    best = int(g["cascade_stage3_best"])
    yield compare("cascade, last logits (chained)", candidate.logits, g["cascade_stage3_logits"][best], 5e-3)
    yield compare("cascade, last predicted IoU (chained)", candidate.predicted_iou, g["cascade_stage3_iou"][best])
    yield compare("cascade, mask", candidate.mask, g["cascade_mask"], 0)
    gradient = gradient_of_d(framework, episode, reference, candidate, torch.zeros_like(query.features))
    yield compare("gradient (relative to its largest value)", *relative(gradient, g["gradient"]))
    flow = RecordedNoise.of(g["noise"])
    moved = flow.step(torch.zeros_like(gradient), torch.from_numpy(g["gradient"]), torch.Generator(), query.features)
    yield compare("flow step", moved, g["flow_step"])
    vector = described(framework, example.image, example.mask)
    yield compare("selection vector, support", vector, g["selection_support_vector"])
    vector = described(framework, g["query_rgb"], g["cascade_mask"])
    yield compare("selection vector, query", vector, g["selection_query_vector"])
    score = float((vector @ reference.tensors["padded_descriptors"].T)[0, 0])
    yield compare("selection score", score, g["selection_cosine"])


def full_comparisons(folder: Path) -> Iterator[Comparison]:
    """The larger set, on real photographs, that does not lie in the repository; ends with a whole episode."""

    def arrays(name: str) -> dict[str, np.ndarray]:
        with np.load(folder / f"persam_{name}.npz") as found:
            return dict(found)

    def bits(packed: np.ndarray) -> np.ndarray:
        return np.unpackbits(packed, axis=-1)[..., :518].astype(bool)

    sam, framework = (model := Sam.load(folder / "hf_sam_small")), paper_framework(model)
    inputs, g = arrays("inputs"), arrays("preprocess")
    example = Example(inputs["support_rgb"], bits(inputs["support_mask_bits"]))
    truth = bits(inputs["query_mask_bits"])
    for name, picture in (("square", inputs["query_rgb"]), ("nonsquare", g["nonsquare_in"])):
        tensor = sam.preprocess(picture)
        yield compare(f"preprocessing, {name}", tensor[:, ::16, ::16], g[f"{name}_sub16"])
        yield compare(
            f"resized size, {name}", np.array(sam.frame(picture.shape[:2]).resized), g[f"{name}_input_size"], 0
        )
        sums = np.array([tensor.double().sum(), tensor.double().abs().sum()])
        yield compare(
            f"preprocessing, {name}, sums (relative)", *relative(torch.from_numpy(sums), g[f"{name}_sum_abs_sum"])
        )
    support, query, crop = sam.encode([example.image, inputs["query_rgb"], arrays("preprocess")["nonsquare_in"]])
    g = arrays("embedding")
    yield compare("embedding, support", support.features, g["support"])
    yield compare("embedding, query", query.features, g["query"])
    yield compare("embedding, nonsquare", crop.features[:, :, ::2, ::2], g["nonsquare"])
    support, query = support.moved_to(torch.from_numpy(g["support"])), query.moved_to(torch.from_numpy(g["query"]))
    yield from _decoder(sam, query, crop, arrays("decoder"))
    g = arrays("target_sim")
    yield compare("support mask on the cells", feature_mask(example.mask, support).view(32, 32), g["feat_mask"], 0)
    target = framework.target(framework.under_mask(example, support))
    yield compare("target feature", target[None], g["target_feat"])
    yield compare("similarity, support, cells", cosine_map(support.features, target), g["sim_support_lowres"])
    yield compare("similarity, query, cells", cosine_map(query.features, target), g["sim_query_lowres"])
    yield compare("similarity, query, photo", framework.similarity(query, target), g["sim_query_fullres"])
    yield from _points(arrays("points"))
    g = arrays("maskweights")
    decoded = sam.decode(support, [_positive(g["points"])])
    yield compare("logits, support", decoded.logits[0], g["low_logits"])
    yield compare("predicted IoU, support", decoded.predicted_iou[0], g["iou"])
    full = support.frame.upscale(torch.from_numpy(g["low_logits"]))
    weights = fit_published([full], [torch.from_numpy(example.mask).float()])
    yield compare("mask weights after 1000 steps", weights, g["final"])
    descriptors = described(framework, example.image, example.mask)
    tensors = {"target": target, "mask_weights": torch.from_numpy(g["final"]), "padded_descriptors": descriptors}
    reference = Reference(tensors, {}, (example.image, example.mask))
    yield compare("selection vector, support", descriptors, arrays("trajectory")["s_vec"])
    yield from _episode(
        framework, support, Query(inputs["query_rgb"], framework, query), reference, truth, arrays, bits
    )


def _decoder(sam: Sam, query: Embedding, crop: Embedding, g: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    points, labels = g["points"].astype(np.float32), g["labels"]
    box, mask = tuple(map(float, g["box"][0])), torch.from_numpy(g["mask_input"][0])
    cases = {
        "pt1": Prompts(points[:1], labels[:1]),
        "pt5": Prompts(points, labels),
        "pt5box": Prompts(points, labels, box),
        "pt5boxmask": Prompts(points, labels, box, mask),
        "pt1mask": Prompts(points[:1], labels[:1], None, mask),
    }
    single, multi = (sam.decode(query, list(cases.values()), multimask=many) for many in (False, True))
    for row, name in enumerate(cases):
        yield compare(f"logits, {name}", torch.cat([single.logits[row], multi.logits[row]]), g[f"{name}_low"])
        ious = torch.cat([single.predicted_iou[row], multi.predicted_iou[row]])
        yield compare(f"predicted IoU, {name}", ious, g[f"{name}_iou"])
    yield compare("logits at the photo's size", query.frame.upscale(single.logits[1]), g["pt5_token0_fullres"])
    decoded = sam.decode(crop, [_positive(g["nonsquare_point"])])
    yield compare("logits, nonsquare", decoded.logits[0], g["nonsquare_low"])
    yield compare("predicted IoU, nonsquare", decoded.predicted_iou[0], g["nonsquare_iou"])
    yield compare(
        "logits at the photo's size, nonsquare", crop.frame.upscale(decoded.logits[0, 1]), g["nonsquare_fullres_mask1"]
    )


def _points(g: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    quantiles = QUANTILES[variant("persam-f", "paper").preset.options.extra_points]
    for key in g:
        name, _, rest = key.partition("_seed")
        if rest and (g[key] >= 0).all():  # -999: the published code stopped with an IndexError
            photo, code = name.split("_")
            seed, count = rest.split("_n")
            rng = torch.Generator().manual_seed(int(seed))
            found = sample_points(g[f"{photo}_sim"], int(count), quantiles, rng, swap=code == "buggy")
            yield compare(f"points, {photo}, {code}, seed {seed}, {count} extra", found, g[key], 0)


def _episode(framework, support, query, reference, truth, arrays, bits) -> Iterator[Comparison]:
    flow, g = arrays("flow"), arrays("trajectory")
    target = reference.tensors["target"]
    rng = torch.Generator().manual_seed(42)
    own = framework._points(framework.similarity(support, target), support.frame, rng)
    yield compare("episode: support's points", own.points, g["points"][0][: g["npts"][0]], 0)
    recorded = RecordedNoise.of(flow["noise_f16"])
    (candidates,) = refine(framework, query, [reference], recorded, [Draws(rng, torch.Generator())])
    origin = torch.zeros_like(query.embedding.features)
    for t, candidate in enumerate(candidates):
        points, box = candidate.prompts.points, np.array(candidate.prompts.box)
        yield compare(f"episode, t = {t}: points", points, g["points"][t + 1][: g["npts"][t + 1]], 0)
        yield compare(f"episode, t = {t}: last channel", candidate.channel, g["best3"][t], 0)
        yield compare(f"episode, t = {t}: box", box, g["box"][t], 0)
        stored = flow[f"t{t}_stage3_low"][g["best3"][t]]
        tolerance = 2e-2 if stored.dtype == np.float16 else 5e-3
        yield compare(f"episode, t = {t}: logits (chained)", candidate.logits, stored, tolerance)
        differing = (candidate.mask != bits(g["eval_mask_bits"][t])).mean()
        yield compare(f"episode, t = {t}: share of differing mask pixels", differing, np.array(0.0), 1e-4)
        differing = (candidate.scored_mask != bits(g["scored_mask_bits"][t])).mean()
        yield compare(f"episode, t = {t}: the same of the scored mask", differing, np.array(0.0), 1e-4)
        gradient = gradient_of_d(framework, query, reference, candidate, origin)
        ours, theirs, tolerance = relative(gradient[0, :, ::8, ::8], flow[f"t{t}_grad_slice"])
        yield compare(f"episode, t = {t}: gradient (relative to its largest value)", ours, theirs, tolerance)
    recorded.step(
        recorded.shifts[-1], gradient, rng, origin
    )  # the published code takes a last step, which is never used
    yield compare("episode: shift after all steps", recorded.shifts[-1], flow["gradmap_last"], 3e-4)  # theirs: float16
    for t, shift in enumerate(recorded.shifts):
        cosine = cosine_map(query.embedding.features + shift, target)
        yield compare(f"episode, t = {t}: similarity after the step", cosine, flow["sim_low"][t])
    scores = Reencode(published=True)(framework, query, reference, candidates)
    yield compare("episode: selection scores", np.array(scores), g["base_cos"])
    yield compare("episode: selected candidate", best(scores), g["best_iter"], 0)
    ours = [float(episode_miou(areas(candidate.mask, truth))) for candidate in candidates]
    yield compare("episode: episode-mIoU", np.array(ours), g["miou"])
    yield compare("episode: oracle", best(ours), g["oracle_iter"], 0)


def _positive(points: np.ndarray) -> Prompts:
    return Prompts(points.astype(np.float32), np.ones(len(points), np.int64))


def relative(ours: Tensor, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    scale = np.abs(theirs).max()
    return ours.detach().numpy() / scale, theirs / scale, 1e-4
