"""URLs: what they mean, that secrets never show, and that mistakes name the next step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether.core import AetherError, InvalidURL, open_store
from aether.core.url import BackendURL, redact


def test_parts() -> None:
    url = BackendURL("nats+tls://me:p%40ss@a:4222,b:4223/path%20x?replicas=3", {"creds": "/file"})

    assert (url.scheme, url.variant, url.user, url.secret) == ("nats", "tls", "me", "p@ss")
    assert url.hosts == ("a:4222", "b:4223")
    assert url.path == "/path x"
    assert url.options == {"replicas": "3", "creds": "/file"}


@pytest.mark.parametrize(
    "text",
    [
        "nats://me:hunter2@host:4222",
        "nats://hunter2@host",
        "nats://host?token=hunter2",
        "nats://host?Password=hunter2&x=1",
        "nats://me:hunter2@host/a b?x=1#frag",
        "nats:me:hunter2@host",
        "NATS://me:hunter2@host",
        "nats://me:hunter2@host\n",
        "me:hunter2@host",
        "nats://me:p@hunter2@host",
    ],
)
def test_secrets_never_show(text: str) -> None:
    try:
        url = BackendURL(text)
    except InvalidURL as error:
        shown = f"{error} {error!r} {error.url}"
    else:
        shown = f"{url} {url!r} {url.error('bad')}"

    assert "hunter2" not in shown


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for candidate in (text, f"nats://{text}", f"memory://{text}"):
        try:
            open_store(candidate)
        except AetherError as error:
            assert str(error)


@given(st.text(st.characters(exclude_characters="@/?#:"), min_size=4))
def test_redact_hides_any_password(secret: str) -> None:
    assert redact(f"nats://user:{secret}@h") == "nats://***@h"


def test_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(
        InvalidURL, match=r"unknown option 'replica'\. Did you mean 'replicas'\?.*Known options: .*replicas"
    ):
        open_store("nats://localhost?replica=3")


def test_an_option_is_given_once() -> None:
    with pytest.raises(InvalidURL, match="twice"):
        BackendURL("nats://h?a=1&a=2")
    with pytest.raises(InvalidURL, match="keyword"):
        BackendURL("nats://h?a=1", {"a": "2"})
