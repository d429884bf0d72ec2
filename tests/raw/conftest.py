"""What several tests of raw scans need."""

import pytest

from lampyris.raw.container import bundle


@pytest.fixture
def bytes_read(monkeypatch):
    """How many bytes every read of a container's members took, in order."""
    spent, read = [], bundle.BundleReader.read

    def spy(self, name, start=0, stop=None):
        part = read(self, name, start, stop)
        spent.append(len(part))
        return part

    monkeypatch.setattr(bundle.BundleReader, "read", spy)
    return spent
