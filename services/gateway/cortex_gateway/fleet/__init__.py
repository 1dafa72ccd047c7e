"""What the gateway believes about the neurons: polled, counted in strikes, frozen into snapshots."""
