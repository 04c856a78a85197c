"""The Matcher half of the comparison with the published code; see parity.py."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import gradient_of_d
from parity import Comparison, RecordedNoise, compare, described, relative

from prmagic.backbones.dino import Dino
from prmagic.backbones.sam import Sam
from prmagic.backbones.tokens import Tokens
from prmagic.frameworks.base import Query
from prmagic.frameworks.maps import shifted_tokens
from prmagic.frameworks.matcher.proposals import joined
from prmagic.frameworks.matcher.steps import (
    cluster_centers,
    earth_movers_distance,
    match,
    patches_of,
    subsets,
    suppress,
)
from prmagic.frameworks.published import PublishedMatcher
from prmagic.frameworks.registry import variant
from prmagic.metrics import areas, foreground_iou
from prmagic.reference import Example, Reference
from prmagic.refine import Draws, refine

SIZE, GRID, PATCH = 224, (16, 16), 14
PAPER = variant("matcher", "paper").preset.options
FSS = replace(PAPER, centers=8, alpha=0.8, beta=0.2, exponent=1.0, merge=10)  # the published launchers' values
PACO = replace(PAPER, centers=5, alpha=0.5, beta=0.5, exponent=0.0, merge=5)


def matcher_comparisons(folder: Path) -> Iterator[Comparison]:
    """Real photographs, two models with random weights; the first two candidates of an episode."""

    def arrays(name: str) -> dict[str, np.ndarray]:
        with np.load(folder / f"matcher_{name}.npz") as found:
            return dict(found)

    inputs, g = arrays("inputs"), arrays("features")
    sam, encoder = Sam.load(folder / "hf_sam_small"), Dino.load(folder / "hf_dino_small")
    example = Example(inputs["support_rgb"], _bits(inputs["support_mask_bits"]))
    yield compare("encoder's input", encoder.preprocess(inputs["query_rgb"])[:, ::14, ::14], g["dino_input_sub14"])
    support, query = encoder.encode([example.image, inputs["query_rgb"]])
    yield compare("tokens before the norm", query.before_norm, g["x_prenorm_query"][0, 1:])
    yield compare("tokens after the norm", query.after_norm[::16], g["x_norm_patch_query_sub"][0])
    yield compare("unit tokens, support", F.normalize(support.before_norm, dim=1), g["ref_feats"])
    yield compare("unit tokens, query", F.normalize(query.before_norm, dim=1), g["tar_feat"])
    (embedding,) = sam.encode([inputs["query_rgb"]])
    yield compare("SAM's embedding", embedding.features, g["sam_features"])
    foreground = patches_of(torch.from_numpy(example.mask), GRID)
    yield compare("patches under the support's mask", foreground, g["ref_masks_pool"] > 0, 0)
    embedding = embedding.moved_to(torch.from_numpy(g["sam_features"]))
    matcher = PublishedMatcher(sam, FSS, encoder)
    episode = Query(inputs["query_rgb"], matcher, embedding, Tokens(torch.from_numpy(g["tar_feat"]), GRID))
    descriptors = described(matcher, example.image, example.mask)
    yield compare("selection vector, support", descriptors, g["support_vec"])
    tensors = {
        "tokens": torch.from_numpy(g["ref_feats"]), "shares": torch.from_numpy(foreground).float(),
        "token_counts": torch.tensor([len(foreground)]), "padded_descriptors": descriptors,
    }  # fmt: skip
    reference = Reference(tensors, {}, (example.image, example.mask))
    yield from _functions(arrays("functions"))
    yield from _clusterings(arrays("kmeans_518"))
    rng, shift = torch.Generator().manual_seed(42), torch.zeros_like(embedding.features)
    truth = _bits(inputs["query_mask_bits"])
    for t in (0, 1):
        recorded = arrays(f"t{t}")
        yield from _candidate(f"t = {t}", matcher, episode, reference, shift, rng, recorded, truth)
        if t == 0:
            flow = RecordedNoise.of(recorded["noise_f16"])
            step = flow.step(shift, torch.from_numpy(recorded["grad"]), torch.Generator(), shift)
            yield compare("shift after a step", step, recorded["gradmap"])
            shift = torch.from_numpy(recorded["gradmap"])
    flow = RecordedNoise.of(arrays("t0")["noise_f16"], steps=1)
    draws = Draws(torch.Generator().manual_seed(42), torch.Generator())
    (candidates,) = refine(matcher, episode, [reference], flow, [draws])
    for t, candidate in enumerate(candidates):
        differing = (candidate.mask != _bits(arrays(f"t{t}")["merged_bits"])).mean()
        yield compare(f"whole loop, t = {t}: share of differing mask pixels", differing, np.array(0.0), 1e-4)
    origin = torch.zeros_like(shift)
    for name, options, recorded in (
        ("no suppression", replace(FSS, box_nms=1.0), arrays("nms1_t0")),
        ("parts", PACO, arrays("part_t0")),
    ):
        other = PublishedMatcher(sam, options, encoder)
        rng = torch.Generator().manual_seed(42)
        again = Query(episode.image, other, embedding, episode.tokens)
        yield from _candidate(name, other, again, reference, origin, rng, recorded, truth)


def _functions(g: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    moved = F.interpolate(torch.from_numpy(g["map_in"]), (37, 37), mode="bilinear", align_corners=False)
    padded = F.pad(moved[0].flatten(1).T, (0, 4))
    yield compare("map resized and padded to channels", padded, g["map_out_37x37x12"])
    points = g["sample12_points"].astype(np.float32)
    drawn = subsets(points, (4, 6), 30, random.Random(0))
    for size in (4, 5, 6):
        ours = np.array([s for s in drawn if len(s) == size])
        yield compare(f"random subsets of {size} of 12 points", ours, g[f"sample12_k{size}"], 0)
    centers = cluster_centers(points, 8, torch.Generator().manual_seed(0))
    yield compare("centres of 12 points", centers, g["kmeans12_seed0_centers"])


def _clusterings(g: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    """Points on the grid of patches, whose distances tie all the time."""
    ours = np.full_like(g["centers"], -1)
    for row, (number, count, seed, _) in zip(ours, g["runs"].tolist(), strict=True):
        found = cluster_centers(g[f"points_{number}"], count, torch.Generator().manual_seed(seed))
        row[: len(found)] = np.trunc(found)
    yield compare(f"centres of {len(ours)} clusterings of tied points", ours, g["centers"], 0)


def _candidate(name, matcher, query, reference, shift, rng, g, truth) -> Iterator[Comparison]:
    known = matcher._unshifted(query, reference)
    foreground = known.foreground
    similarity, _ = matcher._matched(query, reference, known, shift)
    if "delta" in g:
        added = shifted_tokens(query.tokens, shift, query.embedding) - query.tokens.vectors
        yield compare(f"{name}: shift on the tokens", added, g["delta"])
    if "S" in g:
        yield compare(f"{name}: similarities", similarity[0], g["S"])
        pairs = match(g["S"], foreground[0])
        returned = foreground[0][g["rev_col"]]
        yield compare(
            f"{name}: pairs, support's patches", pairs.support, np.flatnonzero(foreground)[g["fwd_row"]][returned], 0
        )
        yield compare(f"{name}: pairs, query's patches", pairs.query, g["fwd_col"][returned], 0)
    (prompts,) = matcher.sample_prompts(query, [reference], [shift], [rng])
    yield compare(f"{name}: matched points", prompts.matched, g["points"], 0)
    yield compare(f"{name}: centres", prompts.points, g["centers"], 0)
    sets = [set_ for number in range(3) for set_ in g.get(f"prompts_{number}", ())]
    yield compare(f"{name}: number of prompts", len(prompts.subsets), np.array(len(sets)), 0)
    differing = max(float(np.abs(p.points - s).max()) for p, s in zip(prompts.subsets, sets, strict=True))
    yield compare(f"{name}: points of all prompts", differing, np.array(0.0), 0)
    with torch.no_grad():
        found = list(matcher._proposer._propose(query, prompts.subsets, None))
        predicted = np.concatenate([batch.predicted_iou for batch in found])
        yield compare(f"{name}: predicted IoU of all prompts", predicted, g["nms_scores"])
        kept = suppress(g["nms_boxes"], g["nms_scores"], matcher.options.box_nms)
        yield compare(f"{name}: kept by suppression", kept, g["nms_keep"], 0)
        frame = query.embedding.frame
        masks = frame.upscale_many(joined(found)[kept].logits, matcher._proposer.size(frame)) > 0
        differing = (masks.numpy() != _bits(g["cand_seg_bits"])).mean()
        yield compare(f"{name}: share of differing mask pixels", differing, np.array(0.0), 1e-4)
        if "cand_low" in g:
            logits = torch.cat([batch.logits for batch in found])[kept]
            yield compare(f"{name}: logits of the kept", logits, g["cand_low"])
        patches = patches_of(torch.from_numpy(_bits(g["cand_seg_bits"])), GRID)
        sizes = np.stack([np.full(len(patches), foreground.sum()), patches.sum(1)], axis=1)
        yield compare(f"{name}: patches of the kept", sizes, g["emd_sizes"], 0)
        moved = similarity if "S" not in g else g["S"][None]
        emd = matcher._emd(known, moved, patches)
        yield compare(f"{name}: earth mover's scores", emd, g["emd_score"])
        if "emd_cost0" in g:
            distance = earth_movers_distance([g["emd_cost0"]])[0]
            yield compare(f"{name}: earth mover's distance of a recorded cost", 1 - distance, g["emd_score"][0])
        moved = replace(prompts, moved=g["S"][None]) if "S" in g else prompts
        for measure, ours in zip(
            ("emd_score", "purity", "coverage"), matcher._measures(query, reference, moved, masks), strict=True
        ):
            yield compare(f"{name}: {measure} of our masks", ours, g[measure])
        (candidate,) = matcher.decode(query, [reference], [prompts])
    asked = [tuple(map(tuple, p.points.astype(int).tolist())) for p in prompts.subsets]
    chosen = [asked.index(tuple(map(tuple, part.prompts.points.astype(int).tolist()))) for part in candidate.parts]
    yield compare(f"{name}: prompts whose masks are merged", chosen, g["nms_keep"][g["chosen"]], 0)
    yield compare(f"{name}: mean predicted IoU", candidate.predicted_iou, g["sam_score"])
    differing = (candidate.mask != _bits(g["merged_bits"])).mean()
    yield compare(f"{name}: share of differing pixels of the merged mask", differing, np.array(0.0), 1e-4)
    merged = _bits(g["merged_bits"])
    yield compare(f"{name}: foreground IoU", foreground_iou(areas(candidate.mask, truth)), g["fg_iou"])
    vector = described(matcher, query.image, merged)
    yield compare(f"{name}: selection vector", vector[0], g["q_vec"][0])
    score = float(vector[0] @ reference.tensors["padded_descriptors"][0])
    yield compare(f"{name}: selection score", score, g["base"])
    gradient = gradient_of_d(matcher, query, reference, candidate, torch.zeros_like(shift))
    yield compare(f"{name}: length of the gradient (relative)", *relative(gradient.norm(), g["grad_l2"]))
    recorded = g["grad"] if "grad" in g else g["grad_slice"]
    ours = gradient if "grad" in g else gradient[0, :, ::8, ::8]
    yield compare(f"{name}: gradient (relative to its largest value)", *relative(ours, recorded))


def _bits(packed: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed, axis=-1)[..., :SIZE].astype(bool)
