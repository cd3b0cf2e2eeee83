"""Software Carbon Intensity against hand computations."""

import pytest

from mlflow_carbon.accounting.functional_unit import Device, embodied_g, software_carbon_intensity

YEAR_S = 8760 * 3600


def test_embodied_share_is_time_times_reserved_part():
    # 150 kg over 5 years, a half for one year: 150 kg / 5 / 2 = 15 kg
    assert embodied_g(Device(150, 5, 0.5), YEAR_S) == pytest.approx(15_000)


def test_intensity_adds_operational_and_embodied_per_unit():
    # one hour of a server (1314 kg, 3 years: 50 g/h) and an eighth of a GPU box (876 kg, 1 year:
    # 100 g/h, an eighth 12.5 g), 437.5 g operational, 100 samples: 500 / 100
    found = software_carbon_intensity(
        437.5,
        100,
        unit="sample",
        duration_s=3600,
        devices=[Device(1314, 3), Device(876, 1, 0.125)],
    )
    assert found.embodied_g == pytest.approx(62.5)
    assert found.g_per_unit == pytest.approx(5.0)
    assert (found.operational_g, found.num_units, found.unit) == (437.5, 100, "sample")


def test_no_device_means_nothing_embodied():
    found = software_carbon_intensity(10, 5, unit="iteration", duration_s=1, devices=[])
    assert (found.embodied_g, found.g_per_unit) == (0, 2)
