"""Base of every settings class: frozen, strict about unknown keys, documented field by field."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable settings; a misspelt key is an error, and every docstring below a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
