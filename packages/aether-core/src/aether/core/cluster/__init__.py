"""Clusters: which nodes are there, who leads, and which of them owns which actors. Built from store, bus and election
alone, so every backend has it.

    async with connect(url, namespace="shop") as shop, Cluster(shop, name="shop", node="node-a") as cluster:
        cluster.host(Host(shop.store, Decider(Order, evolve, decide)))
        events = await cluster.ask("order-7", command)

`docs/cluster.md` has the guarantees, and what is not promised.
"""

from aether.core.cluster.cluster import Cluster as Cluster
from aether.core.cluster.duties import Rules as Rules
from aether.core.cluster.host import Host as Host
from aether.core.cluster.notices import ClusterEvent as ClusterEvent
from aether.core.cluster.notices import LeaderChanged as LeaderChanged
from aether.core.cluster.notices import NodeChanged as NodeChanged
from aether.core.cluster.notices import NodeDown as NodeDown
from aether.core.cluster.notices import NodeSuspect as NodeSuspect
from aether.core.cluster.notices import NodeUp as NodeUp
from aether.core.cluster.notices import ShardsGained as ShardsGained
from aether.core.cluster.notices import ShardsLost as ShardsLost
from aether.core.cluster.plan import plan as plan
from aether.core.cluster.routing import Owner as Owner
from aether.core.cluster.view import ClusterView as ClusterView
from aether.core.cluster.view import MemberView as MemberView
