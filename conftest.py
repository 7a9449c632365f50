"""For all tests: nothing depends on how fast the machine is."""

from hypothesis import settings

settings.register_profile("aether", deadline=None)
settings.load_profile("aether")
