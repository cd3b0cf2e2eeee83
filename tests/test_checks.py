"""What the project refuses before torch is loaded."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

# Runs a command in this process, and then says whether torch was loaded for it.
PROBE = """
import sys
from ldm_project.__main__ import main
try:
    main(sys.argv[1:], standalone_mode=False)
except Exception as error:
    print(error.format_message())
print("torch" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (["synth", "--region", "Nowhere"], "No carbon intensity for region 'Nowhere'"),
        (["train", "--pue", "0.5"], "PUE is 0.5"),
        (["synth", "--device", "gpu 1"], "device is 'gpu 1'"),
        (["quality", "--samplers", "unipc,foo"], "sampler is 'foo'"),
        (["train", "--data", "no/such/folder"], "No folder, file or glob 'no/such/folder'"),
        (["study", "--region", "Nowhere"], "No carbon intensity for region 'Nowhere'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_parameters_are_refused_before_torch_is_loaded(tmp_path, arguments, refusal):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    said, was_loaded = done.stdout.strip().splitlines()
    assert said.startswith(refusal)
    assert was_loaded == "False"
    assert not list(tmp_path.iterdir())
