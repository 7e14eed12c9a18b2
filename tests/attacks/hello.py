"""The smallest application, so that Serve has a replica."""

from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Hello:
    """Answers every request."""

    async def __call__(self) -> str:
        """Return a greeting."""
        return "hello"


app = Hello.bind()
