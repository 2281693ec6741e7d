"The benchmark of compressed time: its page is made from its figures"

from pathlib import Path

from benchmarks import compressed

FOLDER = Path(compressed.__file__).parent


def test_the_page_is_made_from_the_figures():
    assert (FOLDER / "compressed.md").read_text(encoding="utf-8") == compressed.document()
    for head in compressed.HEADS:
        assert (FOLDER / f"compressed-{head}.json").exists()
