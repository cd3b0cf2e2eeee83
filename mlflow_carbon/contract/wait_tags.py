"""What stands on a run whose start may have waited for cleaner electricity."""

TAG_COMMAND = "carbon.wait.command"  # digest: the same work has the same, and lasts as long
TAG_START = "carbon.wait.start"  # the chosen start; where it began at once, that moment
TAG_DEADLINE = "carbon.wait.deadline"
TAG_REASON = "carbon.wait.reason"  # why it began at once
TAG_G_PER_KWH = "carbon.wait.g_per_kwh"  # mean intensity of the chosen start
TAG_G_PER_KWH_NOW = "carbon.wait.g_per_kwh_at_once"
TAG_SAVING_FRACTION = "carbon.wait.saving_fraction"  # of the CO2e, by those two
TAG_SAVED_G = "carbon.wait.saved_co2e_g"  # by those two and the measured energy
TAG_SOURCE = "carbon.wait.source"  # of the intensities
