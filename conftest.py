def pytest_collectstart(collector):
    # nbval compares every stream of a checked cell, and TensorFlow writes to stderr what differs by machine.
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
