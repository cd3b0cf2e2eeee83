"""The meter on this machine in real time."""

import time

from mlflow_carbon.metering.meter import Meter, MeterSettings


def test_meter_measures_this_machine_in_real_time() -> None:
    meter = Meter(MeterSettings(components="cpu"))
    meter.start()
    window = meter.open_window()
    end_s = time.monotonic() + 0.3
    while time.monotonic() < end_s:  # keeps one thread busy
        pass
    reading = meter.close_window(window)
    total = meter.stop()
    assert 0.3 <= reading.duration_s < 2
    assert reading.energy_kwh is not None
    assert total.energy_kwh is not None
    # one busy thread of any CPU draws between 0.1 W and a whole package's 1000 W
    assert 0.1 < reading.energy_kwh * 3.6e6 / reading.duration_s < 1000
    assert total.energy_kwh >= reading.energy_kwh
