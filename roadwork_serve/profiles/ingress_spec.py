"""The part of a profile that describes the ingress: replicas, limits, keys, and who may call it."""

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from roadwork_serve.profiles.settings import Settings

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_ORIGIN = re.compile(r"https?://([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


class IngressSpec(Settings):
    """The HTTP deployment in front, which runs the cascade."""

    replicas: int = Field(default=1, ge=1, description="Number of ingress replicas.")
    max_per_node: int | None = Field(
        default=None,
        ge=1,
        description="Largest number of ingress replicas on one Ray node; further ones wait for another node. By "
        "default Ray spreads them over the nodes that exist at the start, and a node that joins later gets none.",
    )
    num_cpus: float = Field(default=0.5, ge=0, description="Logical CPUs Ray reserves for each replica.")
    max_ongoing_requests: int = Field(
        default=256,
        ge=1,
        description="Largest number of concurrent requests to one replica. Further ones are rejected.",
    )
    decode_processes: int = Field(default=2, ge=1, description="Number of decoding processes of each replica.")
    default_deadline_ms: int = Field(
        default=30_000, ge=1, description="Deadline of a request that sets none, in milliseconds."
    )
    max_batch_files: int = Field(default=32, ge=1, description="Largest number of files in one batch request.")
    max_in_flight_bytes: int = Field(
        default=512 * 2**20,
        ge=2**20,
        description="Largest number of bytes of media in all requests in flight in one replica. Further requests are "
        "rejected.",
    )
    max_batch_bytes: int = Field(default=128 * 2**20, ge=1, description="Largest batch request in bytes.")
    gpu_hour_price: float = Field(
        default=0.0,
        ge=0,
        description="Price of one GPU for one hour, in any currency. Costs are reported in that currency.",
    )
    keys_file: str | None = Field(
        default=None,
        description="File with the API keys on the node of an ingress replica. By default ROADWORK_KEYS_FILE.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="Host names under which a server without API keys answers, besides IP addresses and localhost. "
        "Requests under other names are rejected: a web page can point its own name at the server.",
    )

    origins: tuple[str, ...] = Field(
        default=(),
        description="Origins of other servers' web pages that may use this one from a browser (CORS), such as "
        "https://app.example. By default no page but the server's own may.",
    )

    @field_validator("origins")
    @classmethod
    def _validate_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            own_port = re.fullmatch(r"http:.*:80|https:.*:443", origin)
            if not _ORIGIN.fullmatch(origin) or own_port:
                raise ValueError(
                    f"{origin!r} is no origin; write scheme, host and a port that is not the scheme's own, in lower "
                    "case and without a path, such as https://app.example; name each, since there is no `*`"
                )
        return origins

    @field_validator("allowed_hosts")
    @classmethod
    def _validate_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    f"{host!r} is no host name; write it in lower case without scheme and port, such as road.example"
                )
        return hosts

    @model_validator(mode="after")
    def _validate(self) -> Self:
        if self.max_per_node is not None and self.replicas <= self.max_per_node:
            raise ValueError(
                f"max_per_node is {self.max_per_node} and replicas is {self.replicas}, so one node takes all of them; "
                "set more replicas, or leave it out"
            )
        return self
