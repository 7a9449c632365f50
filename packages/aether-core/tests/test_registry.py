"""Finding backends: every failure names who is at fault and what to do, and harms nobody else."""

import importlib.metadata
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import aether.core
from aether.core import (
    START,
    BackendConflict,
    BackendNotFound,
    BackendUnusable,
    Feature,
    FeatureMissing,
    open_bus,
    open_store,
)
from aether.core import registry as registry_module
from aether.core.errors import InvalidURL
from aether.core.hookspecs import GROUP, hookimpl
from aether.core.registry import Registry
from aether.core.scope import Scope
from aether.core.spi import SPI_VERSION, BackendInfo
from aether.core.url import BackendURL

GOOD = """
from aether.core.hookspecs import hookimpl
from aether.core.spi import BackendInfo
@hookimpl
def aether_backend():
    return BackendInfo("aether-{name}", {spi}, options=("size",))
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put distributions with an entry point where importlib.metadata finds them, without pip."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(dist: str, scheme: str, source: str | None) -> None:
        module = f"plugin_{dist.replace('-', '_')}"
        info = tmp_path / f"{dist.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{scheme} = {module}\n")
        if source is not None:
            (tmp_path / f"{module}.py").write_text(source)
        importlib.invalidate_caches()
        registry_module._entry_points.cache_clear()

    yield add
    registry_module._entry_points.cache_clear()


def test_unknown_scheme_suggests(install: Any) -> None:
    registry = Registry()
    with pytest.raises(BackendNotFound, match=r"no installed backend answers memry://.*Did you mean memory://\?"):
        registry.backend("memry")
    with pytest.raises(BackendNotFound, match="pip install aether-nats"):
        Registry(discover=False).backend("nats")
    with pytest.raises(BackendNotFound, match=r"mongodb:// \(installed: .*memory, .*nats"):
        registry.backend("mongodb")


def test_a_broken_plugin_is_named_and_harms_nobody(install: Any) -> None:
    install("aether-broken", "broken", "import not_installed_driver")
    install("aether-fine", "fine", GOOD.format(name="fine", spi=SPI_VERSION))
    registry = Registry()

    with pytest.raises(BackendUnusable, match=r"aether-broken 1\.2 claims broken:// .*not_installed_driver"):
        registry.backend("broken")

    assert registry.backend("fine").info.name == "aether-fine"
    assert "broken" in registry.schemes()


def test_two_claimants_are_both_named(install: Any) -> None:
    install("aether-one", "dup", GOOD.format(name="one", spi=SPI_VERSION))
    install("aether-two", "dup", GOOD.format(name="two", spi=SPI_VERSION))
    with pytest.raises(BackendConflict, match=r"dup:// is claimed by aether-one 1\.2 and aether-two 1\.2"):
        Registry().backend("dup")


def test_another_interface_version_says_what_to_upgrade(install: Any) -> None:
    install("aether-future", "future", GOOD.format(name="future", spi=SPI_VERSION + 1))
    install("aether-past", "past", GOOD.format(name="past", spi=SPI_VERSION - 1))
    with pytest.raises(BackendUnusable, match="aether-future 1.2 speaks backend interface 2.*upgrade aether-core"):
        Registry().backend("future")
    with pytest.raises(BackendUnusable, match="upgrade aether-past"):
        Registry().backend("past")


def test_hooks_that_do_not_fit_are_named(install: Any) -> None:
    source = GOOD.format(name="odd", spi=1) + "\n@hookimpl\ndef aether_open_store(url, scope, colour): ...\n"
    install("aether-odd", "odd", source)
    with pytest.raises(BackendUnusable, match="aether-odd 1.2 does not fit the hooks"):
        Registry().backend("odd")
    with pytest.raises(BackendUnusable):  # and again: nothing of it was left behind
        Registry().backend("odd")


def test_a_plugin_without_hooks_and_one_that_raises(install: Any) -> None:
    install("aether-empty", "empty", "x = 1")
    install(
        "aether-angry",
        "angry",
        GOOD.format(name="angry", spi=1).replace("return", "raise RuntimeError('no')\n    return"),
    )
    with pytest.raises(BackendUnusable, match="no hook aether_backend"):
        Registry().backend("empty")
    with pytest.raises(BackendUnusable, match=r"aether_backend\(\) failed: no"):
        Registry().backend("angry")


class Halfway:
    async def open(self) -> None: ...

    async def close(self) -> None: ...


def plugin(**hooks: Any) -> types.ModuleType:
    module = types.ModuleType("plugin")
    info = BackendInfo("aether-test", SPI_VERSION)
    for name, hook in {"aether_backend": lambda: info, **hooks}.items():
        setattr(module, name, hookimpl(specname=name)(hook))
    return module


def test_a_driver_that_lacks_methods_is_refused_at_open() -> None:
    registry = Registry(discover=False)
    registry.register("test", plugin(aether_open_store=lambda url, scope: Halfway()))
    with pytest.raises(BackendUnusable, match="its store driver lacks append"):
        open_store("test://", registry=registry)
    with pytest.raises(BackendUnusable, match="has no bus"):
        open_bus("test://", registry=registry)


def test_what_a_backend_offers_is_told_without_opening_it() -> None:
    def refuses(url: Any, scope: Any) -> Any:
        raise RuntimeError("not today")

    registry = Registry(discover=False)
    hooks = {"aether_open_store": lambda url, scope: Halfway(), "aether_open_bus": lambda url, scope: None}
    registry.register("test", plugin(**hooks, aether_open_election=refuses))
    registry.register("bare", plugin())

    assert registry.offers(BackendURL("test://"), Scope("shop")) == {"store", "election"}
    assert registry.offers(BackendURL("bare://"), Scope("shop")) == set()
    with pytest.raises(InvalidURL, match="unknown option 'size'"):
        registry.offers(BackendURL("test://?size=1"), Scope("shop"))


def test_registering_again_takes_the_place() -> None:
    registry = Registry(discover=False)
    registry.register("test", plugin())
    registry.register("test", plugin(), source="second")
    assert registry.schemes() == {"test": "second"}


def test_observers_see_every_open() -> None:
    seen = []

    class Observer:
        @hookimpl(wrapper=True)
        def aether_open_store(self, url: Any, scope: Any) -> Any:
            driver = yield
            seen.append((str(url), scope.namespace))
            return driver

    registry = Registry()
    registry.observe(Observer())
    open_store("memory://seen", namespace="shop", registry=registry)
    assert seen == [("memory://seen", "shop")]


def test_required_features_are_refused_before_connecting() -> None:
    with pytest.raises(FeatureMissing, match="aether-memory has no caller-transaction"):
        open_store("memory://", require={Feature.CALLER_TRANSACTION})


def test_every_public_name_is_there() -> None:
    for name in aether.core.__all__:
        assert getattr(aether.core, name).__name__ == name if name != "START" else aether.core.START == START
    assert sorted(aether.core.__all__) == sorted(aether.core._HOMES) == sorted(dir(aether.core))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        aether.core.nonsense  # noqa: B018


def test_importing_the_core_imports_no_client_library() -> None:
    code = (
        "import sys, aether.core; assert not {'asyncio', 'msgspec', 'pluggy'} & set(sys.modules); aether.core.open_store('memory://');"
        "bad = {'nats', 'sqlalchemy', 'redis', 'pytest', 'hypothesis'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
