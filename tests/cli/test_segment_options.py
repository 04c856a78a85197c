"""The options of `prmagic segment` act, and what cannot be is said."""

from pathlib import Path

import pytest
from command_line import FAST, SAM, check_results, flat, lines, records, run, segment, settings

MATCHER = ("--framework", "matcher")


@pytest.mark.parametrize(
    "option, candidates",
    [
        (("--steps", 0), 1),
        (("--steps", 2), 3),
        (("--set", "steps=2"), 3),
        (("--flow", "none"), 1),
        (("--set", "flow=none"), 1),
        (("--flow", "noise", "--steps", 1), 2),
    ],
)
def test_number_of_candidates(work, option, candidates):
    segment("photos/a.png", "--no-pictures", "--selector", "cycle-recall", *option)
    (line,) = lines()
    assert len(line["candidates"]) == len(line["scores"]) == candidates
    if candidates == 1:
        assert line["scores"] == [None] and line["chosen"] == 0
    check_results()


def test_strong_noise_gives_other_candidates(work):
    strong = ("--no-pictures", "--set", "eta=10", "--set", "gamma=10", "--steps", 2)
    segment("photos/a.png", *strong)
    segment("photos/a.png", *strong, "--seed", 1, out="other seed")
    counts = [[c["rle"]["counts"] for c in lines(out)[0]["candidates"]] for out in ("found", "other seed")]
    assert len({*counts[0]}) > 1
    assert counts[0][0] == counts[1][0]  # the baseline draws no noise
    assert counts[0] != counts[1]
    assert settings()["flow"] | {"eta": 10.0, "gamma": 10.0, "steps": 2} == settings()["flow"]


def test_selector_framework_and_preset(work):
    segment("photos/a.png", *FAST, "--selector", "reencode", out="selector")
    assert settings("selector")["selector"] == "reencode" != settings_of_default()["selector"]
    segment("photos/a.png", *FAST, "--framework", "persam", out="persam")
    (line,) = lines("persam")
    assert line["candidates"][0]["labels"] == [1, 0]  # PerSAM has a background point
    segment("photos/a.png", *FAST, "--preset", "paper", out="paper")
    assert settings("paper")["preset"] == "paper"
    assert settings("paper")["flow"] != settings_of_default()["flow"]
    segment("photos/a.png", *FAST, "--dtype", "bfloat16", "--device", "cpu", out="bfloat16")
    assert settings("bfloat16")["dtype"] == "bfloat16"
    for out in ("selector", "persam", "paper", "bfloat16"):
        check_results(out)


def settings_of_default():
    if not Path("default").exists():
        segment("photos/a.png", *FAST, out="default")
    return settings("default")


def test_set_takes_a_frameworks_options_and_the_flows(work):
    chosen = ("--set", "extra_points=0.99/0.90", "--set=points=3", "--set", "objective=sum", "--set", "rho=none")
    segment("photos/a.png", *FAST, *chosen)
    assert settings()["flow"] | {"objective": "sum", "rho": None, "steps": 1} == settings()["flow"]
    assert len(lines()[0]["candidates"][0]["points"]) == 3


def test_a_framework_in_a_file(work):
    Path("mine.py").write_text(
        "from prmagic.frameworks.persam import PerSam\n\n\nclass Mine(PerSam):\n    name = 'mine'\n"
    )
    segment("photos/a.png", *FAST, "--framework", "mine.py:Mine")
    assert settings()["framework"] == "mine"
    segment("photos/a.png", *FAST, "--framework", "persam", out="same")
    assert lines()[0]["candidates"] == lines("same")[0]["candidates"]
    assert "has no class 'Your'" in segment("photos", "--framework", "mine.py:Your", out="x", code=2)


def test_a_cache_keeps_what_was_learnt(work):
    segment("photos/a.png", *FAST, "--cache", "kept")
    assert len(list(Path("kept").iterdir())) == 1
    segment("photos/a.png", *FAST, "--cache", "kept", out="again")
    assert records("again") == records()


@pytest.mark.parametrize(
    "option, said",
    [
        (("--preset", "papper"), "did you mean 'paper'"),
        (("--framework", "persamf"), "did you mean 'persam-f'"),
        (("--framework", "macher"), "did you mean 'matcher'"),
        (("--framework", "none.py:Mine"), "here is no file none.py"),
        (("--preset", "official"), "nknown preset of persam-f 'official'"),
        (("--encoder", "embedded"), "leave the encoder out"),
        (("--set", "encoder_size=64"), "has no setting 'encoder_size'"),
        (("--set", "centers=3"), "has no setting 'centers'"),
        ((*MATCHER, "--set", "centers=0"), "centers"),
        ((*MATCHER, "--set", "centre=3"), "did you mean 'centers'"),
        (("--set", "rho=0"), "rho must be"),
        (("--set", "etta=1"), "did you mean 'eta'"),
        (("--set", "eta"), "write NAME=VALUE"),
        (("--set", "eta=much"), "eta 'much' is not a number"),
        (("--set", "eta=1", "--set", "eta=2"), "--set eta is given twice"),
        (("--set", "steps=1", "--steps", "2"), "--steps and --set steps are the same setting"),
        (("--set", "objective=margin"), "nknown objective 'margin'"),
        (("--flow", "noise", "--set", "rho=0.1"), "rho"),
        ((*MATCHER, "--set", "extra_points=none"), "has no setting 'extra_points'"),
        ((*MATCHER, "--encoder", "embeded"), "o encoder is called 'embeded': did you mean 'embedded'"),
        ((*MATCHER, "--encoder", "photos"), "has no config.json"),
        ((*MATCHER, "--encoder", "cat.png"), "cat.png is no checkpoint"),
        ((*MATCHER, "--encoder", SAM), "is a 'sam' model"),
        ((*MATCHER, "--set", "encoder_size=0"), "encoder_size"),
        (("--set", "selector=guard"), "selector is an option of its own: write --selector guard"),
        (("--set", "batch-size=3"), "batch-size is an option of its own: write --batch-size 3"),
        (("--set", "min_score=0.1"), "min_score is an option of its own: write --min-score 0.1"),
        (("--selector", "re-encode"), "did you mean 'reencode'"),
        (("--dtype", "float"), "did you mean 'float32'"),
        (("--flow", "ful"), "full"),
        (("--sam", "embeded"), "did you mean 'embedded'"),
        (("--sam", "photos"), "has no config.json"),
        (("--device", "foo"), "evice 'foo' cannot be used here"),
        (("--device", "cuda:99"), "evice 'cuda:99' cannot be used here"),
        (("--steps", "-1"), "steps must be"),
        (("--steps", "many"), "valid integer"),
        (("--set", "eta=nan"), "eta 'nan' is not a number"),
        (("--set", "gamma=-1"), "gamma must be a finite number"),
        (("--min-score", "2"), "min_score"),
        (("--batch-size", "0"), "--batch-size"),
        (("--max-pixels", "0"), "--max-pixels"),
        (("--threads", "1000000000000"), "--threads"),
        (("--cache", ""), "--cache is empty: is a variable unset?"),
        (("--support-dir=",), "--support-dir is empty"),
        (("--out", ""), "--out is empty"),
        (("--workers", "2"), "--workers and --gpus-per-worker are for --ray"),
        (("--suport", "x"), "--support"),
    ],
)
def test_options_that_cannot_be(work, option, said):
    result = run("segment", "photos", "--support", "cat.png", "cat_mask.png", "--out", "x", "--sam", SAM, *option)
    assert result.exit_code == 2
    assert said.casefold() in flat(result.output).casefold()
    assert not Path("x").exists()


@pytest.mark.parametrize(
    "old, new",
    [
        (("--eta", "0.01"), "--eta is a setting now: write --set eta=0.01"),
        (("--gamma=0.1",), "--gamma is a setting now: write --set gamma=0.1"),
        (("--rho", "0.2"), "write --set rho=0.2"),
        (("--extra-points", "none"), "write --set extra_points=none"),
        (("--centers", "8"), "write --set centers=8"),
        (("--encoder-size", "64"), "write --set encoder_size=64"),
        (("--encoder-size",), "write --set encoder_size=VALUE"),
        (("--bridge", "ridge"), "--bridge is gone"),
        (("--set", "bridge=pad"), "ridge cannot be set any more"),
        (("--preset", "paper-coco"), "The preset 'paper-coco' is gone: write --preset paper"),
        (("--preset", "default-parts"), "write --preset default --set eta=1e-4"),
        (("--preset", "official-fss"), "write --preset official"),
        (("--selector", "fusion"), "The selector 'fusion' is gone: choose judge, reencode, cycle-recall or guard"),
        (("--flow", "drift"), "The flow 'drift' is gone: choose spread, full, noise or none"),
        (("--set", "flow=resample"), "flow 'resample'"),
    ],
)
def test_old_names_say_the_new_ones(work, old, new):
    result = run("segment", "photos", "--support", "cat.png", "cat_mask.png", "--out", "x", "--sam", SAM, *old)
    assert result.exit_code == 2
    assert new in flat(result.output)
    assert not Path("x").exists()


def test_a_file_may_be_called_like_an_old_option(work):
    Path("photos/a.png").rename("--eta")
    result = run("segment", "--steps", 0, "--support", "cat.png", "cat_mask.png", "--out", "found", "--sam", SAM,
                 "--", "--eta")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(lines()) == 1


@pytest.mark.parametrize(
    "given, told",
    [
        (("--steps", 1, "--set", "flow=none"), "Note: Flow none leaves steps without effect"),
        (("--flow", "none", "--set", "eta=1", "--selector", "guard"), "none leaves eta, selector without effect"),
        (("--steps", 0, "--set", "gamma=1"), "0 steps leaves gamma without effect"),
        (("--flow", "noise", "--set", "objective=sum"), "noise leaves objective without effect"),
        (("--flow", "spread", "--set", "eta=1", "--steps", 1), "Flow spread leaves eta without effect"),
        (("--set", "eta=1", "--steps", 1), ""),  # asks for the gradient
        ((*MATCHER, "--steps", 1, "--selector", "guard"), "Flow spread with matcher leaves steps, selector without"),
        ((*MATCHER, "--steps", 1, "--flow", "full", "--selector", "guard"), ""),
        (("--flow", "none"), ""),
        (("--flow", "noise", "--set", "eta=1", "--steps", 1), ""),
    ],
)
def test_settings_without_effect_are_told(work, given, told):
    said = segment("photos/a.png", "--no-pictures", *given)
    assert told in said and ("without effect" in said) == bool(told)


def test_a_framework_of_a_file_that_fails_while_it_runs_is_a_sentence(work):
    Path("own.py").write_text(
        "from prmagic.frameworks.persam import PerSam\nclass Own(PerSam):\n    name = 'own'\n"
        "    def encode_support(self, *given):\n        return {}['target']\n"
    )
    said = segment("photos", *FAST, "--framework", "own.py:Own", code=2)
    assert "own.py, line 5: KeyError: 'target'. PRMAGIC_DEBUG=1 shows the whole traceback" in said
