"""How many broken backends the machines of the conformance suite find out, mutant by mutant, over eight seeds.

Prints a table and writes `conformance/kill-rate.json`. Ends with 1 below the bar: 95 % of what a machine can see.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from aether.conformance.machines.rate import GAMES, SEEDS, killed
from aether.conformance.zoo import all_mutants, unseen

RESULT = Path(__file__).resolve().parent.parent / "conformance" / "kill-rate.json"

BAR = 0.95


def main() -> int:
    """Measure, print, write, and judge."""
    logging.disable()  # what mutants complain of is not the question here
    kills: dict[str, int] = {}
    for name, mutant in sorted(all_mutants().items()):
        if not (reason := unseen(mutant)):
            kills[name] = sum(killed(mutant, seed) for seed in SEEDS)
        print(f"{name:<32} {reason or f'{kills[name]}/{len(SEEDS)}'}", flush=True)
    rate = sum(kills.values()) / (len(kills) * len(SEEDS))
    print(f"{len(kills)} mutants, {len(SEEDS)} seeds, {GAMES} games each: {rate:.1%} killed")
    if never := [name for name, count in kills.items() if not count]:
        print(f"never killed: {', '.join(never)}")
    hidden = {name: reason for name, mutant in sorted(all_mutants().items()) if (reason := unseen(mutant))}
    found = {"rate": round(rate, 4), "seeds": len(SEEDS), "games": GAMES, "kills": kills, "unseen": hidden}
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(rate < BAR)


if __name__ == "__main__":
    sys.exit(main())
