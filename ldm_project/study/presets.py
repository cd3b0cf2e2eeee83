"""The grids of a study that have a name: what the paper ran, and smaller ones of the same shape."""

from ldm_project.config import TASKS
from ldm_project.study.cells import Axes

# The paper, sections 2.1, 2.2, 3.2 and 3.4. 6000 iterations, 50 epochs and 120 scans agree for one
# scan an iteration only, so a window is an epoch of 120 iterations, and a batch is one image. The
# paper prints no size for Fig. 4b; which model Fig. 1 shows it does not say: we take the middle.
PAPER = Axes(
    tasks=TASKS,
    sizes={
        2: ((192, 192), (256, 256), (320, 320), (512, 512)),
        3: ((64, 64, 64), (128, 128, 128), (192, 192, 192), (256, 256, 192)),
    },
    reference_size={2: (256, 256), 3: (192, 192, 192)},
    model_sizes=("small", "medium", "large"),
    base_model_size="medium",
    steps=(50, 100, 200, 500, 1000),
    num_processes=(1, 4),
    batch_size=1,
    num_windows=50,
    num_warmup_windows=2,
    iterations_per_window=120,
)

# The same shape where there is no GPU: smaller images and networks, and fewer steps.
LAPTOP = Axes(
    tasks=TASKS,
    sizes={
        2: ((64, 64), (96, 96), (128, 128), (192, 192)),
        3: ((16, 16, 16), (32, 32, 32), (48, 48, 48), (64, 64, 64)),
    },
    reference_size={2: (64, 64), 3: (32, 32, 32)},
    model_sizes=("tiny", "small", "medium"),
    base_model_size="tiny",
    steps=(5, 10, 20, 50),
    num_processes=(1, 4),
    batch_size=1,
    num_windows=10,
    num_warmup_windows=1,
    iterations_per_window=10,
)

# Enough to see that every part works, in minutes; too short to learn much from.
CI = Axes(
    tasks=TASKS,
    sizes={
        2: ((32, 32), (64, 64), (96, 96)),
        3: ((16, 16, 16), (24, 24, 24), (32, 32, 32)),
    },
    reference_size={2: (64, 64), 3: (32, 32, 32)},
    model_sizes=("tiny", "small"),
    base_model_size="tiny",
    steps=(2, 5, 10),
    num_processes=(1, 4),
    batch_size=1,
    num_windows=4,
    num_warmup_windows=1,
    iterations_per_window=3,
)

STUDIES = {"ci": CI, "laptop": LAPTOP, "paper": PAPER}
