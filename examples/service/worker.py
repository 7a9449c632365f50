"""The projection worker: start as many as you like, one is active and the others stand by.

AETHER_URL=sqlite:////tmp/orders.db python examples/service/worker.py
"""

import asyncio
import logging
import os

from orders import TYPES
from view import NAME, handle, opened

from aether.core.projection import project, retry


async def main() -> None:
    async with opened(os.environ.get("AETHER_URL", "sqlite:///orders.db")) as (shop, engine):
        await project(
            shop.store,
            NAME,
            handle,
            types=TYPES.names,
            transaction=engine.begin,
            election=shop.election,
            on_error=retry(5, then="park"),
        ).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)  # it says who is active, and what it is retrying
    asyncio.run(main())
