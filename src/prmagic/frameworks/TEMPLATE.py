"""A complete framework: copy this file, rename the class, change what is yours. See docs/add-a-framework.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prmagic.backbones.promptable import Embedding
from prmagic.flow import Flow
from prmagic.frameworks.base import Framework, Preset, Query
from prmagic.frameworks.maps import cosine_map, peak, to_mask, to_photo
from prmagic.options import option
from prmagic.reference import Example, Reference
from prmagic.types import Candidate, Prompts


@dataclass(frozen=True)
class TemplateOptions:
    """What can be set."""

    background: bool = option(False, "Also place a background point where the photo is least like the examples")


class Template(Framework):
    """The mean feature of the supports, the place most like it as a point, and one mask of SAM."""

    name = "template"
    Options = TemplateOptions
    presets: ClassVar[Mapping[str, Preset]] = {
        "default": Preset(flow=Flow(objective="foreground", rho=0.1), selector="cycle-recall")
    }

    def encode_support(
        self, examples: Sequence[Example], queries: Sequence[Query], rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        """The mean (C,) of the features under the masks, a unit vector."""
        pairs = zip(examples, queries, strict=True)
        sums = [query.tokens.cover([example.mask])[0] @ query.tokens.vectors for example, query in pairs]
        return {"mean": F.normalize(torch.stack(sums).sum(0), dim=0)}

    def sample_prompts(
        self, query: Query, references: Sequence[Reference], shifts: Sequence[Tensor], rngs: Sequence[torch.Generator]
    ) -> list[Prompts]:
        """The place where z₀ + shift is most like the mean."""
        frame = query.embedding.frame
        rows, columns = frame.cells  # the other cells of the embedding are padding
        found = []
        for reference, shift in zip(references, shifts, strict=True):
            cosines = cosine_map(query.embedding.features + shift, reference.tensors["mean"].to(shift))
            similarity = cosines[:rows, :columns].cpu().numpy()
            places = [peak(similarity), peak(-similarity)] if self.options.background else [peak(similarity)]
            points = to_photo(np.array(places, np.float32), similarity.shape, frame)
            labels = np.array([1, 0])[: len(points)]
            found.append(Prompts(points, labels, similarity=similarity))
        return found

    def decode(self, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts]) -> list[Candidate]:
        """Of SAM's three masks the one that it holds to be best."""
        decoded = self.sam.decode(query.embedding, prompts)
        found = []
        for each, logits, iou in zip(prompts, decoded.logits, decoded.predicted_iou, strict=True):
            best = int(iou.argmax())
            mask = to_mask(logits[best], query.embedding.frame)
            found.append(Candidate(mask, each, float(iou[best]), logits[best], best))
        return found

    def logits(
        self, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
        embeddings: Sequence[Embedding],
    ) -> list[Tensor]:  # fmt: skip
        """The same mask at the moved embeddings, without the padding."""
        answers = self.sam.decode(embeddings, [candidate.prompts for candidate in candidates]).logits
        masks = [answer[candidate.channel] for answer, candidate in zip(answers, candidates, strict=True)]
        return [query.embedding.frame.over_photo(mask)[None] for mask in masks]
