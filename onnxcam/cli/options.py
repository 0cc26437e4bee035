"""Options that several commands share, how their values are written, and help in sections."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from onnxcam.api import Explainer
    from onnxcam.methods import Method

F = TypeVar("F", bound=Callable[..., Any])

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

PRESET_FIELDS = (
    *("size", "resize", "resize_to", "crop", "crop_fraction", "interpolation", "fill"),
    *("channel_order", "scale", "mean", "std", "layout"),
)
MOST_UNITS = 1_000_000  # in one --units: a slip such as 0-9999999999 must not fill the memory


class Parsed(click.ParamType[Any]):
    """A value that `parse` makes of the text; `form` says how it is written."""

    def __init__(self, name: str, form: str, parse: Callable[[str], Any]) -> None:
        """Names the type; `parse` raises ValueError for what it does not understand."""
        self.name, self.form, self.parse = name, form, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, or a usage error that says how to write it."""
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except (ValueError, ZeroDivisionError, OverflowError):
            self.fail(f"{value!r} is not {self.form}", param, ctx)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if not found:
        raise ValueError
    size = int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))
    if size < 1:
        raise ValueError
    return size


def _size(text: str) -> tuple[int, int]:
    sides = [int(side) for side in re.split(r"[x×,]", text.lower())]
    height, width = sides * 2 if len(sides) == 1 else sides
    return height, width


def _number(text: str) -> float:
    return float(Fraction(text)) if "/" in text else float(text)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_number(part) for part in text.strip("[]() ").split(","))


def _units(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not ends:
            raise ValueError
        first, last = int(ends[1]), int(ends[2] or ends[1])
        if last < first or last - first >= MOST_UNITS:
            raise ValueError
        found.extend(range(first, last + 1))
    return list(dict.fromkeys(found))


def _feed(text: str) -> tuple[str, Any]:
    name, given, value = text.partition("=")
    if not (name and given):
        raise ValueError
    if Path(value).is_file():
        from onnxcam.feeding import array_in

        path = Path(value)
        return name, array_in(path) if path.suffix.lower() in (".npy", ".npz") else path
    return name, json.loads(value)


BYTES = Parsed("bytes", "a number of bytes, such as 512MB or 2GB", _bytes)
SIZE = Parsed("size", "a size: 224, or height x width as in 224x192", _size)
NUMBER = Parsed("number", "a number, such as 0.017 or 1/255", _number)
NUMBERS = Parsed("numbers", "one number or one per channel, such as 0.485,0.456,0.406", _numbers)
UNITS = Parsed("units", "a list of units, such as 0-99,120", _units)
FEED = Parsed(
    "name=value",
    "NAME=VALUE, where VALUE is a number, JSON, or an existing .npy, .npz or picture file",
    _feed,
)


class Option(click.Option):
    """An option that is listed under the heading `section` in the help."""

    def __init__(self, *args: Any, section: str = "Options", **settings: Any) -> None:
        """As for click.Option."""
        super().__init__(*args, **settings)
        self.section = section


class Command(click.Command):
    """A command whose help lists the options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one list of options for each section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


def option(*names: str, section: str = "Options", **settings: Any) -> Callable[[F], F]:
    """A click option under a heading."""
    return click.option(*names, cls=Option, section=section, **settings)


def _together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


_MODEL, _PICTURE = "Model", "Preprocessing (each replaces that part of the preset)"

model_options: Callable[[Any], Any] = _together(
    option("--input", metavar="NAME", section=_MODEL,
           help="The image input, if several; or a tensor inside the model to start from."),
    option("--output", metavar="NAME", section=_MODEL, help="The output with the class scores."),
    option(
        *("--feed", "feeds"), type=FEED, multiple=True, metavar="NAME=VALUE", section=_MODEL,
        help="A value for another input: a number, JSON, a .npy file, or a picture. Repeatable.",
    ),
    option(
        "--max-model-bytes", type=BYTES, section=_MODEL, help="Largest model file [default: 8GB]."
    ),
)  # fmt: skip

preset_options: Callable[[Any], Any] = _together(
    option(
        *("--preset",), metavar="NAME|FILE", section=_PICTURE,
        help="A known preset by name, or a JSON file. Without it: a file beside the model, the "
        "model's metadata, or what fits the pictures best.",
    ),
    option("--size", type=SIZE, section=_PICTURE, help="Input size: 224, or HEIGHTxWIDTH."),
    option(
        "--resize", metavar="HOW", section=_PICTURE,
        help="none, stretch, shortest_side, center_square_then_stretch or letterbox.",
    ),
    option("--resize-to", type=int, metavar="PIXELS", section=_PICTURE,
           help="Shortest side after resizing, before the crop."),
    option("--crop", metavar="HOW", section=_PICTURE, help="center or none."),
    option("--crop-fraction", type=float, metavar="SHARE", section=_PICTURE,
           help="In place of --resize-to: crop over resized side, e.g. 0.875."),
    option("--letterbox", is_flag=True, section=_PICTURE,
           help="The whole picture with bars: --resize letterbox --crop none."),
    option("--fill", type=int, metavar="GREY", section=_PICTURE, help="Grey of bars, 0 to 255."),
    option("--interpolation", metavar="HOW", section=_PICTURE,
           help="nearest, box, bilinear, hamming, bicubic or lanczos."),
    option("--channel-order", metavar="ORDER", section=_PICTURE, help="RGB, BGR or GRAY."),
    option("--scale", type=NUMBER, section=_PICTURE,
           help="Factor on pixels of 0 to 255, e.g. 1/255; then minus mean, over std."),
    option("--mean", type=NUMBERS, section=_PICTURE, help="One number, or one per channel."),
    option("--std", type=NUMBERS, section=_PICTURE, help="One number, or one per channel."),
    option("--layout", metavar="LAYOUT", section=_PICTURE,
           help="NCHW or NHWC: stops if the model takes the other."),
    option("--max-pixels", type=click.IntRange(min=1), metavar="NUMBER", section=_PICTURE,
           help="Largest picture, width times height [default: 100000000]."),
)  # fmt: skip

_RUN, _METHOD = "Running", "Method"
OF_METHOD = "method_"  # before the names under which click hands over options of methods

how_options: Callable[[Any], Any] = _together(
    option(
        "--score", type=click.Choice(["logit", "probability"]), default="logit",
        show_default=True, section=_METHOD,
        help="What is explained: before or after a final softmax or sigmoid.",
    ),
    option(
        "--ablation", type=click.Choice(["exact", "literal"]), default="exact", show_default=True,
        section=_METHOD, help="literal: the slow reference, one run of the head for each unit.",
    ),
    option("--units", type=UNITS, section=_METHOD, help="Only these units, e.g. 0-99,120."),
    option(
        "--patches-only", is_flag=True, section=_METHOD,
        help="On token models, leave class tokens untouched when a unit goes off.",
    ),
    option(
        "--smooth", type=click.Choice(["none", "pca", "tta", "pca+tta"]), default="none",
        show_default=True, section=_METHOD,
        help="pca: the first principal component in place of the sum over units; tta: the mean "
        "over six mirrored and rescaled views.",
    ),
)  # fmt: skip

question_options: Callable[[Any], Any] = _together(
    option(
        *("--target", "-t"), multiple=True, metavar="CLASS", section=_METHOD,
        help="A class by index or name, or top5 for the five best; not:cat for the decision "
        "against a class. Repeatable [default: top1].",
    ),
    how_options,
)  # fmt: skip

running_options: Callable[[Any], Any] = _together(
    option(
        "--provider", metavar="NAME", default="auto", show_default=True, section=_RUN,
        help="auto, cpu, cuda, tensorrt, openvino, coreml, directml, rocm.",
    ),
    option(
        "--memory", type=BYTES, section=_RUN,
        help="For copies of units or images at once, e.g. 512MB [default: 1GB; on a GPU half of "
        "what is free].",
    ),
    option(
        "--threads", type=click.IntRange(min=0), metavar="NUMBER", default=0, section=_RUN,
        help="CPU threads [default: all cores].",
    ),
    option(
        "--no-cache", is_flag=True, section=_RUN,
        help="Neither use nor keep what an earlier call found out about the model.",
    ),
)  # fmt: skip

drawing_options: Callable[[Any], Any] = _together(
    option("--colormap", metavar="NAME", section="Results",
           help="Such as viridis [default: inferno]."),
    option(
        "--alpha", type=click.FloatRange(0, 1), metavar="SHARE", default=0.5, section="Results",
        help="Share of the colours in the overlay [default: 0.5].",
    ),
)  # fmt: skip


class MethodCommand(Command):
    """A command with the options of the methods, read from their table when they are needed."""

    _of_methods: list[click.Parameter] | None = None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The declared parameters and those of the method table."""
        if self._of_methods is None:
            self._of_methods = method_options()
        *declared, the_help = super().get_params(ctx)
        return [*declared, *self._of_methods, the_help]


def method_options() -> list[click.Parameter]:
    """An option of the command line for every option of a method."""
    found: list[click.Parameter] = []
    for key, by_method in method_takers().items():
        found.append(
            Option(
                [_spelt(key), OF_METHOD + key],
                section="Options of methods ('onnxcam methods NAME' explains them)",
                help=_for_methods(by_method), **_values(list(by_method.values())),
            )
        )  # fmt: skip
    return found


def method_takers() -> dict[str, dict[str, Any]]:
    """By option: the methods that have it, with its values."""
    from onnxcam.methods import METHODS

    takers: dict[str, dict[str, Any]] = {}
    for method in METHODS.values():
        name, held = method.name, set[str]()
        if method.fused:  # it has the options of the method that it is made of, and its own
            name, held = "guided-NAME", set(METHODS[name.removeprefix("guided-")].options)
        for key, values in method.options.items():
            if key not in held:
                takers.setdefault(key, {})[name] = values
    return takers


def _spelt(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _values(kinds: Sequence[Any]) -> dict[str, Any]:
    """How click reads an option that its methods give these values."""
    from onnxcam.methods import Number

    numbers = [kind for kind in kinds if isinstance(kind, Number)]
    if not numbers:
        return {"type": click.Choice(list(dict.fromkeys(str(v) for vs in kinds for v in vs)))}
    low, high = min(n.low for n in numbers), max(n.high for n in numbers)
    top = None if high == float("inf") else high
    number: click.ParamType[Any] = click.FloatRange(low, top)
    if all(n.whole for n in numbers):
        number = click.IntRange(int(low), None if top is None else int(top))
    return {"type": number, "metavar": "NUMBER"}


def _for_methods(by_method: dict[str, Any]) -> str:
    """Which methods an option is for, with their defaults."""
    by_default: dict[str, list[str]] = {}
    for name, values in by_method.items():
        default = values[0] if isinstance(values, tuple) else values.default
        by_default.setdefault(f"{default:g}" if isinstance(default, float) else str(default),
                              []).append(name)  # fmt: skip
    parts = [f"{', '.join(names)} [default: {value}]" for value, names in by_default.items()]
    return f"For {'; '.join(parts)}."


def of_methods(given: dict[str, Any], methods: Sequence[Method]) -> dict[str, Any]:
    """The options of methods that were given.

    Raises:
        UsageError: none of `methods` has one of them; the message says which methods do.
    """
    found = {
        key.removeprefix(OF_METHOD): value
        for key, value in given.items()
        if key.startswith(OF_METHOD) and value is not None
    }
    for key in found:
        if not any(key in method.options for method in methods):
            asked = ", ".join(method.name for method in methods)
            raise click.UsageError(
                f"{_spelt(key)} is an option of {', '.join(method_takers()[key])}, not of {asked}"
            )
    return found


def methods_named(text: str) -> list[Method]:
    """The methods that --methods names, each once.

    Raises:
        UsageError: it names none.
    """
    from onnxcam.methods import method_named

    chosen = [name.strip() for name in text.split(",") if name.strip()]
    if not chosen:
        raise click.UsageError("--methods names no method")
    return list({row.name: row for row in map(method_named, chosen)}.values())


def explainer_of(
    source: Any, row: Method, layer: str | int | None, own: dict[str, Any], given: dict[str, Any]
) -> Explainer:
    """An explainer of one of several methods: with what it has of `own` and of the options."""
    from onnxcam.api import Explainer

    asked = {**asking(given), **loading(given), **picturing(given)}
    settings = {key: value for key, value in own.items() if key in row.options}
    return Explainer(source, row.name, layer if row.on_layer else None, **asked, **settings)


def asking(given: dict[str, Any]) -> dict[str, Any]:
    """What `onnxcam.Explainer` wants of the question, running and label options."""
    names = ("score", "provider", "ablation", "units", "patches_only", "smooth", "memory")
    return {
        "class_names": class_names(given),
        "threads": given["threads"],
        "cache": not given["no_cache"],
        **{name: given[name] for name in names},
    }


layer_option: Callable[[Any], Any] = option(
    "--layer",
    metavar="LAYER",
    section=_MODEL,
    help="Feature map: tensor, node, or position from the end, such as -2 ('onnxcam inspect' "
    "lists them) [default: the last one before pooling or flattening].",
)

labels_option: Callable[[Any], Any] = option(
    "--labels",
    metavar="FILE",
    section=_MODEL,
    help="Class names: one per line, or JSON; for a head of one unit two, the negative first "
    "[default: from the model, or ImageNet's for 1000].",
)

force_option: Callable[[Any], Any] = option(
    "--force", is_flag=True, help="Replace files that exist."
)

json_option: Callable[[Any], Any] = option(
    *("--json", "as_json"), is_flag=True, help="Print JSON and nothing else."
)


def loading(given: dict[str, Any]) -> dict[str, Any]:
    """What `onnxcam.load` wants of the model options."""
    from onnxcam.graph.read import MAX_BYTES

    return {
        "image": given["input"],
        "output": given["output"],
        "inputs": dict(given["feeds"]),
        "max_bytes": given["max_model_bytes"] or MAX_BYTES,
    }


def picturing(given: dict[str, Any]) -> dict[str, Any]:
    """What `onnxcam.Explainer` wants of the preset options."""
    from onnxcam.image import MAX_PIXELS

    fields = {key: given[key] for key in PRESET_FIELDS if given[key] is not None}
    if given["letterbox"]:
        fields = {"resize": "letterbox", "crop": "none"} | fields
    return {
        "preset": given["preset"],
        "preset_fields": fields,
        "max_pixels": given["max_pixels"] or MAX_PIXELS,
    }


def class_names(given: dict[str, Any]) -> list[str] | None:
    """The names in the file of --labels, if one was given."""
    from onnxcam.labels import read_labels

    return read_labels(given["labels"]) if given["labels"] else None
