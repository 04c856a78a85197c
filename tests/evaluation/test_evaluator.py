"""The evaluator itself: supports encoded once, photos read ahead, and portions for workers."""

from __future__ import annotations

import random
import shutil

import pytest
from miniatures import SAM, assert_equal_runs, evaluate, perseg_data

from prmagic import Support
from prmagic.datasets import open_dataset
from prmagic.evaluation.jobs import Job, in_chunks
from prmagic.evaluation.run import Plan


@pytest.fixture
def perseg(work):
    """Six episodes of two objects, each with one reference photo."""
    return open_dataset("perseg", perseg_data(work / "data"))


def evaluator(prefetch=2):
    load = {"framework": "persam", "sam": str(SAM), "steps": 1, "preset": "default"}
    plan = Plan(
        "perseg", "data", {}, load, size=None, keep_masks=True, prefetch=prefetch, batch_size=1, threads=1,
        all_scores=False,
    )  # fmt: skip
    return plan.build()


def test_records_do_not_depend_on_prefetching_and_batches(perseg):
    evaluate("perseg", "--prefetch", 0)
    evaluate("perseg", "--prefetch", 20, "--batch-size", 8, out="other")
    assert_equal_runs("other")


def test_supports_are_encoded_once(perseg):
    jobs = [Job(42, episode) for episode in perseg.episodes(0, 1, 42)]
    random.Random(0).shuffle(jobs)
    made = evaluator()
    calls = made.segmenter.framework.sam.calls

    before = calls.encodes
    support = perseg.photo(jobs[0].episode.supports[0], "cup")
    made.segmenter.encode_support(Support(support.image, support.mask))
    each = calls.encodes - before
    before = calls.encodes
    outcomes = list(made.run(jobs))
    ran = sum(outcome.record["counts"]["encodes"] for outcome in outcomes)
    assert calls.encodes - before == 2 * each + ran
    assert ["support" in outcome.record["seconds"] for outcome in outcomes] == [True, False, False] * 2
    assert {outcome.record["episode"] for outcome in outcomes} == {job.episode.id for job in jobs}

    last = outcomes[-1].record["class"]
    again = [job for job in jobs if job.episode.category == last]
    assert not any("support" in outcome.record["seconds"] for outcome in made.run(again))  # it is known still
    other = [Job(43, job.episode) for job in again]
    assert ["support" in outcome.record["seconds"] for outcome in made.run(other)] == [True, False, False]


def test_chunks_for_workers_have_one_set_of_supports_each(perseg):
    jobs = [Job(seed, episode) for seed in (1, 2) for episode in perseg.episodes(0, 1, seed)]
    random.Random(0).shuffle(jobs)
    chunks = in_chunks(jobs, 2)
    assert [len(chunk) for chunk in chunks] == [2, 1] * 4
    assert all(len({job.supports for job in chunk}) == 1 for chunk in chunks)
    assert sorted((job.seed, job.episode.id) for chunk in chunks for job in chunk) == sorted(
        (job.seed, job.episode.id) for job in jobs
    )


def test_photos_are_read_while_others_are_segmented(perseg):
    """Closed early, the readers end too; nobody waits for photos that are there."""
    made = evaluator(prefetch=1)
    outcomes = made.run([Job(42, episode) for episode in perseg.episodes(0, 1, 42)])
    assert next(outcomes).record["episode"] == "0/00000"
    shutil.rmtree("data/Images/cup")  # the next two are read already
    assert next(outcomes).record["episode"] == "0/00001"
    outcomes.close()
