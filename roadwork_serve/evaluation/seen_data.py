"""The data that the models of a cascade were trained on, which an evaluation must not score."""

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.engines.head_files import heads_folder, relative_name
from roadwork_serve.engines.training_data import TrainingData, training_data
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.profiles.profile import Profile


def seen_data(profile: Profile, policy: Policy) -> TrainingData:
    """Return what the weights and the heads of all stages of the policy declare. Raises ModelError."""
    folders: set[str] = set()
    for step in (*policy.photo, *policy.clip):
        engine = profile.engine_of(step.stage)
        folders.add(weights_folder(engine.model))
        if engine.features.head is not None:
            folders.add(engine.features.head)
        if step.head is not None:
            root = heads_folder(engine.features.policy_heads)
            folders.add(str(root / relative_name(root, step.head)))
    return training_data(folders)
