"""What a framework is: an in-context segmenter that turns the likeness to supports into prompts for SAM.

The loop in `refine.py` knows nothing else of it. A new framework is one file with one class and four methods:
`encode_support`, `sample_prompts`, `decode` and `logits`. `TEMPLATE.py` is one; docs/add-a-framework.md explains it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Embedding, Promptable
from prmagic.backbones.runtimes import MIXED
from prmagic.backbones.tokens import Tokens
from prmagic.flow import Flow
from prmagic.reference import Example, Reference, ReferenceMismatch, preview, supports_digest
from prmagic.stopwatch import Stopwatch
from prmagic.types import ByteArray, Candidate, Prompts


@dataclass(frozen=True)
class NoOptions:
    """For a framework that has none."""


@dataclass(frozen=True)
class Preset:
    """Settings that belong together.

    Args:
        options: The framework's; None: the defaults of its `Options`.
        flow: How the embedding moves.
        selector: What chooses the candidate: a name in `prmagic.select.SELECTORS`, or a selector.
    """

    options: Any = None
    flow: Flow = field(default_factory=Flow)
    selector: Any = "reencode"


class Query:
    """A photo and what the models make of it. Each model sees it once, when that is first needed.

    image: (H, W, 3) uint8. memo: what a framework has worked out about this photo, for later steps.
    """

    def __init__(
        self, image: ByteArray, framework: Framework, embedding: Embedding | None = None, tokens: Tokens | None = None
    ):
        self.image = image
        self.memo: dict[Hashable, Any] = {}
        self._framework, self._embedding, self._tokens = framework, embedding, tokens

    @property
    def embedding(self) -> Embedding:
        """SAM's z₀."""
        if self._embedding is None:
            (self._embedding,) = self._framework.embeddings([self.image])
        return self._embedding

    @property
    def tokens(self) -> Tokens:
        """What is compared with the supports: the encoder's patches, or SAM's where there is no encoder."""
        if self._tokens is None:
            if self._framework.encoder is None:
                self._tokens = self._framework.sam.tokens(self.embedding)
            else:
                (self._tokens,) = self._framework.encoder_tokens([self.image])
        return self._tokens


class Framework(ABC):
    """An in-context segmenter that prompts SAM. Derive from it, and write the four abstract methods.

    A shift is always G_t = z_t − z₀, shaped like SAM's embedding, (1, C, h, w). All methods answer for several
    references at once (labels of one photo), so that SAM's decoder is called once for all.

    Attributes:
        name: What users call it.
        Options: A frozen dataclass of what can be set; fields are made with `prmagic.options.option`.
        presets: Named settings; "default" must be one of them.
        uses_encoder: Whether it compares another encoder's tokens (DINOv2, DINOv3) instead of SAM's.
        margin: How many times its own answer's cycle-recall the selector `judge` asks of another mask; 0: nothing.
        keeps_masks_in_bfloat16: Whether masks hardly change where SAM's image encoder, and no other, runs in bfloat16;
            then the dtype `auto` takes it.
    """

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    presets: ClassVar[Mapping[str, Preset]] = {"default": Preset()}
    uses_encoder: ClassVar[bool] = False
    margin: ClassVar[float] = 0.0
    keeps_masks_in_bfloat16: ClassVar[bool] = False

    def __init__(self, sam: Promptable, options: Any = None, encoder: Dino | None = None):
        self.sam = sam
        self.encoder = encoder
        self.options = self.Options() if options is None else options
        self.code = code_digest([type(self)])  # now: the file may change while it is used
        self.stopwatch = Stopwatch()  # of all that this thread did with this framework; so are `counts`

    @classmethod
    def build(cls, sam: Promptable, encoder: Dino | None, options: Any) -> Framework:
        """The framework on these models; encoder: None unless `uses_encoder`."""
        return cls(sam, options, encoder)

    @abstractmethod
    def encode_support(
        self, examples: Sequence[Example], queries: Sequence[Query], rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        """What later steps need of the supports.

        Args:
            examples: K ≥ 1 photos with their masks.
            queries: The same photos as the models see them.
            rng: All random draws come from it.

        Returns:
            Tensors by name. The supports' tokens are in the reference anyway (`Reference.supports`).
        """

    @abstractmethod
    def sample_prompts(
        self, query: Query, references: Sequence[Reference], shifts: Sequence[Tensor], rngs: Sequence[torch.Generator]
    ) -> list[Prompts]:
        """Eq. (2): the prompts that the likeness of each reference with z₀ + its shift gives."""

    @abstractmethod
    def decode(self, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts]) -> list[Candidate]:
        """Eq. (3): the mask of each prompt set, always decoded from the untouched z₀."""

    @abstractmethod
    def logits(
        self, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
        embeddings: Sequence[Embedding],
    ) -> list[Tensor]:  # fmt: skip
        """What the discriminator d is a function of.

        Args:
            query: The photo.
            references: What is looked for, one per candidate.
            candidates: Their prompts are constants here.
            embeddings: Where d is taken, one per candidate; with a graph.

        Returns:
            For each candidate the logits of its n masks over the photo, (n, h, w), with a graph.
        """

    def next_prompts(self, query: Query, reference: Reference, earlier: Sequence[Prompts]) -> Prompts | None:
        """What the flow `spread` asks next: the prompts of the most alike place away from the earlier ones.

        None: there is no such place, or the framework asks at all alike places at once."""
        return None

    @property
    def reference_settings(self) -> Mapping[str, Any]:
        """The settings on which a reference depends; JSON values."""
        return {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """All settings that decide the results, beside the models; JSON values."""
        return {**asdict(self.options), **self._input}

    @property
    def _input(self) -> dict[str, Any]:
        return {} if self.encoder is None else {"encoder_input": list(self.encoder.input_size)}

    @property
    def models(self) -> tuple[Promptable | Dino, ...]:
        """SAM and, where it uses one, the encoder."""
        return (self.sam,) if self.encoder is None else (self.sam, self.encoder)

    @property
    def comparer(self) -> Promptable | Dino:
        """The model whose features are compared: E in eq. (4)."""
        return self.sam if self.encoder is None else self.encoder

    @property
    def counts(self) -> dict[str, int]:
        """How often this thread did the costly things: photos encoded, prompt sets decoded, those with a gradient."""
        calls = self.sam.calls
        found = {"encodes": calls.encodes, "decodes": calls.decodes, "gradient_decodes": calls.gradient_decodes}
        return found if self.encoder is None else {**found, "encoder_encodes": self.encoder.calls.encodes}

    @property
    def placement(self) -> dict[str, str]:
        """Where the models run: device, and dtype and runtime of the image encoders, as `prmagic.load` takes them."""
        kinds = [str(model.dtype).removeprefix("torch.") for model in self.models]
        return {
            "device": self.sam.device.type,
            "dtype": MIXED if kinds == ["bfloat16", "float32"] else kinds[0],
            "runtime": "+".join(dict.fromkeys(model.runtime for model in self.models)),
        }

    @property
    def signature(self) -> dict[str, str]:
        """Compared with a reference's `made_by`. A framework from outside of this package adds a digest of its code."""
        return {
            "framework": self.name,
            "model": "+".join(model.fingerprint for model in self.models),
            "model_name": " + ".join(model.name for model in self.models),  # for people; one model may have several
            "settings": json.dumps({**self.reference_settings, **self._input}, sort_keys=True),
            **({"code": self.code} if self.code else {}),
        }

    def embeddings(self, images: Sequence[ByteArray]) -> list[Embedding]:
        """SAM's, of photos (H, W, 3) uint8."""
        with self.stopwatch("encode"):
            return self.sam.encode(images)

    def encoder_tokens(self, images: Sequence[ByteArray]) -> list[Tokens]:
        """The encoder's, of photos (H, W, 3) uint8."""
        assert self.encoder is not None
        with self.stopwatch("tokens"):
            return self.encoder.tokens(images)

    def encode_queries(self, images: Sequence[ByteArray]) -> list[Query]:
        """Photos (H, W, 3) uint8, each encoded once for all references and steps; on a GPU together."""
        embeddings = self.embeddings(images)
        tokens = [None] * len(images) if self.encoder is None else self.encoder_tokens(images)
        each = zip(images, embeddings, tokens, strict=True)
        return [Query(image, self, embedding, token) for image, embedding, token in each]

    def learn(
        self,
        examples: Sequence[Example],
        rng: torch.Generator,
        label: str = "",
        keep: Mapping[str, Tensor] | None = None,
    ) -> Reference:
        """The reference of K ≥ 1 supports; keep: further tensors to put into it."""
        queries = [Query(example.image, self) for example in examples]
        return self.reference(examples, queries, {**self.encode_support(examples, queries, rng), **(keep or {})}, label)

    def reference(
        self, examples: Sequence[Example], queries: Sequence[Query], tensors: Mapping[str, Tensor], label: str = ""
    ) -> Reference:
        """The supports' tokens and these tensors, signed by this framework."""
        tokens = [query.tokens for query in queries]
        shares = [each.cover([example.mask])[0] for each, example in zip(tokens, examples, strict=True)]
        kept = {
            "tokens": torch.cat([each.vectors for each in tokens]), "shares": torch.cat(shares),
            "token_counts": torch.tensor([len(each) for each in shares]),
        }  # fmt: skip
        made_by = {**self.signature, "supports": supports_digest(examples)}
        return Reference({**kept, **tensors}, made_by, preview(examples[0]), label)

    def check(self, reference: Reference) -> None:
        """Raise ReferenceMismatch if another framework, model or setting made it, or other code of this framework."""
        theirs, mine = reference.made_by, self.signature
        for what in ("framework", "model", "settings"):
            if theirs.get(what) == mine[what]:
                continue
            shown = "model_name" if what == "model" and theirs.get("model_name") != mine["model_name"] else what
            was, now = theirs.get(shown), mine[shown]
            if what == "settings":
                was, now = _differing(was, now), _differing(now, was)
            raise ReferenceMismatch(
                f"this reference was made with {what} {was}, but here with {now}: "
                "use the same one, or make the reference anew from the support photos"
            )
        if theirs.get("code") != mine.get("code"):
            raise ReferenceMismatch(
                f"the code of the framework {self.name} has changed since this reference was made: "
                "make the reference anew from the support photos"
            )


def _differing(settings: str | None, others: str | None) -> str:
    """Those of the settings (JSON) that the others have not, such as: points 5."""
    mine, theirs = json.loads(settings or "{}"), json.loads(others or "{}")
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in mine.items() if theirs.get(name) != value)


def code_digest(kinds: Iterable[type]) -> str:
    """Of the files outside of this package and of Python's library that define these classes and what they derive from;
    empty if there are none."""
    files = []
    for kind in (base for each in kinds for base in each.__mro__):
        home = kind.__module__.partition(".")[0]
        ours = home == "prmagic" and ":" not in kind.__module__  # FILE.py:CLASS has a colon
        if ours or home in sys.stdlib_module_names:
            continue
        with suppress(TypeError, OSError):  # built in, or typed at a prompt
            files.append(Path(inspect.getfile(kind)).read_bytes())
    digests = sorted({hashlib.sha256(content).hexdigest() for content in files})
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16] if digests else ""
