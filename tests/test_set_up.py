"""`make setup` hands pip's settings on to uv, which does not read pip's configuration."""

from __future__ import annotations

import runpy
from pathlib import Path

SET_UP = runpy.run_path(str(Path(__file__).resolve().parent.parent / "scripts" / "set_up.py"))

LISTING = """\
:env:.find-links='/wheels'
:env:.index-url='https://from.environment.example'
global.cert='/certificates.pem'
global.extra-index-url='https://one.example https://two.example'
global.index-url='https://from.file.example'
"""


def test_settings_of_pip_are_read_and_its_environment_wins() -> None:
    assert SET_UP["pip_settings"](LISTING) == {
        "cert": "/certificates.pem",
        "extra-index-url": "https://one.example https://two.example",
        "find-links": "/wheels",
        "index-url": "https://from.environment.example",
    }


def test_uv_gets_them_where_it_has_no_setting_of_its_own() -> None:
    settings = {"index-url": "https://pip.example", "find-links": "/one /two"}

    environment = SET_UP["uv_environment"](settings, {"UV_DEFAULT_INDEX": "https://uv.example"})

    assert environment["UV_DEFAULT_INDEX"] == "https://uv.example"
    assert environment["UV_FIND_LINKS"] == "/one,/two"
    assert environment["UV_PYTHON_DOWNLOADS"] == "never"


def test_without_settings_nothing_about_the_index_is_said() -> None:
    assert set(SET_UP["uv_environment"]({}, {})) == {"UV_INDEX_STRATEGY", "UV_PYTHON_DOWNLOADS"}
