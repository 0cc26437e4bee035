"""`onnxcam methods`: the method table."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli import options, show

if TYPE_CHECKING:
    from onnxcam.methods import Method

NEEDS = {
    "drop": "the scores with each unit switched off",
    "blank": "the feature map of an all-zero image",
}
"""The needs of methods in words."""


@click.command(cls=options.Command)
@click.argument("name", required=False)
@options.json_option
def methods(name: str | None, as_json: bool) -> None:
    """List the methods, or say how one works.

    With NAME: its paper, formula and options.

    \b
    Examples:
      onnxcam methods
      onnxcam methods ablation-cam
      onnxcam methods --json
    """
    from onnxcam.methods import METHODS, method_named

    rows = [method_named(name)] if name is not None else list(METHODS.values())
    if as_json:
        show.document([_document(row) for row in rows])
    elif name is not None:
        _print(rows[0])
        click.echo("\n" + inspect.cleandoc(rows[0].emit.__doc__ or ""))
    else:
        for number, row in enumerate(rows):
            click.echo("\n" * bool(number), nl=False)
            _print(row)


def _print(row: Method) -> None:
    show.facts(
        [
            (row.name, f"{row.title}. {row.summary}."),
            ("  needs", "; ".join(NEEDS.get(need, need) for need in row.needs)),
            *((f"  --{key.replace('_', '-')}", _values(vs)) for key, vs in row.options.items()),
        ]
    )


def _values(values: tuple[Any, ...]) -> str:
    return ", ".join([f"{values[0]} (default)", *map(str, values[1:])])


def _document(row: Method) -> dict[str, Any]:
    return {
        "name": row.name,
        "title": row.title,
        "summary": row.summary,
        "needs": list(row.needs),
        "options": {key: list(values) for key, values in row.options.items()},
        "description": inspect.cleandoc(row.emit.__doc__ or ""),
    }
