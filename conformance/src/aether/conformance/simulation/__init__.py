"""A world in virtual time, in which elections and clusters of the core run by the thousand.

Machines with clocks, pauses and crashes of their own stand around one backend in memory, behind a network that delays,
loses and cuts. Everything is drawn from one seed: a run that fails is repeated exactly by its seed.
"""

from aether.conformance.simulation.loop import Process as Process
from aether.conformance.simulation.loop import VirtualLoop as VirtualLoop
from aether.conformance.simulation.network import Link as Link
from aether.conformance.simulation.world import Machine as Machine
from aether.conformance.simulation.world import World as World
