"""The options that URLs of every database have."""

from __future__ import annotations

import re

from aether.core.url import BackendURL
from aether.sql.schema import PREFIX, Tables, tables

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,30}")


def tables_of(url: BackendURL) -> Tables:
    """The tables that `prefix` and `schema` name. Raises `InvalidURL`."""
    prefix, schema = url.options.get("prefix", PREFIX), url.options.get("schema")
    for option, value in (("prefix", prefix), ("schema", schema)):
        if value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
            raise url.error(f"option {option!r} is a name of up to 31 letters, digits and underscores")
    return tables(prefix, schema)


def creates(url: BackendURL) -> bool:
    """Whether the tables may be made or changed. Raises `InvalidURL`."""
    value = str(url.options.get("create", "true")).lower()
    if value not in ("true", "false"):
        raise url.error("option 'create' is true or false")
    return value == "true"
