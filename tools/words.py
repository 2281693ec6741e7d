"""Words that lead to a page: those of the glossary, at their first use, and those that are searched for.

A term of nbs/glossary.ipynb is a heading; other forms of it stand in brackets below, as the first
words of its text. A page's search words are the `keywords` of its first cell.
"""

import re

from mend import FENCED

TERM = re.compile(r"(?m)^### (.+)\n+(?:\(([^)]*)\))?")
# Where a word is no prose: formulas, code, links, tags, headings, front matter
NO_PROSE = re.compile(
    r"""(?mx)
    ^\#{1,6}\ [^\n]*
    | `+[^`]*`+
    | \$\$.*?\$\$ | \$[^$\n]+\$
    | !?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\([^)\n]*\)
    | <figure\b.*?</figure> | <[^>\n]+> | https?://\S+ | \{[^}\n]*\}
    """,
    re.DOTALL,
)
SHORTEST = 3  # letters of a heading that is a word of its own; γ and "On" need brackets


def anchor(heading):
    "What a heading is called in an address"
    return re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-"))


def terms(nb):
    "Every form of every term of the glossary, and where it leads"
    found = {}
    for cell in nb["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        for heading, others in TERM.findall("".join(cell["source"])):
            forms = [heading] if len(heading) >= SHORTEST else []
            forms += [form.strip() for form in others.split(",") if form.strip()]
            found |= {form: f"/glossary.html#{anchor(heading)}" for form in forms}
    return found


class Glossary:
    "Links the terms of a page that have not been met on it yet"

    def __init__(self, found):
        self.found = {self._plain(form): to for form, to in found.items()}
        longest = sorted(found, key=len, reverse=True)
        either = "|".join(map(self._either_case, longest))
        self.word = re.compile(rf"(?<![\w/.-])(?:{either})(?![\w/-])")
        self.seen = set()

    @staticmethod
    def _plain(form):
        return form[0].lower() + form[1:]

    @staticmethod
    def _either_case(form):
        "A form at the start of a sentence as well"
        first = form[0]
        is_latin = first.isascii() and first.isalpha()
        either = f"[{first.lower()}{first.upper()}]" if is_latin else re.escape(first)
        return either + re.escape(form[1:])

    def new_page(self):
        self.seen = set()

    def _link(self, m):
        to = self.found[self._plain(m[0])]
        if to in self.seen:
            return m[0]
        self.seen.add(to)
        return f"[{m[0]}]({to})"

    def _of_prose(self, md):
        parts = []
        last = 0
        for other in NO_PROSE.finditer(md):
            parts += [self.word.sub(self._link, md[last : other.start()]), other[0]]
            last = other.end()
        return "".join(parts) + self.word.sub(self._link, md[last:])

    def link(self, md):
        "A text of the page, read after those before it; its references stay as they are"
        prose, references, rest = md.partition("## References")
        parts = FENCED.split(prose)
        for i in range(0, len(parts), 2):  # blocks of code are the odd ones
            parts[i] = self._of_prose(parts[i])
        return "".join(parts) + references + rest


def search_entries(pages):
    "What search finds besides the text: an entry for each keyword of each page"
    entries = []
    for page in pages:
        for word in page.keywords:
            made = dict(href=page.href, title=page.title, section=word, text=page.subtitle)
            entries.append(dict(objectID=f"{page.href}?{word}") | made)
    return entries
