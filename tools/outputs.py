"""The outputs that notebooks are committed with: what is kept of a run, and whether a fresh run says the same.

A reader of the repository sees results without running anything, so the outputs have to be true: tools/docs.py compares what the committed
notebooks say with what they have just said, and `--write` replaces it.
"""

import base64
import io
import json
import re
from itertools import zip_longest

NUMBER = re.compile(r"(?<![\w.])([-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)", re.I)
EXPLORER = 'class="explorer"'


def text(x):
    return x if isinstance(x, str) else "".join(x)


def small(png):
    "A picture with a palette of 256 colours, as base64: a third of the size, and no eye sees it"
    from PIL import Image

    full = Image.open(io.BytesIO(base64.b64decode(png)))
    full.convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE).save(
        out := io.BytesIO(), format="png", optimize=True, dpi=full.info.get("dpi", (80, 80))
    )
    return base64.b64encode(out.getvalue()).decode()


def kept(output):
    "What is committed of an output: text and one picture, no static explorer; `None` for what is said on stderr"
    if output["output_type"] == "stream":
        return (
            dict(output_type="stream", name="stdout", text=text(output["text"]).splitlines(True))
            if output["name"] == "stdout"
            else None
        )
    data = {
        k: v for k, v in output["data"].items() if not (k == "text/html" and EXPLORER in text(v))
    }
    if "image/png" in data:
        data |= {"text/plain": "<picture>"}
    data = {k: v if k.startswith("image") else text(v).splitlines(True) for k, v in data.items()}
    return dict(output_type="display_data", metadata={}, data=data) if data else None


def outputs(cell):
    "The outputs of a cell that are committed: none where the page hides the cell"
    if cell["cell_type"] != "code" or re.search(
        r"(?m)^#\| *(?:hide|output: *false|include: *false)\b", text(cell["source"])
    ):
        return []
    out = []
    for o in filter(None, map(kept, cell.get("outputs", []))):
        if out and "text" in o and "text" in out[-1]:
            out[-1]["text"] += o[
                "text"
            ]  # a kernel sends what is printed in as many pieces as it likes
        else:
            out.append(o)
    for o in out:
        if "text" in o:
            o["text"] = "".join(o["text"]).splitlines(True)
    return out


def words(output):
    "What an output says, without its pictures"
    return (
        text(output["text"])
        if "text" in output
        else "\n".join(text(v) for k, v in sorted(output["data"].items()) if k.startswith("text/"))
    )


def alike(a, b):
    "Whether two texts say the same: the same words, and numbers that differ by one in the last digit shown, at most"
    first, second = NUMBER.split(a), NUMBER.split(b)
    if first[::2] != second[::2]:
        return False
    return all(
        x == y or _near(x.replace("−", "-"), y.replace("−", "-"))
        for x, y in zip(first[1::2], second[1::2])
    )


def _near(x, y):
    from decimal import Decimal

    exponents = [Decimal(v).as_tuple().exponent for v in (x, y)]
    return exponents[0] == exponents[1] < 0 and abs(Decimal(x) - Decimal(y)) <= Decimal(1).scaleb(
        exponents[0]
    )


def stale(committed, fresh):
    "The cells whose committed outputs say something else than those of a fresh run, or show a picture more or less"
    for old, new in zip(committed["cells"], fresh["cells"], strict=True):
        for a, b in zip_longest(old.get("outputs", []), outputs(new)):
            same = (
                a
                and b
                and ("image/png" in a.get("data", {})) == ("image/png" in b.get("data", {}))
                and alike(words(a), words(b))
            )
            if not same:
                yield new["id"], *(words(o) if o else "(nothing)" for o in (a, b))


def write(path, fresh, looks_alike):
    "Give a committed notebook the outputs of a fresh run; a picture that looks the same stays"
    nb = json.loads(path.read_text(encoding="utf-8"))
    for old, new in zip(nb["cells"], fresh["cells"], strict=True):
        if old["cell_type"] != "code":
            continue
        made = outputs(new)
        for a, b in zip(old["outputs"], made):
            png = [o.get("data", {}).get("image/png") for o in (a, b)]
            if all(png) and looks_alike(*map(base64.b64decode, png)):
                b["data"]["image/png"] = png[0]
        old["outputs"] = made
    path.write_text(
        json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
    )
