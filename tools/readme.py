"README.md from the home page: its prose, its code, and what that says and draws."

import base64
import re
from pathlib import Path

import yaml
from outputs import looks_alike, text

HEAD = "<!-- made from nbs/index.ipynb by tools/docs.py -->"
KEYWORDS = re.compile(r"\n+- keywords: .*")  # of the page, for its search
MADE_LINK = re.compile(r"\[([^\]]*)\]\([\w-]+\.md\)")  # to pages that only the site has
INNER_LINK = re.compile(r"\]\((?!https?:|#|/)([^)]*)\)")
FIGURE_OPTION = re.compile(r"(?m)^#\| *fig-(alt|cap): *(.*)")


def keep_figure(png, path):
    "Write a picture's file, but only where the picture changed"
    path.parent.mkdir(exist_ok=True)
    if not (path.exists() and looks_alike(path.read_bytes(), png)):
        path.write_bytes(png)


def code(source):
    "A block of code as it is shown: without the options of its cell"
    return "```python\n" + re.sub(r"(?m)^#\|.*\n", "", source) + "\n```"


def said(cell, figures, root):
    "What a cell printed or drew; files of pictures are added to `figures`"
    options = FIGURE_OPTION.findall(text(cell["source"]))
    words = {name: yaml.safe_load(value) for name, value in options}
    for output in cell["outputs"]:
        data = output.get("data", {})
        printed = text(output.get("text") or data.get("text/plain", ""))
        if "image/png" in data:
            path = Path(f"nbs/images/index-{len(figures) + 1}.png")
            keep_figure(base64.b64decode(text(data["image/png"])), root / path)
            figures.append(path)
            yield f"![{words.get('alt', '')}]({path.as_posix()})"
            if "cap" in words:
                yield f"*{words['cap']}*"
        elif printed:
            yield f"```text\n{printed.rstrip()}\n```"


def markdown(nb, root):
    "The text of README.md; pictures are written into nbs/images, those of before removed"
    parts = [HEAD]
    figures = []
    for cell in nb["cells"]:
        source = text(cell["source"])
        if cell["cell_type"] == "markdown":
            prose = MADE_LINK.sub(r"\1", KEYWORDS.sub("", source))
            parts.append(INNER_LINK.sub(r"](nbs/\1)", prose))
        if cell["cell_type"] != "code" or re.match(r"#\| *hide", source):
            continue
        if not re.search(r"(?m)^#\| *echo: *false", source):
            parts.append(code(source))
        parts += said(cell, figures, root)
    for path in (root / "nbs/images").glob("index-*.png"):
        if path.relative_to(root) not in figures:
            path.unlink()
    return "\n\n".join(parts) + "\n"
