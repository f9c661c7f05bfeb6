"""Write the pages out as plain Markdown, with their numbers and figures: `python docs/render.py`."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))


def main() -> None:
    """Replace `docs/pages`."""
    from pages import made, pages, pictures, sources

    out = HERE / "pages"
    shutil.rmtree(out, ignore_errors=True)
    (out / "figures").mkdir(parents=True)
    (out / "theory").mkdir()
    with tempfile.TemporaryDirectory() as folder:
        generated = made(Path(folder))
        for name, text in pages(generated).items():
            (out / name).write_text(text, encoding="utf-8")
        for name, picture in pictures(generated).items():
            shutil.copy(picture, out / "figures" / name)
    (out / "figures" / "sources.json").write_text(json.dumps(sources(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
