"""Redis keeps every rule, on a server of its own. One that never waits for the disk, because that takes longer."""

from aether.conformance import conformance
from aether.redis.testing import RedisWithoutSync

TestRedis = conformance(RedisWithoutSync)
