"""Makes the pictures of the README and the docs: three of the demo's, smaller.

python docs/make_pictures.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from prmagic.cli.demo import demo

IMAGES = Path(__file__).parent / "images"
PICTURES = {"speaker": "found.jpg", "refined": "repaired.jpg", "failed": "failed.jpg"}
WIDTH = 1200  # pixels


def main() -> None:
    """Run the demo, write the pictures to docs/images, and say how large they are."""
    with TemporaryDirectory() as folder:
        demo(out=Path(folder))
        for shown, name in PICTURES.items():
            (file,) = Path(folder).glob(f"*_{shown}.jpg")
            with Image.open(file) as picture:
                picture.thumbnail((WIDTH, picture.height), Image.Resampling.LANCZOS)
                picture.save(IMAGES / name, quality=85, optimize=True)
            print(f"{name}: {picture.size}, {(IMAGES / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
