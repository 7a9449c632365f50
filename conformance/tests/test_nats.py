"""The reference keeps every rule, on one server and on a cluster."""

from aether.conformance import conformance
from aether.nats.testing import NatsClusterHarness, NatsHarness

TestNats = conformance(NatsHarness)
TestNatsCluster = conformance(NatsClusterHarness)
