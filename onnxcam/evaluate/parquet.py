"""The table of a study as Parquet, for readers that want typed columns; needs pyarrow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from onnxcam.errors import OptionError


def check_parquet() -> None:
    """Refuses where Parquet cannot be written.

    Raises:
        OptionError: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise OptionError(
            "--parquet needs pyarrow, which is not installed: pip install 'onnxcam[parquet]', or "
            "leave the option out; results.csv has the same table"
        ) from None


def as_parquet(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, type]) -> bytes:
    """A table as a Parquet file.

    Args:
        rows: one mapping for each row; what a row lacks, None and NaN are nulls.
        columns: their names in order, each with `str`, `int`, `bool` or `float`: a column has its
            type even where it holds nothing.

    Raises:
        OptionError: pyarrow is not installed.
    """
    check_parquet()
    import pyarrow
    from pyarrow import parquet

    types: dict[type, Any] = {str: pyarrow.string(), int: pyarrow.int64()}
    types |= {bool: pyarrow.bool_(), float: pyarrow.float64()}
    arrays = [
        pyarrow.array([_known(row.get(name)) for row in rows], types[kind])
        for name, kind in columns.items()
    ]
    stream = BytesIO()
    parquet.write_table(pyarrow.Table.from_arrays(arrays, names=list(columns)), stream)
    return stream.getvalue()


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
