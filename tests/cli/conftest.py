import pytest

from losspath.cli import main


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Runs the command line as a user in an empty directory does; gives status, stdout, stderr."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return call
