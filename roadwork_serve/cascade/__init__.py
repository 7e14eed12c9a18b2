"""The cascade: policy, router, batcher, circuit breaker, load shedding. asyncio and numpy only."""
