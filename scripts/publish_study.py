"""Copy a finished study into docs/results: page, linked pictures (in fewer colours, a third as large) and every result.

Paths of this checkout are told from its top.

.venv/bin/python scripts/publish_study.py table1
"""

import re
import shutil
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^):#]+)\)")
COLOURS = 128


def main(name: str) -> None:
    runs, published = ROOT / "runs" / "studies" / name, ROOT / "docs" / "results" / name
    page = runs / "README.md"
    if not page.is_file():
        sys.exit(f"there is no {page}; run `unigrpo reproduce {name}` first")
    if "**Not finished**" in page.read_text():
        sys.exit(f"{page} names runs that are missing; run `unigrpo reproduce {name}` again, then publish")
    linked = [runs / each for each in LINK.findall(page.read_text())]
    shutil.rmtree(published, ignore_errors=True)
    for source in [page, runs / "study.yaml", *linked, *runs.glob("*/*/result.json")]:
        target = published / source.relative_to(runs)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".png":
            Image.open(source).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
        else:
            target.write_text(source.read_text().replace(f"{ROOT}/", ""))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
