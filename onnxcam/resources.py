"""The files that come with onnxcam: demo models and their pictures, label lists, tables.

An installed wheel carries the repository's `models/` as `onnxcam/models/`; a checkout keeps them
beside the package. `onnxcam/data/` is at the same place in both.
"""

from __future__ import annotations

from pathlib import Path

from onnxcam.errors import OptionError, close_matches

_PACKAGE = Path(__file__).resolve().parent


def _folders() -> list[Path]:
    """Where the files lie: models first, then data; only folders that exist."""
    checkout = _PACKAGE.parent
    models = [_PACKAGE / "models"]
    if (checkout / "pyproject.toml").is_file():  # else the parent is somebody's site-packages
        models.append(checkout / "models")
    return [folder for folder in [*models, _PACKAGE / "data"] if folder.is_dir()]


def resource_names(suffix: str = "") -> list[str]:
    """The names of the files that come with onnxcam, sorted; `suffix` (".onnx") selects."""
    return sorted(
        {
            path.name
            for folder in _folders()
            for path in folder.iterdir()
            if path.is_file() and path.name.endswith(suffix)
        }
    )


def resource(name: str) -> Path:
    """The path of the file `name` ("demo.onnx") that comes with onnxcam, model or data.

    Raises:
        OptionError: There is none of that name; the message lists near ones.
    """
    if name == Path(name).name:  # a plain name: nothing outside the folders is reachable
        for folder in _folders():
            if (folder / name).is_file():
                return folder / name
    names = resource_names()
    raise OptionError(
        f"no file {name!r} comes with onnxcam{close_matches(name, names)}; "
        + (f"there are: {', '.join(names)}" if names else "this installation lacks them all")
    )
