"""Numbers, names and tables as HTML and JSON that no name of other people can break out of."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

Study: TypeAlias = Mapping[str, Any]
"""What an evaluation found, as plain data; see `report.page`."""

NOTHING = "–"
ARROWS = {"less": ("↓", "less is better"), "more": ("↑", "more is better")}


def number(value: Any, unit: str = "") -> str:
    """A number as people read it: percentages with one decimal, others with three or so."""
    if not known(value):
        return NOTHING
    size = abs(float(value))
    if unit == "%":
        shown = f"{size:.1f}"
    elif size == 0:
        shown = "0"
    elif size >= 1e6 or size < 1e-3:
        digits, power = f"{size:.2e}".split("e")
        shown = f"{digits}e{int(power)}".replace("e-", "e−")
    else:
        shown = f"{size:.{0 if size >= 1000 else 1 if size >= 100 else 3}f}"
    sign = "−" if value < 0 and re.search("[1-9]", shown) else ""
    return sign + shown + (f"\u00a0{unit}" if unit else "")


def interval(low: Any, high: Any, unit: str = "") -> str:
    """An interval's ends, as exact as `number` is; the unit stands beside it already."""
    return " to ".join(number(end, unit).removesuffix(f"\u00a0{unit}") for end in (low, high))


def known(value: Any) -> bool:
    """Whether it is a number that can be shown: neither None, nor NaN, nor infinite."""
    return isinstance(value, int | float) and math.isfinite(value)


def clean(words: str) -> str:
    """`words` without characters that a page cannot hold or that would turn its order around."""
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in words)


def text(value: Any) -> str:
    """Anything for HTML, within an element or a quoted attribute."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{text(k)}: {text(v)}" for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(text, value))
    return escape(clean(str(value)))


def as_json(value: Any) -> str:
    """JSON for a script element: no text in it can end the element, and no number is NaN."""

    def plain(part: Any) -> Any:
        if isinstance(part, str):
            return clean(part)
        if isinstance(part, Mapping):
            return {key: plain(one) for key, one in part.items()}
        if isinstance(part, list | tuple):
            return [plain(one) for one in part]
        if isinstance(part, int) or part is None:
            return part
        return float(f"{part:.6g}") if known(part) else None

    whole = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", whole)


def digest(template: str, start: str, end: str) -> str:
    """What the policy must say to allow the style or the script of the template."""
    inside = template.split(start)[1].split(end)[0]
    return base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()


def sections(parts: Mapping[str, tuple[str, str]]) -> str:
    """Sections by id, with heading and content as HTML; those without content are left out."""
    return "\n".join(
        f'<section id="{key}">\n<h2>{name}</h2>\n{inside}\n</section>'
        for key, (name, inside) in parts.items()
        if inside
    )


def table(heads: Iterable[str], rows: Iterable[str], kind: str, caption: str) -> str:
    """A table that scrolls by itself on a narrow screen; its cells are HTML already."""
    top = "".join(heads)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f'<table class="{kind}"><caption class="unseen">{caption}</caption>'
        + (f"<thead><tr>{top}</tr></thead>" if top else "")
        + f"{''.join(rows)}</table></div>"
    )


def counted(count: int, what: str) -> str:
    """A number of things, in the singular or the plural."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def lasted(seconds: float) -> str:
    """A duration as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def arrow(metric: Mapping[str, Any]) -> str:
    """The mark of a metric: whether less or more is better, in words for those who cannot see."""
    if metric["better"] not in ARROWS:
        return ""
    sign, words = ARROWS[metric["better"]]
    seen = f'<span title="{words}" aria-hidden="true">{sign}</span>'
    return f' {seen}<span class="unseen">, {words}</span>'
