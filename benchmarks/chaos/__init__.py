"""The parts of `benchmarks.chaos`; plan, outcomes, versions, figures and checks are pure."""
