"""Frameworks by name: ours, a file's class, and another package's; and what is refused."""

from __future__ import annotations

import sys

import pytest
from command_line import flat, run

import prmagic
from prmagic.frameworks.gfsam import GfSam
from prmagic.frameworks.matcher import Matcher
from prmagic.frameworks.persam import PerSam, PerSamF
from prmagic.frameworks.published import PublishedMatcher
from prmagic.frameworks.registry import FRAMEWORKS, PUBLISHED, find, framework_names, preset_names, variant

THEIRS = """
from dataclasses import dataclass

from prmagic.frameworks.base import Preset
from prmagic.frameworks.persam import PerSam
from prmagic.options import option
from prmagic.flow import Flow


@dataclass(frozen=True)
class Options:
    shade: int = option(3, "How dark")


class Theirs(PerSam):
    name = "theirs"
    Options = Options
    presets = {"default": Preset(Options(4), Flow(steps=1)), "other": Preset()}


class Unfinished(__import__("prmagic").Framework):
    name = "unfinished"

    def decode(self, *asked):
        return []


class Nameless(__import__("prmagic").Framework):
    encode_support = sample_prompts = decode = logits = None


class Loose(PerSam):
    Options = dict


class Demanding(PerSam):
    Options = dataclass(frozen=True)(type("Demanding", (), {"__annotations__": {"shade": int}}))


class Listed(PerSam):
    presets = ["default"]


class Bare(PerSam):
    presets = {"mine": Preset()}


number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "theirs_of_tests.py"
    path.write_text(THEIRS)
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with entry points, as pip leaves it."""
    (tmp_path / "theirs_installed.py").write_text(THEIRS)
    for name, code in (("broken", "1 / 0"), ("slip", "def"), ("leaving", "raise SystemExit(3)")):
        (tmp_path / f"theirs_{name}.py").write_text(code)
    told = tmp_path / "theirs_installed-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs-installed\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(
        "[prmagic.frameworks]\ntheirs = theirs_installed:Theirs\ngone = theirs_nowhere:Theirs\n"
        "raises = theirs_broken:Theirs\nslip = theirs_slip:Theirs\nleaves = theirs_leaving:Theirs\n"
        "nothing = theirs_installed:Nothing\nnumber = theirs_installed:number\npersam = theirs_installed:Theirs\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("theirs_installed", None)


def test_ours():
    assert framework_names()[:4] == ["persam", "persam-f", "matcher", "gf-sam"]
    assert [find(name) for name in FRAMEWORKS] == [PerSam, PerSamF, Matcher, GfSam]
    assert all(built.name == name for name, built in {**FRAMEWORKS, **PUBLISHED}.items())
    assert find(PerSam) is PerSam


def test_presets():
    assert {name: preset_names(name) for name in FRAMEWORKS} == {
        "persam": ["default", "paper"], "persam-f": ["default", "paper"], "matcher": ["default", "paper", "official"],
        "gf-sam": ["default", "paper"],
    }  # fmt: skip
    assert variant("matcher", "default").framework is Matcher
    assert variant("matcher", "official").framework is PublishedMatcher
    with pytest.raises(ValueError, match=r"unknown preset of matcher 'offical': did you mean 'official'\?"):
        variant("matcher", "offical")


class TestFile:
    def test_its_class_is_a_framework_with_options_and_presets_of_its_own(self, file, sam, mini):
        theirs = f"{file}:Theirs"
        assert find(theirs).name == "theirs"
        assert preset_names(theirs) == ["default", "other"]
        segmenter = prmagic.load(theirs, sam=sam, shade=5)
        assert (segmenter.framework.options.shade, segmenter.flow.steps) == (5, 1)
        assert prmagic.load(theirs, sam=sam).framework.options.shade == 4
        support = prmagic.Support(mini["support_rgb"], mini["support_mask"])
        assert segmenter.segment(mini["query_rgb"], segmenter.encode_support(support)).mask.shape == (90, 120)

    @pytest.mark.parametrize(
        "name, told",
        [
            ("Thiers", r"has no class 'Thiers': did you mean 'Theirs'\? Known: "),
            ("number", r":number is no framework: a framework is a class derived from prmagic\.Framework"),
            ("Options", "is no framework"),
            ("Unfinished", r"lacks the method\(s\) encode_support, logits, sample_prompts"),
            ("Bare", "has no preset called default"),
            ("Nameless", r'Nameless has no name: write such as name = "mine"'),
            ("Demanding", r"the Options of .*:Demanding cannot be made without arguments \(TypeError: .*shade"),
            ("Listed", r"the presets of .*:Listed must be a dictionary"),
            ("Loose", r"the Options of .*:Loose must be a dataclass"),
            ("", "has no class ''"),
        ],
    )
    def test_classes_that_are_none(self, name, told, file):
        with pytest.raises(ValueError, match=told) as raised:
            find(f"{file}:{name}")
        assert str(file) in str(raised.value)

    def test_no_file(self, tmp_path):
        with pytest.raises(ValueError, match=r"there is no file .*nowhere\.py: .* given as FILE\.py:CLASS"):
            find(f"{tmp_path / 'nowhere.py'}:Theirs")

    @pytest.mark.parametrize(
        "content, told",
        [
            ("import nothing_of_the_kind", "line 1: ModuleNotFoundError"),
            ("def", "SyntaxError: .*line 1"),
            ("x = 1\n1 / 0", "line 2: ZeroDivisionError: division by zero$"),
            ("import sys\nsys.exit('no')", "line 2: SystemExit: no"),
        ],
    )
    def test_a_file_that_fails(self, content, told, tmp_path):
        (tmp_path / "broken_of_tests.py").write_text(content)
        with pytest.raises(ValueError, match=rf"broken_of_tests\.py cannot be loaded: {told}"):
            find(f"{tmp_path / 'broken_of_tests.py'}:Theirs")

    def test_an_installed_module_of_the_same_name_is_not_replaced(self, tmp_path, sam):
        """A user's file may be called as any module is."""
        import json

        (tmp_path / "json.py").write_text(THEIRS)
        assert find(f"{tmp_path / 'json.py'}:Theirs").name == "theirs"
        assert sys.modules["json"] is json


class TestAnotherPackage:
    def test_its_entry_point_is_a_name(self, package, sam):
        assert "theirs" in framework_names()
        assert framework_names().count("persam") == 1
        assert prmagic.load("theirs", sam=sam).framework.name == "theirs"
        assert find("persam") is PerSam  # ours cannot be taken

    @pytest.mark.parametrize(
        "name, told",
        [
            ("gone", r"the framework gone cannot be loaded from theirs_nowhere:Theirs: ModuleNotFoundError: No module"),
            ("nothing", r"the framework nothing cannot be loaded from theirs_installed:Nothing"),
            ("raises", r"the framework raises cannot be loaded from theirs_broken:Theirs: ZeroDivisionError: division"),
            ("slip", r"the framework slip cannot be loaded from theirs_slip:Theirs: SyntaxError: "),
            ("leaves", r"the framework leaves cannot be loaded from theirs_leaving:Theirs: SystemExit: 3"),
            ("number", r"number \(theirs_installed:number\) is no framework"),
        ],
    )
    def test_entry_points_that_are_none(self, name, told, package):
        with pytest.raises(ValueError, match=told):
            find(name)
        assert find("theirs").name == "theirs"


def test_the_help_lists_the_settings_of_those_that_work(package):
    said = run("segment", "--help-all")
    assert said.exit_code == 0 and "--set with theirs" in said.output
    assert "The framework raises cannot be loaded from theirs_broken:Theirs: ZeroDivisionError" in flat(said.output)


@pytest.mark.parametrize("wrong", [3, None, int, lambda sam: None])
def test_what_is_no_class(wrong):
    with pytest.raises(ValueError, match="is no framework"):
        find(wrong)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"'matchr': did you mean 'matcher'\? Known: .*persam-f.*, or FILE\.py:CLASS"):
        find("matchr")
