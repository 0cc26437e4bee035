"""The command line: click commands that call the library, and one place that prints its errors.

Each command is a module of its own; the engine is imported inside the command functions, so that
`onnxcam --help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from onnxcam import __version__
from onnxcam.cli import show
from onnxcam.cli.compare import compare
from onnxcam.cli.demo import demo
from onnxcam.cli.evaluate import evaluate
from onnxcam.cli.explain import explain
from onnxcam.cli.export import export
from onnxcam.cli.gradient import gradient
from onnxcam.cli.inspect import inspect
from onnxcam.cli.methods import methods
from onnxcam.cli.options import CONTEXT
from onnxcam.cli.split import split
from onnxcam.errors import OnnxcamError

INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended


class Commands(click.Group):
    """The group of all commands: the one place where errors become a line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; a user's error becomes one line and exit code 1, a bug stays a bug."""
        try:
            return super().invoke(ctx)
        except OnnxcamError as error:
            raise click.ClickException(show.clean(" ".join(str(error).split()))) from error
        except KeyboardInterrupt:
            click.echo("\nInterrupted.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which people need them."""
        return list(self.commands)


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="onnxcam", message="%(prog)s %(version)s")
def main() -> None:
    """Explains the decisions of ONNX image classifiers with heat maps.

    \b
    Examples:
      onnxcam demo
      onnxcam inspect model.onnx
      onnxcam explain model.onnx dog.jpg
      onnxcam explain model.onnx photos/ --target top3 --to heat/
      onnxcam compare model.onnx dog.jpg
      onnxcam evaluate model.onnx photos/
      onnxcam export model.onnx explainer.onnx
      onnxcam gradient model.onnx gradient.onnx

    'onnxcam COMMAND --help' shows the options and more examples.
    """
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot spell is no error
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


for command in (explain, compare, evaluate, inspect, methods, export, gradient, split, demo):
    main.add_command(command)
