"""How clients restrict a search or an answer to documents by their metadata."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

NO_NUL = r"^[^\x00]*$"
Number = Annotated[float, Field(allow_inf_nan=False)]
FilterKey = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=NO_NUL)]
FilterText = Annotated[str, StringConstraints(max_length=1024, pattern=NO_NUL)]
FilterValues = Annotated[list[FilterText | bool | int | Number], Field(max_length=256)]
"""So few that with 64 keys they stay below the parameters that SQLite takes (32,766)."""
FilterValue = FilterText | bool | int | Number | FilterValues
Filter = Annotated[dict[FilterKey, FilterValue], Field(max_length=64)]
"""Only documents whose metadata has, for every key, the value or one of the values."""
