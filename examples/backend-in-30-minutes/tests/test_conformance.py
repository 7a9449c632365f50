from aether.conformance import conformance
from filestore.testing import FileHarness

TestFileStore = conformance(FileHarness)
