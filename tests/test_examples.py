"""The examples run as they are, and print what they promise."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib import request
from urllib.error import HTTPError

import pytest

from aether.core.state import NewEvent
from aether.core.testing import assert_round_trip, given

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
STATE = """\
Order state after replaying 2 events:
  Status: shipped
  Total: $99.99
  Tracking: FS123456
"""


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def load(name: str) -> ModuleType:
    """An example as a module, for its functions."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_quickstart_in_memory() -> None:
    done = run("quickstart.py")

    assert (done.returncode, done.stdout, done.stderr) == (0, STATE, "")


def test_quickstart_again_on_the_same_store(tmp_path: Path) -> None:
    url = f"nats+embedded://{tmp_path}"

    for done in (run("quickstart.py", url), run("quickstart.py", url)):
        assert (done.returncode, done.stdout, done.stderr) == (0, STATE, "")


def test_demo_keeps_its_promises() -> None:
    done = run("demo.py")

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count("killed (SIGKILL)") == 3
    assert done.stdout.count("\n  ok  ") == 7
    assert "BROKEN" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


# --- The bank ---

BANK = "60 transfers at once\nin all 400, as before\nnobody below 0: True\n"


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/bank.db"])
def test_bank(tmp_path: Path, url: str) -> None:
    done = run("bank.py", url.format(tmp_path))

    assert (done.returncode, done.stdout, done.stderr) == (0, BANK, "")


def test_the_bank_decides_without_a_store() -> None:
    bank = load("bank")
    ten = Decimal(10)
    (
        given(bank.ACCOUNT)
        .when(bank.Open("Ada"))
        .then(bank.Opened("Ada"))
        .when(bank.Open("Ada"))
        .then_nothing()
        .when(bank.Debit(ten, "x"))
        .then_raises(bank.Refused, match="Ada has 0, not 10")
        .when(bank.Credit(ten, "x"))
        .then(bank.Credited(ten, "x"))
        .when(bank.Debit(ten, "y"))
        .then_state(bank.Account("Ada", Decimal(0)))
    )


# --- The service ---


@contextmanager
def process(*command: str, url: str) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"AETHER_URL": url}
    started = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.terminate()
        started.communicate(timeout=60)


def call(base: str, path: str, body: object = None, **headers: str) -> tuple[int, Any, Any]:
    data = None if body is None else json.dumps(body).encode()
    asked = request.Request(base + path, data, {"Content-Type": "application/json", **headers})
    try:
        with request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.load(answer), answer.headers
    except HTTPError as error:
        with error:
            return error.code, json.load(error), error.headers


def ready(server: subprocess.Popen[str]) -> str:
    """Where uvicorn says that it listens, when it does."""
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"running on (http://\S+)", line):
            return found[1]
    raise AssertionError("it ended")


def test_service(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/orders.db"
    folder = str(EXAMPLES / "service")
    web = [sys.executable, "-m", "uvicorn", "app:app", "--app-dir", folder, "--port", "0"]
    with process(*web, url=url) as server:
        base = ready(server)
        order = {"customer": "Ada", "total": "99.90"}
        status, placed, headers = call(base, "/orders/o-1", order, **{"X-Request-Id": "r-1"})
        assert (status, placed["version"], headers["ETag"], headers["X-Request-Id"]) == (201, 1, '"1"', "r-1")
        assert call(base, "/orders/o-1", order)[0] == 422
        status, shipped, _ = call(base, "/orders/o-1/shipment", {"tracking": "T"}, **{"If-Match": '"1"'})
        assert (status, shipped["status"]) == (200, "shipped")
        status, told, _ = call(base, "/orders/o-1/cancellation", {"reason": "late"}, **{"If-Match": '"1"'})
        assert (status, told["version"]) == (409, 2)
        assert call(base, "/orders/o-1")[1] == {"status": "shipped", "customer": "Ada", "version": 2}
        with process(sys.executable, f"{folder}/worker.py", url=url):
            status, rows, _ = call(base, f"/orders?after={shipped['position']}")
            while status == 503:  # the worker is still starting
                status, rows, _ = call(base, f"/orders?after={shipped['position']}")
        assert rows == [{"id": "o-1", "customer": "Ada", "total": "99.90", "currency": "EUR", "status": "shipped"}]


def test_old_orders_are_read_and_every_type_comes_back() -> None:
    orders = load("service/orders")
    old = NewEvent(type="order.placed", data={"customer": "Ada", "total": "1"})  # of schema 1
    given(orders.ORDER, old).when(orders.Ship("T")).then(orders.Shipped("T"))
    for payload in (orders.Placed("Ada", Decimal("1.10"), "EUR"), orders.Shipped("T"), orders.Cancelled("late")):
        assert_round_trip(payload)
