"""The paper's claims, replayed: exact output, and verdicts that follow from the arithmetic."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_carbon.cli import cli
from mlflow_carbon.reporting.paper_claims import (
    CANNOT_BE_DERIVED,
    CONTRADICTED,
    HOLDS,
    ROUNDING,
    Range,
    about,
    check_claims,
    claims_text,
    compare,
    printed,
)

OUTPUT = """\
Of 28 claims 7 hold, 1 is rounded, 13 are contradicted, 7 cannot be derived.

contradicted       2D training is 10 km of driving (abstract)
                   0.79 kg / 0.1082 kg/km = 7.3 km; the claim is +37.0%; mean +
                   1 std would be 9.1 km
contradicted       3D training is 90 km of driving (abstract)
                   9.0 kg / 0.1082 kg/km = 83.2 km; the claim is +8.2%; mean +
                   1 std would be 91.5 km
contradicted       3D training at 256x256x192 is 92 km (3.1)
                   9.0 kg / 0.1082 kg/km = 83.2 km; the claim is +10.6%; mean +
                   1 std would be 91.5 km
contradicted       2D synthesis is 160 km (abstract)
                   18.2 kg / 0.1082 kg/km = 168.2 km; the claim is -4.9%; mean
                   + 1 std would be 171.0 km
rounding           3D synthesis is 3345 km (abstract)
                   362.3 kg / 0.1082 kg/km = 3348.4 km; the claim is -0.1%
cannot be derived  92 km are three days of driving (3.1)
                   92 / 3 = 30.7 km a day; the paper prints no daily distance
contradicted       an average car in Europe emits 108.2 g/km (3.1, reference 1)
                   reference 1 is of the average new car, in the laboratory's
                   cycle. In g/km: paper (EU new cars 2022, provisional):
                   108.2; EU new cars 2022, final: 108.1; EU new cars, EEA
                   2020: 107.5; EU new cars, EEA 2024: 106.8; US cars on the
                   road: 244.2
cannot be derived  3D synthesis is 33.7 % of the annual per-capita budget for
                   1.5 °C (Fig. 1)
                   362.3 kg / 33.7 % = 1075 kg; population and years are not
                   printed; 250 Gt, 8.0 billion and 27 or 28 years give 31.3%
                   or 32.5%
contradicted       3D synthesis is over 34 % of that budget (4)
                   Fig. 1 prints 33.7 % of the same; 34 % needs a budget under
                   1065.6 kg
holds              405 kg exceed 35 % of that budget (3.3)
                   405 kg / 1075 kg = 37.7%, by the budget that Fig. 1 implies
contradicted       362.3 kg are a flight of 1500 km, Tokyo to Seoul (Fig. 1)
                   great circle 1257 km (NRT-ICN), 1180 km (HND-GMP); 0.242 or
                   0.288 kg/km
holds              location changes emissions up to 94 times (abstract, 3.3)
                   405 / 4.3 = 94.2; Table 1: 666 / 7 = 95.1; EEA as revised,
                   direct: 85; Electricity Maps, life-cycle: 34; Ember,
                   life-cycle: 18; all of 2022
holds              405 kg in Poland and 4.3 kg in Sweden are the same
                   experiment (3.3)
                   405 kg x 7 / 666 = 4.26 kg
cannot be derived  3D synthesis emits up to 405 kg in Poland (3.3)
                   362.3 kg (Fig. 1) x 666 / 251 = 961 kg; 405 kg is 152.6 kg
                   in EU27, another model than any that is printed; which one
                   section 3.3 had is not said
contradicted       the month changes emissions up to 50 % (December against
                   February) (abstract, 3.3)
                   Germany 2022: 1.450 (direct), 1.421 (life-cycle), that is
                   +45 or +42 %; as a saving 31% or 30%; most over least:
                   2022-03 / 2022-02 = 1.468 (direct)
contradicted       the months are of 2023 (2.4, reference 7)
                   Germany 2023: December / February = 0.777 (direct), 0.794
                   (life-cycle), less than 1; section 3.3 and Fig. 3b say 2022
contradicted       Table 1 is of 2022 (3.3)
                   China 582 g/kWh; Ember, which its source republishes: 2022
                   585.8, 2023 582.317
contradicted       the regions of Table 1 compare (3.3, Fig. 3a)
                   it mixes 3 bases (EU27, SE, DE, PL: direct stack GHG (CO2e),
                   gross generation; CN: life-cycle CO2e (Ember via Statista);
                   US: direct CO2 only, utility-scale net generation)
holds              200 steps instead of 1000 save 80 % (3.4)
                   1 - 200 / 1000 = 80%: pure proportion, no fixed cost of
                   decoding
contradicted       image size has minimal impact on 2D training (3.1)
                   0.79 / 0.40 = 1.98, that is +98%
holds              3D training emits about ten times what 2D does (3.1)
                   largest to largest: 9.0 / 0.79 = 11.4; 64x64x64 to 512x512:
                   0.74 / 0.79 = 0.94
holds              synthesis emits more than training (3.1)
                   10,000 samples over 150,000 iterations, largest size in 3D:
                   362.3 / 9.0 = 40, 2D: 18.2 / 0.79 = 23; at every size at
                   least 8.0
holds              6000 iterations, 50 epochs and 120 scans are one measurement
                   (2.2 to 2.4)
                   6000 / 50 = 120 iterations an epoch: one scan each; 150000
                   iterations are 1250 epochs
contradicted       ± is the standard deviation of the emissions (2.4, 3.1)
                   of 0.40 ± 0.16 kg, 1250 epochs: an epoch varies by 40% if ±
                   is std x N, but by 1414% if it is std x the root of N, which
                   equal epochs do not. So ± is std x N: how far one epoch lies
                   from another, scaled up; independent epochs give the total ±
                   0.023 kg
cannot be derived  the PUE of the data centre is 1.55 (2.4)
                   a recommendation of Bouza et al. 2023, no measurement of the
                   data centre; it is Uptime's world average of 2022 and the
                   factor 1.55 that carbontracker 1.1.7 to 1.2.5 has multiplied
                   by already
cannot be derived  training emits 30 to 40 % more with model size (3.2)
                   no number is printed: Fig. 2; no model size is given
cannot be derived  synthesis emits 60 to 80 % more with model size (3.2)
                   no number is printed: Fig. 2
cannot be derived  4 GPUs do not lower the emissions of training (3.4)
                   no number is printed: Fig. 4a; whether 150000 iterations or
                   equal epochs, which differ 4-fold, is not said
"""


def test_output_is_exact():
    assert claims_text(check_claims()) == OUTPUT


def test_command_prints_it_and_needs_no_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["paper-check"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, OUTPUT, "")
    assert list(tmp_path.iterdir()) == []


def test_command_gives_programs_the_same_claims():
    claims = json.loads(CliRunner().invoke(cli, ["paper-check", "--format", "json"]).stdout)
    assert claims == [asdict(claim) for claim in check_claims()]


def test_printed_figure_stands_for_all_that_rounds_to_it():
    assert (printed("9.0").low, printed("9.0").high) == pytest.approx((8.95, 9.05))
    assert (printed("3345").low, printed("3345").high) == (3344.5, 3345.5)


@pytest.mark.parametrize(
    ("claimed", "derived", "verdict"),
    [
        (Range(1, 2), Range(2, 3), HOLDS),
        (Range(3, 4), Range(2, 3), HOLDS),
        (Range(100.9, 101), Range(99, 100), ROUNDING),  # 0.9 % above
        (Range(99, 99.1), Range(100, 101), ROUNDING),  # 0.9 % below
        (Range(101.1, 102), Range(99, 100), CONTRADICTED),  # 1.1 %
    ],
)
def test_verdict_follows_from_the_gap(claimed, derived, verdict):
    assert compare(claimed, derived) == verdict


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (Range(11.26, 11.53), HOLDS),  # 9.0 / 0.79, as printed
        (Range(8.0, 12.5), HOLDS),
        (Range(7.9, 8.1), CONTRADICTED),
        (Range(12.4, 12.6), CONTRADICTED),
        (Range(4, 4), CONTRADICTED),  # to the nearest power of ten, 4 and 30 are ten, too
        (Range(30, 30), CONTRADICTED),
    ],
)
def test_about_ten_times_has_bounds_that_a_wrong_ratio_fails(ratio, verdict):
    assert about(10, ratio) == verdict


def test_poland_is_not_contradicted_because_its_configuration_is_not_stated():
    verdicts = {claim.claim: claim.verdict for claim in check_claims()}
    assert verdicts["3D synthesis emits up to 405 kg in Poland"] == CANNOT_BE_DERIVED


def test_output_fits_a_terminal():
    assert max(map(len, OUTPUT.splitlines())) <= 80


def test_quotient_of_ranges_takes_the_far_ends():
    found = Range(8, 10) / Range(2, 4)
    assert (found.low, found.high) == (2, 5)


def test_docs_show_it():
    usage = Path(__file__).parent.parent / "docs" / "commands.md"
    assert OUTPUT.splitlines()[0] in usage.read_text(encoding="utf-8")
