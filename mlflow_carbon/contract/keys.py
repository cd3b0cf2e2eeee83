"""Every metric key and tag key of this package: the contract with the tracking store.

Version 2 writes at most six metrics on a run, and each is a curve. MLflow calls the value at the
highest step, and there at the newest time, the latest one. Energy and CO2e are cumulative, at the
end of each window and of the run, so their latest value is the total. Window ``k`` ends at step
``k``; the curves begin at step 0, where a run without windows has its total. Else the total has the
step after the last window's (earlier releases: the same step and a later time), and the windows of
a resumed run go on after it.

What the curves keep of the windows, so that a killed run can be predicted from and resumed:

- the energy of a window is the energy at its end less that at its start: where energy was spent
  between two windows, the start is a point of its own, of the step before and a later time than
  the end of the window before (earlier releases: of the same step and an earlier time);
- its duration is that energy over ``carbon/power_w``, which has one point for each window;
- its units follow from ``carbon/co2e_g_per_<unit>``: CO2e of the windows so far over units so far.

Everything else is in tags, the totals by component and device in ``carbon.total``. Of a run on
several nodes, ``carbon/node_energy_kwh`` is the first node's curve, and ``carbon/energy_kwh`` and
``carbon/co2e_g`` are the sums over the nodes. Version 1 wrote a metric for each figure: totals at
step 0 and series of the windows. It is read for ever, and never written.
"""

DEFAULT_EXPERIMENT = "Default"  # MLflow's own
SCHEMA_VERSION = "2"

METRIC_PREFIX = "carbon/"  # of every metric below

# Curves of a run.
ENERGY_KWH = "carbon/energy_kwh"
CO2E_G = "carbon/co2e_g"
POWER_W = "carbon/power_w"
FORECAST_CO2E_G = "carbon/forecast_co2e_g"  # of the whole run, as its windows foretell it
NODE_ENERGY_KWH = "carbon/node_energy_kwh"  # of the first of several nodes

# The one figure on a LoggedModel: what MLflow's filter of models compares.
CO2E_KG = "carbon/co2e_kg"

# Totals of version 1, step 0, beside those above.
FACILITY_ENERGY_KWH = "carbon/facility_energy_kwh"
DURATION_S = "carbon/duration_s"
INTENSITY_G_PER_KWH = "carbon/intensity_g_per_kwh"
PUE = "carbon/pue"
COVERAGE_FRACTION = "carbon/coverage_fraction"

# The windows of version 1, steps 1..N.
WINDOW_PREFIX = "carbon/window"
WINDOW_ENERGY_KWH = f"{WINDOW_PREFIX}/energy_kwh"
WINDOW_DURATION_S = f"{WINDOW_PREFIX}/duration_s"
WINDOW_POWER_W = f"{WINDOW_PREFIX}/power_w"
WINDOW_NUM_UNITS = f"{WINDOW_PREFIX}/num_units"

# Run tags.
TAG_PREFIX = "carbon."
TAG_SCHEMA = "carbon.schema"
TAG_SCOPE = "carbon.scope"
TAG_REGION = "carbon.region"
TAG_PERIOD = "carbon.period"
TAG_INTENSITY_SET = "carbon.intensity_set"
TAG_INTENSITY_SOURCE = "carbon.intensity_source"
TAG_INTENSITY_BASIS = "carbon.intensity_basis"
TAG_INTENSITY_G_PER_KWH = "carbon.intensity_g_per_kwh"
TAG_PUE = "carbon.pue"  # so that a killed run has a price
TAG_INTENSITY_FALLBACK = "carbon.intensity_fallback"
TAG_COMPONENTS = "carbon.components"
TAG_CPU_TDP_SOURCE = "carbon.cpu_tdp_source"
TAG_CPU_IDLE_POWER_W = "carbon.cpu_idle_power_w"  # the idle part of an estimated CPU's power
TAG_UNREAD_DEVICES = "carbon.unread_devices"  # devices to count that cannot be read
TAG_ATTRIBUTION = "carbon.attribution"
TAG_OTHER_LOAD = "carbon.other_load"  # what other processes used of the node meanwhile, if much
TAG_HARDWARE = "carbon.hardware"
TAG_TRACKER = "carbon.tracker"
TAG_PLUGIN_VERSION = "carbon.plugin_version"
TAG_TOTAL = "carbon.total"  # energy in all, by component and by device; see Total.words
TAG_ENERGY_KWH_PER_UNIT = "carbon.energy_kwh_per_unit"  # run value and spread of each unit
TAG_NOTE = "carbon.note"  # on its way only: it becomes part of the run's description
TAG_FORECAST_INTERVAL_G = "carbon.forecast_interval_g"
TAG_UNIT = "carbon.unit"
TAG_NUM_UNITS = "carbon.num_units"
TAG_NUM_WINDOWS = "carbon.num_windows"
TAG_NUM_DISTINCT_READINGS = "carbon.num_distinct_readings"  # different powers of the windows
TAG_OVERLAPPING_WINDOWS = "carbon.num_overlapping_windows"  # marked windows that share a point
TAG_SHARED = "carbon.shared"  # 'true': the energy includes that of other runs at that time
TAG_FIRST_WINDOW_STEP = "carbon.first_window_step"  # windows before it count another unit
TAG_TRIGGERED_BY_RUN_ID = "carbon.triggered_by_run_id"
TAG_ERROR = "carbon.error"
TAG_EXIT_CODE = "carbon.exit_code"  # of a command that `mlflow-carbon run` metered
TAG_LAUNCH = "carbon.launch"  # the processes of one launch find their run by it
TAG_NUM_NODES = "carbon.num_nodes"
TAG_MISSING_NODES = "carbon.missing_nodes"  # nodes whose energy is not in the total, or not all
TAG_NODE_STATE = "carbon.state"  # of one node, by node_tag()
TAG_PARTIAL = "carbon.partial"  # 'true': the total is a lower bound, a killed run's windows
TAG_MODEL_INPUT_IDS = "carbon.model_input_ids"  # the logged models that a metered run used
TAG_BUDGET_KG = "carbon.budget_kg"
TAG_BUDGET_STATE = "carbon.budget_state"

SCOPE_RUN = "run"
SCOPE_PARENT = "parent"

METHOD_COUNTER = "counter"
METHOD_SAMPLED = "sampled"
METHOD_TDP = "tdp"
METHOD_SIMULATED = "simulated"
METHOD_BACKFILLED = "backfilled"
METHOD_UNAVAILABLE = "unavailable"

PROCESS_SHARE = "process_share"
ATTRIBUTIONS = ("whole_node", PROCESS_SHARE, "gpu_only")
UNIT_ITERATION = "iteration"
UNIT_EPOCH = "epoch"
UNIT_MINUTE = "minute"
UNITS = (UNIT_ITERATION, UNIT_EPOCH, "sample", UNIT_MINUTE)

# Tags of model versions and registered models.
TAG_MODEL_CO2E = "carbon.co2e"  # for people, and for filters: LIKE '% mg'
TAG_MODEL_CO2E_KG = "carbon.co2e_kg"
TAG_MODEL_ENERGY_KWH = "carbon.energy_kwh"
TAG_MODEL_PUE = TAG_PUE
TAG_MODEL_BAND = "carbon.band"
TAG_MODEL_LINEAGE_CO2E_KG = "carbon.lineage_co2e_kg"
TAG_MODEL_LINEAGE_PROBLEM = "carbon.lineage_problem"
TAG_MODEL_INFERENCE_CO2E_G_PER_SAMPLE = "carbon.inference_co2e_g_per_sample"
TAG_MODEL_INFERENCE_WAY = "carbon.inference_way"  # whose samples these are: unipc-50

# On a registered model: whose tags it shows.
TAG_MODEL_SHOWS = "carbon.shows"
SHOWS_NEWEST = "newest"
SHOWS_BEST = "best"

# What users write on a run, a logged model or a version: the models it was built from.
TAG_PARENT_MODEL = "carbon.parent_model"

# Upper bounds in kg CO2e of a model's own training; what is above the last is band G.
BAND_UPPER_BOUNDS_KG = {"A": 0.1, "B": 1.0, "C": 10.0, "D": 100.0, "E": 1000.0, "F": 10000.0}
LAST_BAND = "G"
# What a model may stay under: small ones, all in band A, are told apart by two more limits.
LIMIT_TEXTS = {1e-6: "1mg", 1e-3: "1g"}  # others are told in kg
LIMITS_KG = (*LIMIT_TEXTS, *BAND_UPPER_BOUNDS_KG.values())


def energy_kwh_per_unit(unit: str) -> str:
    """Returns the metric key of the run value of energy per unit, in kWh."""
    return f"{ENERGY_KWH}_per_{unit}"


def co2e_g_per_unit(unit: str) -> str:
    """Returns the metric key of the run value of emissions per unit, in g."""
    return f"{CO2E_G}_per_{unit}"


def std_of(metric: str) -> str:
    """Returns the metric key of the within-run standard deviation of a per-unit metric."""
    return f"{metric}_std"


def window_component_energy_kwh(component: str) -> str:
    """Returns the metric key of a component's energy in one window, in kWh."""
    return f"{WINDOW_PREFIX}/{component}/energy_kwh"


def window_key_of_unit(window_key: str, unit: str) -> str:
    """Returns the key of the window series of a unit other than the run's own.

    So ``carbon/window/energy_kwh`` becomes ``carbon/window/unit/epoch/energy_kwh``.
    """
    return f"{WINDOW_PREFIX}/unit/{unit}{window_key.removeprefix(WINDOW_PREFIX)}"


def component_curve_kwh(component: str) -> str:
    """Returns the metric key of the curve of one component's energy, in kWh."""
    return f"carbon/{component}_energy_kwh"


def windows_tag(unit: str) -> str:
    """Returns the tag key of the sums over the windows of a unit other than the run's own."""
    return f"carbon.windows.{unit}"


def is_window_component(key: str) -> bool:
    """Returns whether a metric is the series of one component's energy in the windows."""
    parts = key.split("/")
    return len(parts) == 4 and parts[:2] == ["carbon", "window"] and parts[3] == "energy_kwh"


def node_metric(metric: str, node_index: int) -> str:
    """Returns the key of one node's part of a run's total: carbon/node/1/energy_kwh."""
    return f"carbon/node/{node_index}/{metric.removeprefix('carbon/')}"


def node_tag(tag: str, node_index: int) -> str:
    """Returns the key of a run's tag for one further node: carbon.node.1.hardware."""
    return f"carbon.node.{node_index}.{tag.removeprefix(TAG_PREFIX)}"


def method_tag(component: str) -> str:
    """Returns the tag key that says how a component's energy was obtained."""
    return f"carbon.method.{component}"


def default_tag(setting: str) -> str:
    """Returns the tag key that marks a setting as assumed, not chosen by the user."""
    return f"carbon.default.{setting}"


def inference_tag(way: str) -> str:
    """Returns the tag key of the CO2e of a sample made in one way, such as ``unipc-50``."""
    return f"{TAG_MODEL_INFERENCE_CO2E_G_PER_SAMPLE}.{way}"


def under_tag(limit_kg: float) -> str:
    """Returns the tag key that is 'true' for every model under a limit in kg CO2e."""
    return f"carbon.under_{LIMIT_TEXTS.get(limit_kg, f'{limit_kg:g}kg')}"


def band(co2e_kg: float) -> str:
    """Returns the emission band A..G of a model's own training, given in kg CO2e."""
    for letter, upper_bound_kg in BAND_UPPER_BOUNDS_KG.items():
        if co2e_kg < upper_bound_kg:
            return letter
    return LAST_BAND


def emission_tags(co2e_kg: float, energy_kwh: float, region: str) -> dict[str, str]:
    """Returns the tags of the contract for a model version and its registered model.

    MLflow compares tags as text only, so each limit that the model stays under is a tag of its
    own: ``tags.`carbon.under_1kg` = 'true'``.
    """
    tags = {
        TAG_MODEL_CO2E_KG: f"{co2e_kg:.6g}",
        TAG_MODEL_ENERGY_KWH: f"{energy_kwh:.6g}",
        TAG_REGION: region,
        TAG_MODEL_BAND: band(co2e_kg),
    }
    for limit_kg in LIMITS_KG:
        if co2e_kg < limit_kg:
            tags[under_tag(limit_kg)] = "true"
    return tags
