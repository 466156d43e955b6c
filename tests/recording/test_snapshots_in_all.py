"""All that holds of a recorder holds where states are copied while training goes on."""

import pytest
from test_recorded_losses import *  # noqa: F403
from test_recorder import *  # noqa: F403
from test_recording_schedules import *  # noqa: F403
from test_resuming import *  # noqa: F403
from test_settings import *  # noqa: F403
from test_sides import *  # noqa: F403

from losspath.recording import snapshots

pytestmark = pytest.mark.slow

# A step later than without: `test_snapshots` has it.
del test_thawing_a_frozen_parameter_is_told_once_and_its_numbers_are_recorded  # noqa: F821


@pytest.fixture(autouse=True)
def _late():
    snapshots.DEVICES.add("cpu")
    yield
    snapshots.DEVICES.discard("cpu")
