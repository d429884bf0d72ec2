"""What is laid down is there byte for byte or not at all, also where a disk does not take whole blocks past a cache."""

import errno
import os
import random
import sys

import pytest

from lampyris import durable
from lampyris.durable import lay_down

SIZES = (0, 1, 4095, 4096, 262_143, 262_144, 262_145, 1_000_003)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wrap", [bytes, memoryview])
def test_bytes_of_any_number_are_laid_down_as_they_are(tmp_path, size, wrap):
    data = random.Random(size).randbytes(size)
    lay_down(tmp_path / "x", [wrap(data)])
    assert (tmp_path / "x").read_bytes() == data


@pytest.mark.parametrize("seed", range(5))
def test_pieces_of_any_size_make_one_file(tmp_path, seed):
    rng = random.Random(seed)
    pieces = [rng.randbytes(rng.choice((0, 1, 4096, 70_001, 262_144, 300_000))) for _ in range(12)]
    lay_down(tmp_path / "x", pieces)
    assert (tmp_path / "x").read_bytes() == b"".join(pieces)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux writes past its cache here")
@pytest.mark.parametrize("refused", ["asked", "written"])
def test_a_file_system_that_wants_its_cache_gets_the_same_bytes(tmp_path, monkeypatch, refused):
    """Some refuse the flag, some the first write."""
    asked, written, data = durable.fcntl.fcntl, os.write, random.Random(7).randbytes(600_001)
    direct = False

    def fcntl(handle, command, *given):
        nonlocal direct
        if given and given[0] & os.O_DIRECT:
            if refused == "asked":
                raise OSError(errno.EINVAL, "no such flag here")
            direct = True
        elif given:
            direct = False
        return asked(handle, command, *given)

    def write(handle, piece):
        if direct:
            raise OSError(errno.EINVAL, "no such write here")
        return written(handle, piece)

    monkeypatch.setattr(durable.fcntl, "fcntl", fcntl)
    monkeypatch.setattr(durable.os, "write", write)
    lay_down(tmp_path / "x", [data[:77_777], data[77_777:]])
    assert (tmp_path / "x").read_bytes() == data


@pytest.mark.parametrize("after", [0, 262_144])
def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch, after):
    written, done = os.write, 0

    def write(handle, piece):
        nonlocal done
        if done >= after:
            raise OSError(errno.ENOSPC, "no space left")
        done += len(piece)
        return written(handle, piece)

    monkeypatch.setattr(durable.os, "write", write)
    with pytest.raises(OSError, match="no space left"):
        lay_down(tmp_path / "x", [b"x" * 1_000_000])
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "x").write_bytes(b"first")
    with pytest.raises(FileExistsError):
        lay_down(tmp_path / "x", [b"second"])
    assert (tmp_path / "x").read_bytes() == b"first"
