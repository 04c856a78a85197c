"""Models on the Hugging Face hub: what they are called, where they lie in its cache, and why one cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError

MAIN = "main"


@dataclass(frozen=True)
class HubModel:
    """One revision of a model on the hub: a branch, a tag, or a commit."""

    repository: str
    revision: str = MAIN

    def __str__(self) -> str:
        return self.repository if self.revision == MAIN else f"{self.repository}@{self.revision}"

    @property
    def folder(self) -> Path | None:
        """Where it lies in the cache, None if it does not."""
        config = try_to_load_from_cache(self.repository, "config.json", revision=self.revision)
        return Path(config).parent if isinstance(config, str) else None

    @property
    def page(self) -> str:
        """Its address, for people."""
        return f"{constants.ENDPOINT}/{self.repository}"

    @property
    def how_to_ask(self) -> str:
        """For a gated model."""
        return (
            f"{self} is gated: its owners want to be asked first. Ask for access at {self.page}; when it is granted, "
            "log in on this machine with `hf auth login`, and run this again."
        )

    def why_not(self, error: Exception, advice: str) -> str:
        """What an error in loading it means, and what to do. advice: what else may be wrong, at the end."""
        page = self.page
        download = f"hf download {self.repository}" + ("" if self.revision == MAIN else f" --revision {self.revision}")
        reason = str(error).strip().split("\n")[0].rstrip(".")
        causes = list(_causes(error))  # transformers hides the hub's errors behind its own

        def caused_by(kind: type[Exception]) -> bool:
            return any(isinstance(cause, kind) for cause in causes)

        refused = {cause.response.status_code for cause in causes if isinstance(cause, HfHubHTTPError)} & {401, 403}
        if caused_by(GatedRepoError):
            return self.how_to_ask
        if caused_by(RevisionNotFoundError):
            return (
                f"{self.repository} has no revision {self.revision!r}: see {page} for its branches, tags and commits."
            )
        if caused_by(RepositoryNotFoundError) or refused:
            return (
                f"the hub has no model {self.repository}, or does not show it to you. If it is a private one, log in "
                f"with `hf auth login`, as somebody who may see {page}. {advice}"
            ).rstrip()
        if caused_by(SafetensorError):
            return f"cannot load {self}: {reason}. Its files are damaged: `{download} --force-download` replaces them."
        if constants.HF_HUB_OFFLINE:
            return (
                f"{self} is not in the local cache, at least not all of it, and HF_HUB_OFFLINE is set, so that nothing "
                f"is downloaded. Unset it; or run `{download}` without it; or pass a local folder. {advice}"
            ).rstrip()
        return (
            f"cannot load {self}: {reason}. It is not in the local cache and could not be downloaded. Check the "
            f"connection; or run `{download}` where there is one; or pass a local folder. {advice}"
        ).rstrip()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
