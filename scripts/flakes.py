"""Whether the conformance suite raises false alarms: it runs again and again on sound backends, beside busy processes.

    python scripts/flakes.py memory nats --rounds 20 --load 2

Prints, for each case that failed, how often and why. Exit code 1 if any did.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aether.conformance.rules import Case, all_cases
from aether.conformance.runner import Session
from aether.conformance.status import Result, Status
from aether.conformance.targets import find_harness


def _keep_busy(parent: int) -> None:
    """Take a core, until killed or left alone: a parent that is killed cannot end it."""
    while os.getppid() == parent:
        pass


@contextmanager
def _load(processes: int) -> Iterator[None]:
    """Busy processes beside the block."""
    busy = [multiprocessing.Process(target=_keep_busy, args=(os.getpid(),), daemon=True) for _ in range(processes)]
    for one in busy:
        one.start()
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.join()


def _selected(text: str) -> list[Case]:
    return [case for case in all_cases().values() if text in case.id]


def one_round(target: str, selected: str, time_factor: float) -> list[Result]:
    """All selected cases against a server of their own."""
    with Session(find_harness(target)(), time_factor=time_factor) as session:
        return [session.run(case) for case in _selected(selected)]


def _rounds(target: str, arguments: argparse.Namespace) -> Counter[str]:
    failed: Counter[str] = Counter()
    for number in range(1, arguments.rounds + 1):
        begin = time.monotonic()
        results = one_round(target, arguments.select, arguments.time_factor)
        wrong = [result for result in results if result.status in (Status.FAIL, Status.SUITE_ERROR)]
        run = sum(result.status is Status.PASS for result in results)
        seconds = time.monotonic() - begin
        print(f"{target} {number}/{arguments.rounds}: {run} pass, {len(wrong)} failed, {seconds:.1f} s", flush=True)
        for result in wrong:
            failed[result.case.id] += 1
            print(result.text, flush=True)
    return failed


def main() -> int:
    """Run the rounds, and return 1 if any case failed in any of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("targets", nargs="*", default=["memory", "nats"], help="as for aether-conformance run")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--load", type=int, default=2, metavar="N", help="busy processes beside it")
    parser.add_argument("--time-factor", type=float, default=1.0, metavar="F")
    parser.add_argument("-k", dest="select", default="", metavar="TEXT", help="only cases whose id contains it")
    arguments = parser.parse_args()
    if not _selected(arguments.select) or arguments.rounds < 1:
        parser.error("nothing would be run, and so nothing could fail")
    with _load(arguments.load):
        failed = {target: _rounds(target, arguments) for target in arguments.targets}
    for target, counts in failed.items():
        for case_id, times in counts.most_common():
            print(f"{target}: {case_id} failed in {times} of {arguments.rounds} rounds")
        if not counts:
            print(f"{target}: no case failed in {arguments.rounds} rounds, {arguments.load} busy processes beside it")
    return 1 if any(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
