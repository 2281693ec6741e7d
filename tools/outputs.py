"""The outputs that notebooks are committed with, and whether a fresh run says the same.

A reader of the repository sees results without running anything, so the outputs have to be true:
tools/docs.py compares what the committed notebooks say with what they have just said, and `--write`
replaces it. Another processor or another patch release of a dependency must not make them false, so
`alike` compares what matters:

- words: the same, apart from the spaces and rules that line up a table;
- a number with decimals: within one unit of the last digit shown, or 1 ‰ of its value, whichever is
  more; with as many digits after the point, so that a format that changes is seen; a number that is
  written out to its last bit has no format, and one bit makes it longer or shorter;
- a percentage without decimals: within one;
- a whole number: the same, because it names, counts or measures something that is the same
  everywhere; but a number of iterations or steps within 2, or 5 %: where a search stops depends on
  the last bits of its sums;
- what is rounding and not result: any two numbers below 1e-7, zero among them (no output is in
  ampere metres: amplitudes are in nAm, µV and fT).

Pictures are compared when they are written: one that looks the same stays.

Some results go with the processor all the same: a chain of a sampler takes another way after one
different rounding, and so may a search among many optima. A cell that begins with the comment
`# other machines, other digits` says so to the reader, too; of such a cell only the number of
outputs and of pictures is compared.
"""

import base64
import io
import json
import re
from decimal import Decimal
from itertools import zip_longest

NUMBER = re.compile(r"(?<![\w.])([-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)", re.I)
EXPLORER = 'class="explorer"'
OF_A_MACHINE = re.compile(r"(?m)^# other machines, other digits$")
HIDDEN = re.compile(r"(?m)^#\| *(?:hide|output: *false|include: *false)\b")


def text(x):
    "A string as notebooks keep it, in one piece or in lines"
    return x if isinstance(x, str) else "".join(x)


# ---- what is kept


def small(png):
    "A picture with a palette of 256 colours, as base64: a third of the size, and no eye sees it"
    from PIL import Image

    full = Image.open(io.BytesIO(base64.b64decode(png)))
    reduced = full.convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE)
    out = io.BytesIO()
    reduced.save(out, format="png", optimize=True, dpi=full.info.get("dpi", (80, 80)))
    return base64.b64encode(out.getvalue()).decode()


def kept_text(output):
    "What was printed; `None` for what is said on stderr"
    if output["name"] != "stdout":
        return None
    lines = text(output["text"]).splitlines(keepends=True)
    return dict(output_type="stream", name="stdout", text=lines)


def words_of_picture(data):
    "What an explorer says of its picture; of others a kernel knows only `<Figure …>`"
    said = text(data.get("text/plain", ""))
    return "<picture>" if said.startswith("<") or not said else said


def kept_data(data):
    "Text and one picture, no static explorer; `None` where nothing is left"
    kept = {}
    for kind, value in data.items():
        if kind.startswith("image"):
            kept[kind] = value
        elif not (kind == "text/html" and EXPLORER in text(value)):
            kept[kind] = text(value).splitlines(keepends=True)
    if "image/png" in kept:
        kept["text/plain"] = words_of_picture(data).splitlines(keepends=True)
    return dict(output_type="display_data", metadata={}, data=kept) if kept else None


def kept(output):
    "What is committed of an output; `None` for nothing"
    if output["output_type"] == "stream":
        return kept_text(output)
    return kept_data(output["data"])


def outputs(cell):
    "The outputs of a cell that are committed: none where the page hides the cell"
    if cell["cell_type"] != "code" or HIDDEN.search(text(cell["source"])):
        return []
    found = []
    for output in filter(None, map(kept, cell.get("outputs", []))):
        if found and "text" in output and "text" in found[-1]:
            # a kernel sends what is printed in as many pieces as it likes
            joined = text(found[-1]["text"]) + text(output["text"])
            found[-1]["text"] = joined.splitlines(keepends=True)
        else:
            found.append(output)
    return found


def _shows_explorer(cell):
    data = [output.get("data", {}) for output in cell["outputs"]]
    return any(EXPLORER in text(d.get("text/html", "")) for d in data)


def as_committed(fresh, committed):
    "A notebook that was run, with committed outputs; explorers stay, which are not committed whole"
    for cell, before in zip(fresh["cells"], committed["cells"], strict=True):
        if cell["cell_type"] == "code" and not _shows_explorer(cell):
            cell["outputs"] = before["outputs"]
    return fresh


# ---- whether two say the same


def words(output):
    "What an output says, without its pictures"
    if "text" in output:
        return text(output["text"])
    said = [text(v) for kind, v in sorted(output["data"].items()) if kind.startswith("text/")]
    return "\n".join(said)


RELATIVE = Decimal("1e-3")  # of a value: nobody reads a result more closely
WRITTEN_OUT = 15  # digits: no format asks for so many, Python writes them for a float
ROUNDING = Decimal("1e-7")  # below it, a number says "nothing" in as many digits as it likes
COUNTED = re.compile(r"\b(?:iter-?|iterations?|steps?)\b", re.I)
LINED_UP = re.compile(r"[ \t]+|[-─═=]{4,}")
ROW = re.compile(r"\n|</tr>")


def alike(a, b):
    "Whether two texts say the same"
    first = ROW.split(a)
    second = ROW.split(b)
    return len(first) == len(second) and all(map(_alike, first, second))


def _alike(a, b):
    "Whether two lines, or two rows of a table, say the same"
    first = NUMBER.split(a)
    second = NUMBER.split(b)
    between = [LINED_UP.sub(" ", w).strip() for w in first[::2]]
    if between != [LINED_UP.sub(" ", w).strip() for w in second[::2]]:
        return False
    counted = bool(COUNTED.search(a))
    pairs = zip(first[1::2], second[1::2], between[1:], strict=True)
    return all(x == y or _near(x, y, after.startswith("%"), counted) for x, y, after in pairs)


def _near(x, y, percentage, counted):
    "Whether two numbers, as they are written, say the same"
    old, new = (Decimal(n.replace("−", "-")) for n in (x, y))
    change = abs(old - new)
    size = max(abs(old), abs(new))
    if change == 0 or size < ROUNDING:
        return _decimals(x) == _decimals(y) or size < ROUNDING
    if _is_whole(x) and _is_whole(y):
        allowed = 1 if percentage else max(2, size / 20) if counted else 0
        return change <= allowed
    if any(len(n.as_tuple().digits) >= WRITTEN_OUT for n in (old, new)):
        return change <= RELATIVE * size
    if _decimals(x) != _decimals(y):
        return False
    unit = Decimal(1).scaleb(max(n.as_tuple().exponent for n in (old, new)))
    return change <= max(unit, RELATIVE * size)


def _is_whole(number):
    return number.lstrip("+-−").isdigit()


def _decimals(number):
    "How many digits are shown after the point"
    return len(number.lower().partition("e")[0].partition(".")[2])


def _same(old, new, of_a_machine):
    "Whether two outputs say the same, and both or neither show a picture"
    if not (old and new):
        return False
    shown = ["image/png" in o.get("data", {}) for o in (old, new)]
    return shown[0] == shown[1] and (of_a_machine or alike(words(old), words(new)))


def stale(committed, fresh):
    "The cells that say something else than in a fresh run, or show a picture more or less"
    for old, new in zip(committed["cells"], fresh["cells"], strict=True):
        of_a_machine = bool(OF_A_MACHINE.search(text(new["source"])))
        for before, now in zip_longest(old.get("outputs", []), outputs(new)):
            if not _same(before, now, of_a_machine):
                said = [words(o) if o else "(nothing)" for o in (before, now)]
                yield new["id"], *said


# ---- commit them


def looks_alike(a, b):
    """Whether two pictures differ by no more than versions of fonts and renderers do

    Both are blurred to half a per cent of their width.
    """
    import numpy as np
    from PIL import Image, ImageFilter

    first, second = (Image.open(io.BytesIO(png)).convert("L") for png in (a, b))
    blur = ImageFilter.GaussianBlur(first.width / 200)
    blurred = [np.asarray(i.resize(first.size).filter(blur), float) for i in (first, second)]
    return np.abs(blurred[0] - blurred[1]).max() < 16


def write(path, fresh, looks_alike=looks_alike):
    "Give a committed notebook the outputs of a fresh run; a picture that looks the same stays"
    nb = json.loads(path.read_text(encoding="utf-8"))
    for old, new in zip(nb["cells"], fresh["cells"], strict=True):
        if old["cell_type"] != "code":
            continue
        made = outputs(new)
        for before, now in zip(old["outputs"], made, strict=False):
            pictures = [o.get("data", {}).get("image/png") for o in (before, now)]
            if all(pictures) and looks_alike(*map(base64.b64decode, pictures)):
                now["data"]["image/png"] = pictures[0]
        old["outputs"] = made
    content = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    path.write_text(content, encoding="utf-8")
