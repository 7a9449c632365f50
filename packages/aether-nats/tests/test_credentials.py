"""Logging in with a seed and with a credentials file, as an operator hands them out."""

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import Any

import nkeys
import pytest

from aether.core import Event, Unavailable, open_bus, open_store
from aether.nats import NatsServer

UNLIMITED = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)


class Key:
    """A key pair of an operator, an account or a user."""

    def __init__(self, kind: int) -> None:
        self.seed = bytes(nkeys.encode_seed(os.urandom(32), kind))
        self.pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self.pair.public_key.decode()

    def issue(self, subject: "Key", **claims: Any) -> str:
        """A JWT about another key, signed by this one, as nats-server reads it."""
        body = {"jti": subject.public, "iat": 1, "iss": self.public, "sub": subject.public, "name": "test"}
        parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, {**body, "nats": {**claims, "version": 2}}]
        signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{base64url(self.pair.sign(signed.encode()))}"


def base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def test_a_seed_logs_in(tmp_path: Path) -> None:
    user, stranger = Key(nkeys.PREFIX_BYTE_USER), Key(nkeys.PREFIX_BYTE_USER)
    (tmp_path / "user.nk").write_bytes(user.seed)
    (tmp_path / "stranger.nk").write_bytes(stranger.seed)
    config = f"authorization {{ users: [ {{ nkey: {user.public} }} ] }}"

    async def main() -> None:
        async with NatsServer(tmp_path / "server", sync_always=False, config=config) as server:
            async with open_store(server.url, namespace="shop", nkey=str(tmp_path / "user.nk")) as store:
                await store.append(Event(type="T", actor_id="a", version=1))
            with pytest.raises(Unavailable, match="credentials") as caught:
                await open_store(server.url, namespace="shop", nkey=str(tmp_path / "stranger.nk")).open()
            assert stranger.seed.decode() not in str(caught.value)

    asyncio.run(main())


def test_a_credentials_file_logs_in(tmp_path: Path) -> None:
    operator, account, user = (
        Key(kind) for kind in (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER)
    )
    system = Key(nkeys.PREFIX_BYTE_ACCOUNT)
    limits = {**UNLIMITED, "wildcards": True}
    config = "\n".join(
        [
            f"operator: {operator.issue(operator, type='operator')}",
            f"system_account: {system.public}",
            "resolver: MEMORY",
            "resolver_preload: {",
            f"  {account.public}: {operator.issue(account, type='account', limits=limits)}",
            f"  {system.public}: {operator.issue(system, type='account', limits=limits)}",
            "}",
        ]
    )
    login = account.issue(user, type="user", pub={}, sub={}, subs=-1, data=-1, payload=-1)
    (tmp_path / "user.creds").write_text(
        f"-----BEGIN NATS USER JWT-----\n{login}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )

    async def main() -> None:
        async with (
            NatsServer(tmp_path / "server", sync_always=False, config=config) as server,
            open_bus(server.url, namespace="shop", creds=str(tmp_path / "user.creds")) as bus,
            bus.subscribe() as events,
        ):
            await bus.publish(Event(type="T", actor_id="a", version=1))
            assert (await anext(events)).actor_id == "a"

    asyncio.run(main())
