"""When the metering of a run starts and ends, and who marks its windows."""
