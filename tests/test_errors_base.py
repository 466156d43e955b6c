import errno

import pytest

from losspath.errors import (
    ArgumentError,
    BusyError,
    DamagedError,
    DataError,
    ExistsError,
    LosspathError,
    StoreError,
    wrap_os_errors,
)


def test_an_os_error_becomes_one_of_the_package():
    error = OSError(errno.ENOSPC, "No space left on device", "states.bin")
    with (
        pytest.raises(StoreError, match="cannot write runs/a: No space left on") as caught,
        wrap_os_errors("write runs/a"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError("odd"), "odd"), (OSError(), "OSError"), (TimeoutError(), "TimeoutError")],
)
def test_an_os_error_without_a_reason_has_one_all_the_same(error, reason):
    with pytest.raises(StoreError, match=f"^cannot read x: {reason}$"), wrap_os_errors("read x"):
        raise error


def test_the_class_can_be_chosen():
    with pytest.raises(DataError, match="cannot read x"), wrap_os_errors("read x", DataError):
        open("/nonexistent/file")  # noqa: PTH123, SIM115


def test_errors_of_the_package_pass_through_unchanged():
    # ExistsError is an OSError too.
    for error in (ExistsError("taken"), DamagedError("broken"), ArgumentError("wrong")):
        with pytest.raises(LosspathError) as caught, wrap_os_errors("do it"):
            raise error
        assert caught.value is error


def test_other_errors_pass_through_unchanged():
    for error in (ZeroDivisionError(), KeyboardInterrupt(), ValueError("x")):
        with pytest.raises(type(error)) as caught, wrap_os_errors("do it"):
            raise error
        assert caught.value is error


def test_without_an_error_nothing_happens():
    with wrap_os_errors("do it"):
        done = True
    assert done


def test_damage_and_locks_are_caught_as_trouble_with_the_store():
    for kind in (DamagedError, ExistsError, BusyError):
        assert issubclass(kind, StoreError)
    assert issubclass(ExistsError, FileExistsError)
