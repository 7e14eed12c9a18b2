"""Random but valid policies, and probabilities and logits to try them with."""

from hypothesis import strategies as st

from roadwork_serve.cascade.curve import Beta, Curve, Isotonic, Linear
from roadwork_serve.cascade.log_odds import Calibrator
from roadwork_serve.cascade.policy import Policy, Step
from roadwork_serve.profiles.stage_kinds import STAGES

shares = st.floats(0, 1)
weights = st.floats(0, 1e6)
logits = st.floats(allow_nan=False)


@st.composite
def knots(draw: st.DrawFn) -> Isotonic:
    """Any isotonic curve."""
    at = draw(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20, unique=True))
    to = draw(st.lists(st.floats(-1e6, 1e6), min_size=len(at), max_size=len(at)))
    return Isotonic(x=tuple(sorted(at)), y=tuple(sorted(to)))


def curves() -> st.SearchStrategy[Curve]:
    """Any valid curve."""
    offsets = st.floats(-1e6, 1e6)
    return st.builds(Linear, slope=weights, offset=offsets) | st.builds(Beta, a=weights, b=weights, c=offsets) | knots()


calibrators = st.builds(
    Calibrator, scale=weights, prior_weight=weights, bias=st.floats(-1e6, 1e6), curve=st.none() | curves()
) | st.just(Calibrator())


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Any policy that `Policy.parse` accepts."""
    decision_threshold = draw(shares)

    def steps() -> tuple[Step, ...]:
        stages = draw(st.lists(st.sampled_from(STAGES), min_size=1, unique=True))
        return tuple(
            Step(
                stage=stage,
                exit=(draw(st.floats(0, decision_threshold)), draw(st.floats(decision_threshold, 1))),
                calibration=draw(calibrators),
                min_text_probability=draw(st.none() | shares),
                min_time_left_ms=draw(st.just(0.0) | st.floats(0, 1e4)),
            )
            for stage in stages
        )

    version = draw(st.text(min_size=1, max_size=128).filter(str.strip))
    prior = draw(st.floats(0, 1, exclude_min=True, exclude_max=True))
    return Policy(version=version, photo=steps(), clip=steps(), prior=prior, decision_threshold=decision_threshold)
