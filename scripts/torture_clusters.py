"""Torture clusters of real processes on real servers; exit code 1 if a promise was broken.

    python scripts/torture_clusters.py nats postgresql nats-cluster --faults 1000

Each target gets so many faults: SIGKILL, SIGSTOP and SIGCONT, cut and held links, leaving in order, two nodes at once,
and the server killed, paused and started again. Prints one line of JSON for each.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

import msgspec

from aether.conformance.targets import find_harness
from aether.conformance.torture.clusters import Torture


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--ttl", type=float, default=1.0)
    parser.add_argument("--bound", type=float, help="seconds until all shards are owned again; by default 8 ttl + 8")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    sound = True
    for target in arguments.targets:
        bound = arguments.bound or 8 * arguments.ttl + 8
        began = time.monotonic()
        torture = Torture(
            find_harness(target)(), nodes=arguments.nodes, ttl=arguments.ttl, seed=arguments.seed, bound=bound
        )
        result = asyncio.run(torture.run(faults=arguments.faults))
        sound &= result.sound
        summary = {"target": target, "seconds": round(time.monotonic() - began), "sound": result.sound}
        print(msgspec.json.encode({**summary, **msgspec.to_builtins(result)}).decode(), flush=True)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
