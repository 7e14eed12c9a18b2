"""The memory that may still be allocated."""

from pathlib import Path

from roadwork_serve.free_memory import free_ram


def test_free_memory_respects_the_limit_of_the_container(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert free_ram(tmp_path) is None
    write("proc/meminfo", "MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
    assert free_ram(tmp_path) == 4000 * 1024
    write("proc/self/cgroup", "0::/outer/inner\n")
    write("sys/fs/cgroup/outer/inner/memory.max", "max\n")
    write("sys/fs/cgroup/outer/inner/memory.current", "1000\n")
    write("sys/fs/cgroup/outer/inner/memory.stat", "inactive_file 300\n")
    assert free_ram(tmp_path) == 4000 * 1024
    write("sys/fs/cgroup/outer/memory.max", "9000\n")
    write("sys/fs/cgroup/outer/memory.current", "5000\n")
    write("sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file 1000\n")
    assert free_ram(tmp_path) == 5000
    write("proc/self/cgroup", "5:memory:/box\n4:cpu:/\n")
    write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "800\n")
    write("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "500\n")
    write("sys/fs/cgroup/memory/box/memory.stat", "inactive_file 0\n")
    assert free_ram(tmp_path) == 300
