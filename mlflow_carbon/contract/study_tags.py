"""What stands on the runs of a study: a parent run, and a child run for each cell of its grid."""

# On the parent run.
TAG_STUDY = "study.grid"  # digest: studies whose cells compute the same have the same
TAG_PRESET = "study.preset"
TAG_PROCESS = "study.process"  # who runs it, to tell a killed study from one that goes on
TAG_NUM_CELLS = "study.num_cells"

# On each child run; what makes its cell stands in its parameters.
TAG_CELL = "study.cell"  # the cell's name, one of a kind in its study
TAG_WEIGHTS = "study.weights"
TAG_NUM_WARMUP_WINDOWS = "study.num_warmup_windows"  # windows' worth of work before the measured

# On both.
TAG_STATE = "study.state"
TAG_PROBLEM = "study.problem"  # why a cell failed or was skipped, why a study stopped

RUNNING, DONE, FAILED, SKIPPED, INTERRUPTED, STOPPED = (
    "running",
    "done",
    "failed",
    "skipped",
    "interrupted",
    "stopped",
)

PARAM_TASK = "task"  # train, synth
PARAM_DIMS = "dims"
PARAM_SIZE = "size"
PARAM_MODEL_SIZE = "model_size"
PARAM_STEPS = "steps"  # of a synthesis
PARAM_NUM_PROCESSES = "num_processes"
PARAM_BATCH_SIZE = "batch_size"  # of each process
PARAM_DEVICE = "device"
