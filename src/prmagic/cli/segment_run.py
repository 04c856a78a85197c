"""The work of `prmagic segment`: photos through a segmenter, into a folder of results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmagic.cli.terminal import explain, progress_bar, say

if TYPE_CHECKING:
    from PIL.Image import Image

    from prmagic import Reference, Segmentation, Segmenter
    from prmagic.distributed import Cluster, SegmentPlan
    from prmagic.io.runs import RunFolder


@dataclass(frozen=True, eq=False)
class SegmentRun:
    """One run of the command. files: with their names in the results; spread_over: None for this process alone."""

    segmenter: Segmenter
    references: Mapping[str, Reference]
    files: Mapping[str, Path]
    out: Path
    batch_size: int
    pictures: bool
    instances: bool
    overlaps: bool
    spread_over: tuple[SegmentPlan, Cluster] | None

    def finish(self, overwrite: bool) -> int:
        """Segment what is not done; the number of photos that could not be used."""
        from prmagic.ahead import behind
        from prmagic.io.records import locked
        from prmagic.io.runs import ends_run

        with locked(self.out):
            run = self._folder(overwrite)
            tally = Tally()
            waiting = run.waiting(self.files.items(), list(self.references), tally.skip)
            if done := len(self.files) - len(waiting) - len(tally.skipped):
                say(f"{done} of {len(self.files)} photos are done already.")
            with progress_bar("Segmenting", len(waiting) * len(self.references)) as (progress, task):

                def skip(name: str, error: Exception) -> None:
                    if tally.skip(name, error):
                        progress.advance(task, len(self.references))

                ended: list[Exception] = []

                def write(result: Segmentation) -> None:
                    if ended:  # this one was already waiting: records stay in order
                        raise ended[0]
                    try:
                        self._write(run, result, waiting[result.query])
                    except Exception as error:
                        if not isinstance(error, OSError) or ends_run(error):
                            ended.append(error)
                        raise

                for result, written in behind(self._results(waiting, skip), write):
                    try:
                        written.result()
                    except OSError as error:
                        if ends_run(error):
                            raise
                        skip(result.query, error)
                        continue
                    tally.add(result)
                    progress.advance(task)
        say(tally.summary(len(self.files) - done, self.out, self.segmenter.min_score))
        return len(tally.skipped)

    def _folder(self, overwrite: bool) -> RunFolder:
        from prmagic.io.runs import RunFolder, weights

        framework = self.segmenter.framework
        digests = {label: reference.digest for label, reference in self.references.items()}
        settings: dict[str, Any] = {
            "settings": self.segmenter.settings, "references": digests, "instances": self.instances,
        }  # fmt: skip
        if len(digests) > 1:
            settings["overlaps"] = self.overlaps
        notes = {"model": framework.signature["model_name"], "weights": weights(framework)}
        return RunFolder(self.out, settings, notes, overwrite)

    def _results(self, waiting: Mapping[str, Path], skip: Callable[[str, Exception], None]) -> Iterator[Segmentation]:
        if self.spread_over is not None:
            return _from_cluster(*self.spread_over, waiting, self.batch_size, skip)
        return self.segmenter.stream(
            waiting.values(), self.references, names=waiting, batch_size=self.batch_size, on_error=skip,
            instances=self.instances, overlaps=self.overlaps,
        )  # fmt: skip

    def _write(self, run: RunFolder, result: Segmentation, file: Path) -> None:
        from prmagic.io.finding import file_sha256
        from prmagic.strips import candidate_strip

        if (result.query, result.label) in run.done:
            return
        sha256 = file_sha256(file)
        pictures: dict[str, Image] = {}
        if self.pictures:
            strip = candidate_strip(result, result.image, self.references[result.label].preview)
            pictures = {"overlays": result.overlay(), "candidates": strip}
        run.add(result, sha256, pictures)


@dataclass(eq=False)
class Tally:
    """What came out, for the last line."""

    skipped: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)
    things: int | None = None  # None: not told apart
    empty: int = 0
    rejected: int = 0
    taken: int = 0

    def skip(self, name: str, error: Exception) -> bool:
        """Tell why a photo cannot be used, once; whether it was the first time."""
        if name in self.skipped:
            return False
        self.skipped.add(name)
        say(f"{name}: {explain(error)}", "Skipped")
        return True

    def add(self, result: Segmentation) -> None:
        from prmagic.io.runs import given_away

        if result.instances is not None:
            self.things = (self.things or 0) + len(result.instances)
        self.empty += not result.found
        self.rejected += result.rejected
        self.taken += not result.found and given_away(result) > 0
        for stage, spent in result.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def summary(self, photos: int, out: Path, min_score: float | None) -> str:
        done = photos - len(self.skipped)
        reasons = [f"{self.rejected} for a score below {min_score:g}"] if self.rejected else []
        reasons += [f"{self.taken} as other labels have all its pixels"] if self.taken else []
        why = f" ({', '.join(reasons)})" if reasons else ""
        things = "" if self.things is None else f"{self.things} thing(s) found, "
        empty = f"{self.empty} mask(s) empty{why}"
        told = f"{done} photo(s) segmented, {things}{empty}, {len(self.skipped)} skipped. Results: {out}"
        if not done:
            return told
        total = sum(self.seconds.values()) / done
        stages = ", ".join(f"{stage} {spent / done:.2f}" for stage, spent in self.seconds.items())
        return f"{told}\nA photo took {total:.2f} s on average: {stages}."


def _from_cluster(
    plan: SegmentPlan,
    cluster: Cluster,
    waiting: Mapping[str, Path],
    batch_size: int,
    skip: Callable[[str, Exception], None],
) -> Iterator[Segmentation]:
    """The same results as from this process, in the order in which the workers are done."""
    from prmagic.distributed import Skipped, spread

    photos = [(name, str(file.resolve())) for name, file in waiting.items()]
    batches: Iterable[list[tuple[str, str]]] = (
        photos[start : start + batch_size] for start in range(0, len(photos), batch_size)
    )
    for results in spread(plan.work, batches, cluster):
        for result in results:
            if isinstance(result, Skipped):
                skip(result.name, ValueError(result.why))
            else:
                yield result
