"""Files, folders and patterns, and the names of what they hold."""

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from prmagic.io.finding import query_name
from prmagic.io.images import ImageError, find_images


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the working folder hold a few (empty) files."""
    for name in (
        "a/x.jpg",
        "a/deep/y.PNG",
        "a/deep/notes.txt",
        "a/.hidden.jpg",
        "a/.cache/z.jpg",
        "b/x.jpg",
        "c/b/x.jpg",
        "same/x.jpg",
        "same/x.png",
        "odd/p[1].png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*paths: str | Path) -> list[tuple[str, str]]:
    return [(file.as_posix(), name.as_posix()) for file, name in find_images(paths)]


@pytest.mark.parametrize(
    "paths, expected",
    [
        pytest.param([], [], id="nothing asked"),
        pytest.param(["a/x.jpg"], [("a/x.jpg", "x.jpg")], id="file"),
        pytest.param(["a/deep/notes.txt"], [("a/deep/notes.txt", "notes.txt")], id="any file given by name"),
        pytest.param(["a"], [("a/deep/y.PNG", "deep/y.PNG"), ("a/x.jpg", "x.jpg")], id="folder"),
        pytest.param(["a/.cache"], [("a/.cache/z.jpg", "z.jpg")], id="hidden folder given by name"),
        pytest.param(["a/*.jpg"], [("a/x.jpg", "x.jpg")], id="pattern"),
        pytest.param(["?/x.jpg"], [("a/x.jpg", "a/x.jpg"), ("b/x.jpg", "b/x.jpg")], id="pattern for folders"),
        pytest.param(["a/**/*.PNG"], [("a/deep/y.PNG", "deep/y.PNG")], id="recursive"),
        pytest.param(
            ["a/**"],
            [("a/deep/y.PNG", "deep/y.PNG"), ("a/x.jpg", "x.jpg")],
            id="last **",
        ),
        pytest.param(["a/**/*.txt"], [("a/deep/notes.txt", "deep/notes.txt")], id="a pattern for nothing but text"),
        pytest.param(["odd/p[1].png"], [("odd/p[1].png", "p[1].png")], id="a file that looks like a pattern"),
        pytest.param(
            ["a/x.jpg", "a", "a/../a/x.jpg"], [("a/x.jpg", "x.jpg"), ("a/deep/y.PNG", "deep/y.PNG")], id="once"
        ),
        pytest.param(["a/../b/x.jpg"], [("a/../b/x.jpg", "x.jpg")], id="no climbing"),
        pytest.param(["a/x.jpg", "b/x.jpg"], [("a/x.jpg", "a/x.jpg"), ("b/x.jpg", "b/x.jpg")], id="one parent"),
        pytest.param(
            ["a/x.jpg", "b/x.jpg", "c/b/x.jpg"],
            [("a/x.jpg", "a/x.jpg"), ("b/x.jpg", "{root}/b/x.jpg"), ("c/b/x.jpg", "c/b/x.jpg")],
            id="as many parents as it takes",
        ),
        pytest.param(["same"], [("same/x.jpg", "x.jpg"), ("same/x.png", "x.png")], id="two suffixes"),
    ],
)
def test_find_images(tree: Path, paths: list[str], expected: list[tuple[str, str]]) -> None:
    assert found(*paths) == [(file, name.replace("{root}", tree.name)) for file, name in expected]


def test_absolute_and_single_paths(tree: Path) -> None:
    assert find_images([tree / "a"]) == [
        (tree / "a/deep/y.PNG", Path("deep/y.PNG")),
        (tree / "a/x.jpg", Path("x.jpg")),
    ]
    assert find_images([f"{tree}/b/*"]) == [(tree / "b/x.jpg", Path("x.jpg"))]
    assert find_images("b") == [(Path("b/x.jpg"), Path("x.jpg"))]


def test_names_are_distinct_and_stay_below(tree: Path) -> None:
    for name in ("x_jpg.jpg", "X.GIF", "x_jpg_2.jpg"):
        (tree / "same" / name).touch()
    pairs = find_images(["same", "a", "b", "c", "same/../odd"])
    assert len({name for _, name in pairs}) == len(pairs) == 10
    assert not any(name.is_absolute() or ".." in name.parts for _, name in pairs)
    assert pairs == find_images(["same", "a", "b", "c", "same/../odd"])


def test_a_climb_through_a_link_is_another_file(tree: Path) -> None:
    (tree / "b/link").symlink_to(tree / "a/deep")
    # b/link/.. is a, though its text says b
    pairs = find_images(["b/x.jpg", "b/link/../x.jpg"])
    assert len({name for _, name in pairs}) == 2
    assert pairs[1][0].samefile("a/x.jpg")


def test_links_do_not_loop_or_repeat(tree: Path) -> None:
    (tree / "a/again").symlink_to(tree / "a")
    (tree / "a/deep/up").symlink_to(tree)
    (tree / "a/side").symlink_to(tree / "a/deep")
    (tree / "a/w.jpg").symlink_to(tree / "a/x.jpg")
    assert found("a") == found("a/**/*.[jP]*") == [("a/deep/y.PNG", "deep/y.PNG"), ("a/w.jpg", "w.jpg")]
    assert found("a/again") == [("a/again/deep/y.PNG", "deep/y.PNG"), ("a/again/w.jpg", "w.jpg")]


def test_photos_behind_linked_folders_are_found(tree: Path) -> None:
    (tree / "b/linked").symlink_to(tree / "a")
    (tree / "b/twice").symlink_to(tree / "a")
    expected = [("b/linked/deep/y.PNG", "linked/deep/y.PNG"), ("b/linked/x.jpg", "linked/x.jpg"), ("b/x.jpg", "x.jpg")]
    assert found("b") == found("b/**") == found("b/**/*.*") == expected
    assert found("b/*/*.jpg") == expected[1:2]


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".Tif", ".TGA", ".ppm", ".jp2", ""])
def test_unusual_suffixes_are_taken(tmp_path: Path, suffix: str) -> None:
    kind = {".jp2": "JPEG2000", ".TGA": "TGA", ".ppm": "PPM", ".Tif": "TIFF"}.get(suffix, "JPEG")
    Image.new("RGB", (4, 3)).save(tmp_path / f"a{suffix}", kind)
    (tmp_path / "README").write_text("no photo")
    assert [name for _, name in find_images(tmp_path)] == [Path(f"a{suffix}")]


def test_what_cannot_be_read_is_counted_and_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prmagic.io.finding.IMAGE_SUFFIXES", frozenset({".jpg", ".png"}))
    for name in ("1.heic", "2.HEIC", "deep/3.heic", "4.avif", "5.CR2", "6.mov", "7.txt"):
        (tree / "a" / name).touch()
    Image.new("RGB", (4, 3)).save(tree / "a/8.jpg_original", "JPEG")
    with pytest.warns(UserWarning) as notes:
        assert len(find_images("a")) == 2
    assert str(notes[0].message) == (
        "left out: 1 .avif (pip install 'pillow>=11.3'), 1 .cr2 (develop raw photos to JPEG or PNG), "
        "3 .heic (pip install 'prmagic[heif]'), "
        "1 .jpg_original (images by their content: give them a suffix that says so), "
        "1 .mov (videos: name them themselves)"
    )
    (tree / "phone").mkdir()
    (tree / "phone/1.heic").touch()
    with pytest.raises(ImageError, match=r"phone holds no images that can be read. Left out: 1 .heic \(pip install"):
        find_images("phone")


def test_broken_links_and_pipes_are_counted(tree: Path) -> None:
    for name in ("1.jpg", "2.JPG", "3.txt", ".4.jpg"):
        (tree / "a" / name).symlink_to(tree / "gone.jpg")
    (tree / "a/loop.png").symlink_to("loop.png")
    told = r"left out: 3 broken link\(s\) \(what they point to is not there\)"
    with pytest.warns(UserWarning, match=rf"{told}$"):
        assert found("a") == [("a/deep/y.PNG", "deep/y.PNG"), ("a/x.jpg", "x.jpg")]
    assert found("a/x*") == [("a/x.jpg", "x.jpg")]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tree / "a/pipe.jpg")
        with pytest.warns(UserWarning, match=rf"{told}, 1 pipe\(s\) or device\(s\) \(save the images"):
            found("a")
    for name in ("a/x.jpg", "a/deep/y.PNG"):
        (tree / name).unlink()
    with pytest.raises(ImageError, match=r"a holds no images that can be read. Left out: 3 broken link\(s\)"):
        found("a")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may read everything")
def test_a_folder_that_cannot_be_read_is_told(tree: Path) -> None:
    (tree / "a/deep").chmod(0)
    with pytest.warns(UserWarning, match=r"left out: the folder a/deep \(Permission denied\)"):
        assert found("a") == [("a/x.jpg", "x.jpg")]


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_names_become_text_and_stay_distinct() -> None:
    names = [
        b"caf\xe9.jpg",
        "café.jpg".encode(),
        rb"caf\xe9.jpg",
        rb"caf\\xe9.jpg",
        rb"a\b.jpg",
        b"\xff\xfe/\xe9.png",
        b"a\nb.jpg",
    ]
    texts = [query_name(Path(os.fsdecode(name))) for name in names]
    assert texts == [
        r"caf\xe9.jpg", "café.jpg", r"caf\\xe9.jpg", r"caf\\\\xe9.jpg", r"a\b.jpg", r"\xff\xfe/\xe9.png", "a\nb.jpg",
    ]  # fmt: skip
    for text in texts:
        assert json.loads(json.dumps(text)) == text


@pytest.mark.parametrize(
    "path, message",
    [
        ("a/y.jpg", r"a/y\.jpg does not exist$"),
        ("a/x.png", r"a/x\.png does not exist: did you mean a/x\.jpg\?"),
        ("same/x_2.jpg", r"does not exist$"),
        ("pipe.jpg", "pipe.jpg is a pipe or device"),
        ("link.jpg", "link.jpg does not exist: it is a link to a file that is not there"),
        ("nowhere/x.jpg", "there is no folder nowhere"),
        ("a/*.webp", r"no file matches a/\*\.webp$"),
        ("nowhere/*.jpg", "there is no folder nowhere"),
        ("a/*/../../b/x.jpg", "no file matches"),
        ("empty", r"empty holds no images$"),
    ],
)
def test_nothing_found(tree: Path, path: str, message: str) -> None:
    (tree / "empty").mkdir()
    os.mkfifo(tree / "pipe.jpg")
    (tree / "link.jpg").symlink_to(tree / "gone")
    with pytest.raises(ImageError, match=message):
        find_images(["b", path])
