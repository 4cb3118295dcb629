from __future__ import annotations

import mmap
import platform
import subprocess
import sys

import numpy as np
import pytest

from VolumeSegmanticsLib import memory
from VolumeSegmanticsLib.errors import SettingsError
from VolumeSegmanticsLib.settings import PredictSettings


@pytest.mark.parametrize(
    ("text", "amount"),
    [("4GB", 4 * 10**9), ("500 MB", 5 * 10**8), ("1.5 gb", 15 * 10**8), ("2GiB", 2**31), ("64kB", 64_000)],
)
def test_amounts_are_read_as_people_write_them(text, amount):
    assert memory.parse(text) == amount


@pytest.mark.parametrize("text", ["much", "4", "GB", "-4GB", "0GB", "4 G B", "nan GB"])
def test_what_is_no_amount_is_refused_with_an_example(text):
    with pytest.raises(SettingsError, match="memory is") as caught:
        PredictSettings(memory=text)
    assert "4GB" in caught.value.hint


@pytest.mark.parametrize(("amount", "text"), [(3_210_000_000, "3.21 GB"), (5e8, "500 MB"), (12, "12 bytes")])
def test_amounts_are_told_with_three_digits(amount, text):
    assert memory.told(amount) == text


def test_memory_in_use_grows_with_what_is_allocated():
    before, size = memory.in_use(), 100_000_000
    with mmap.mmap(-1, size) as ballast:  # an array might be laid where another one was freed
        np.frombuffer(ballast, np.uint8)[:] = 1
        assert memory.in_use() - before > size // 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are not asked")
def test_what_was_freed_is_given_back():
    many = [bytes(50_000) for _ in range(4_000)]
    held = memory.in_use()
    del many[:-1]  # the last one lies above all others
    memory.give_back()
    assert held - memory.in_use() > 100_000_000
    assert len(many) == 1


def test_there_is_some_memory_left():
    assert 10**6 < memory.free() < 10**15


def test_a_limit_of_a_container_counts(monkeypatch):
    monkeypatch.setattr(memory, "_free_of_group", lambda: 123_456)
    assert memory.free() == 123_456


FAULTS_OF_A_SECOND_ARRAY = """
import resource, threading
from VolumeSegmanticsLib import memory

found = []

def take(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * size
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

def take_twice():
    take(100_000_000)
    take(100_000_000)

memory.share_one_heap()
with memory.reused():
    thread = threading.Thread(target=take_twice)
    thread.start()
    thread.join()
    held = memory.in_use()
given_back = held - memory.in_use()
take_twice()
print(found[1], found[3], given_back)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are not asked")
def test_while_it_is_wanted_an_array_takes_the_place_of_a_freed_one():
    command = [sys.executable, "-c", FAULTS_OF_A_SECOND_ARRAY]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    reused, usual, given_back = map(int, told.split())
    pages = 100_000_000 // mmap.PAGESIZE
    assert reused < pages / 10
    assert usual > pages / 2
    assert given_back > 50_000_000
