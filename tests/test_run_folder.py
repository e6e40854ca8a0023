"""The lock of a run folder where a file system has none."""

import errno
import fcntl
import os

import pytest

from custom_components.runs.run_config import RunConfig
from custom_components.runs.run_folder import RunFolder


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, capfd, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    RunFolder("start", RunConfig(f"{tmp_path}/run"))
    assert (tmp_path / "run" / "manifest.json").is_file()
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: the file system of") and "has no locks" in line


def test_another_error_of_the_lock_is_raised(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="input/output"):
        RunFolder("start", RunConfig(f"{tmp_path}/run"))
