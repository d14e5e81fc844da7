from __future__ import annotations

import math
import os
import platform

import pytest

from resift import machine


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def system(tmp_path):
    # Two cores of two hardware threads each: 0 and 2, 1 and 3.
    for number, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        write(tmp_path / f"cpu{number}/topology/thread_siblings_list", f"{siblings}\n")
    return tmp_path


@pytest.fixture
def quota(tmp_path):
    """quota(membership, files): the quota of a process with those cgroup lines in a tree of those files."""

    def find(membership, files):
        for name, text in files.items():
            write(tmp_path / "cgroup" / name, text)
        write(tmp_path / "membership", membership)
        return machine.cgroup_quota(tmp_path / "membership", tmp_path / "cgroup")

    return find


@pytest.mark.parametrize(
    ("processors", "cores"), [({0}, 1), ({0, 2}, 1), ({0, 1}, 2), ({0, 1, 2}, 2), ({0, 1, 2, 3}, 2), (set(), 0)]
)
def test_hardware_threads_of_one_core_count_once(system, processors, cores):
    assert machine.physical_cores(frozenset(processors), system) == cores


def test_processors_without_topology_count_as_a_core_each(tmp_path):
    assert machine.physical_cores(frozenset({0, 1, 5}), tmp_path) == 3


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        pytest.param("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5, id="root group"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n"}, 0.5, id="own group"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "800000 100000", "a/cpu.max": "300000 100000"}, 3, id="tightest is above"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "300000 100000"}, 2, id="tightest is own"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000"}, 4, id="max below a limit"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "25000 50000", "a/cpu.max": "60000 100000"}, 0.5, id="periods differ"),
        pytest.param("0::/a\n", {"a/cpu.max": "max 100000\n"}, math.inf, id="max"),
        pytest.param("0::/host/path\n", {"cpu.max": "200000 100000"}, 2, id="the host's path within a container"),
        pytest.param("0::/a\n", {"b/cpu.max": "100000 100000"}, math.inf, id="another group's limit"),
        pytest.param("0::/a:b\n", {"a:b/cpu.max": "100000 100000"}, 1, id="colon in the name"),
        pytest.param("0::/a\n", {"a/cpu.max": ""}, math.inf, id="empty file"),
        pytest.param("0::/a\n", {}, math.inf, id="no files"),
        pytest.param("", {"cpu.max": "100000 100000"}, math.inf, id="no group"),
    ],
)
def test_quota_of_cgroup_version_2(quota, membership, files, expected):
    assert quota(membership, files) == expected


V1 = "5:memory:/a/b\n4:cpu,cpuacct:/a/b\n3:cpuset:/c\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"cpu/a/b/cpu.cfs_quota_us": "250000\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, 2.5, id="own group"),
        pytest.param({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5, id="root group"),
        pytest.param(
            {
                "cpu/a/b/cpu.cfs_quota_us": "400000",
                "cpu/a/b/cpu.cfs_period_us": "100000",
                "cpu/a/cpu.cfs_quota_us": "30000",
                "cpu/a/cpu.cfs_period_us": "10000",
            },
            3,
            id="tightest is above",
        ),
        pytest.param({"cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"}, math.inf, id="no limit"),
        pytest.param({"cpu/a/b/cpu.cfs_quota_us": "100000"}, math.inf, id="no period"),
        pytest.param({"cpu/c/cpu.cfs_quota_us": "100000", "cpu/c/cpu.cfs_period_us": "100000"}, math.inf, id="cpuset's group"),
        pytest.param({"a/b/cpu.cfs_quota_us": "100000", "a/b/cpu.cfs_period_us": "100000"}, math.inf, id="not the cpu tree"),
    ],
)
def test_quota_of_cgroup_version_1(quota, files, expected):
    assert quota(V1, files) == expected


def test_tightest_quota_of_both_cgroup_versions_holds(quota):
    files = {"a/cpu.max": "300000 100000", "cpu/a/b/cpu.cfs_quota_us": "200000", "cpu/a/b/cpu.cfs_period_us": "100000"}
    assert quota(f"{V1}0::/a\n", files) == 2


def test_without_cgroups_there_is_no_quota(tmp_path):
    assert machine.cgroup_quota(tmp_path / "missing", tmp_path) == math.inf


@pytest.mark.parametrize(
    ("cores", "quota", "usable"), [(8, math.inf, 8), (8, 2, 2), (8, 1.5, 2), (2, 4, 2), (4, 0.1, 1), (0, 3, 1)]
)
def test_usable_cores_are_within_affinity_and_quota_and_at_least_one(monkeypatch, cores, quota, usable):
    monkeypatch.setattr(machine, "physical_cores", lambda _: cores)
    monkeypatch.setattr(machine, "cgroup_quota", lambda: quota)
    found = machine.usable_cores()
    assert (found, type(found)) == (usable, int)


def test_affinity_is_the_processs_own(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5} if process == 0 else set(), raising=False)
    assert machine.affinity() == {1, 5}


@pytest.mark.parametrize(("count", "expected"), [(3, {0, 1, 2}), (None, {0})])
def test_affinity_is_every_processor_where_the_system_does_not_tell(monkeypatch, count, expected):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert machine.affinity() == expected


@pytest.mark.parametrize(
    ("process", "text", "expected"),
    [
        (
            "x86_64",
            "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\nbugs\t: amx_int8\n",
            {"avx2", "avx512f", "avx512_vnni"},
        ),
        ("aarch64", "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n", {"asimd", "asimddp", "i8mm"}),
        ("aarch64", "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32\n", {"asimd"}),
        # Emulators that show the host's processor: its features are not those of the process.
        ("x86_64", "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n", set()),
        ("aarch64", "processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n", set()),
        ("x86_64", "flags\t\t: fpu avx avx512_vnnix\n", set()),
        ("x86_64", "vmx flags\t: avx2\nmodel name\t: avx2\n", set()),
    ],
)
def test_instruction_sets_come_from_the_flags_of_cpuinfo(tmp_path, monkeypatch, process, text, expected):
    monkeypatch.setattr(platform, "machine", lambda: process)
    write(tmp_path / "cpuinfo", text)
    assert machine.instruction_sets(tmp_path / "cpuinfo") == expected


def test_instruction_sets_are_empty_where_the_system_does_not_tell(tmp_path):
    assert machine.instruction_sets(tmp_path / "missing") == frozenset()


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 2.0: GHz\nmodel name\t: Another\n", "Some CPU @ 2.0: GHz"),
        ("model name\t:\nprocessor\t: 0\n", None),
        (None, None),
    ],
)
def test_the_processors_name_or_else_its_architecture(tmp_path, cpuinfo, name):
    import platform

    if cpuinfo is not None:
        write(tmp_path / "cpuinfo", cpuinfo)
    assert machine.processor(tmp_path / "cpuinfo") == (name or platform.processor() or platform.machine())
