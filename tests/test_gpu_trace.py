"""What a real GPU's counter and sensor said over a training loop, read again by the meter's parts.

The trace is one NVIDIA H100's, ten readings a second, over 24 s of work with pauses.
"""

from itertools import pairwise

import pytest

from benchmarks import gpu_validation
from mlflow_carbon.contract import keys
from mlflow_carbon.metering.readings import EnergySource, add_reading

LIMIT_W = 700.0  # of this GPU, as NVML tells it


@pytest.fixture(scope="module")
def points():
    """Gives (time in s, power in W, counter in J)."""
    return gpu_validation.kept().trace


def tally_of(points, *, is_power, every=1):
    method = keys.METHOD_SAMPLED if is_power else keys.METHOD_COUNTER
    source = EnergySource("gpu", 0, method, lambda: 0.0, is_power=is_power, max_power_w=2 * LIMIT_W)
    tally = None
    for time_s, power_w, counter_joules in points[::every]:
        value = power_w if is_power else counter_joules
        tally = add_reading(source, tally, time_s=time_s, value=value, max_gap_s=5.0)
    return tally


def test_every_step_of_a_real_counter_is_believed(points):
    tally = tally_of(points, is_power=False)
    assert tally.num_gaps == 0
    assert tally.energy_joules == pytest.approx(points[-1][2] - points[0][2])


@pytest.mark.parametrize(("every", "tolerance"), [(1, 0.01), (10, 0.02)])
def test_samples_of_a_real_sensor_add_up_to_its_counter(points, every, tolerance):
    thinned = points[: (len(points) - 1) // every * every + 1]
    tally = tally_of(thinned, is_power=True, every=every)
    counted_joules = thinned[-1][2] - thinned[0][2]
    assert tally.num_gaps == 0
    assert tally.energy_joules == pytest.approx(counted_joules, rel=tolerance)


def test_real_counter_moves_about_every_100_ms(points):
    values = [counter_joules for _, _, counter_joules in points]
    num_still = sum(now == before for before, now in pairwise(values))
    assert num_still < len(values) / 10  # read every 103 ms, it has nearly always moved
