"""Simulate clusters, one seed after the other; exit code 1 if a promise was broken.

    python -m aether.conformance.simulation --seeds 0 100            # print what each has come to
    python -m aether.conformance.simulation --seeds 7 8 --trace      # one seed again, with everything that happened

The same seed, with the same options, gives the same run.
"""

from __future__ import annotations

import argparse
import logging
import sys

from aether.conformance.simulation.clusters import Broken, ClusterSimulation, Outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 20), metavar=("FIRST", "END"))
    parser.add_argument("--seconds", type=float, default=40.0, help="virtual seconds of faults, of a ttl each")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--losses", action="store_true", help="the register may lose its data, too")
    parser.add_argument("--trace", action="store_true", help="print what happened, and when")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    outcomes: list[Outcome] = []
    broken = 0
    for seed in range(*arguments.seeds):
        simulation = ClusterSimulation(seed, nodes=arguments.nodes, losses=arguments.losses)
        try:
            outcome = simulation.run(seconds=arguments.seconds)
        except Broken as found:
            broken += 1
            print(found, flush=True)
            continue
        finally:
            if arguments.trace:
                print(*(f"{time:10.4f}  {what}" for time, what in simulation.trace), sep="\n")
        outcomes.append(outcome)
        print(f"seed {seed}: {outcome.elections} elections, {outcome.moves} shards handed over, "
              f"{outcome.deaths} deaths, {outcome.commands} commands", flush=True)  # fmt: skip
    total = [sum(column) for column in zip(*(outcome[:4] for outcome in outcomes), strict=True)]
    print(f"{len(outcomes)} sound, {broken} broken; elections, hand-overs, deaths, commands: {total}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
