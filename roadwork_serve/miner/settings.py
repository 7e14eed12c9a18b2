"""Settings of the miner, from flags, ROADWORK_MINER_* in the environment, and a YAML file, in this order."""

import os
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.addresses import without_brackets
from roadwork_serve.miner.hotkeys import is_hotkey
from roadwork_serve.state_folder import state_folder

PREFIX = "ROADWORK_MINER_"
NETUIDS = {"finney": 72, "test": 323}
Hotkeys = Annotated[list[str], NoDecode]


def _miner_folder() -> Path:
    return state_folder() / "miner"


class MinerSettings(BaseSettings):
    """A Subnet 72 miner: answers validators over the axon protocol with a running roadwork-serve."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        cli_prog_name="miner.py",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    config: Path | None = Field(None, description="YAML file with any of these settings; names have underscores.")
    check: bool = Field(False, description="Check everything the miner needs, print the results, and exit.")

    host: str = Field(
        "127.0.0.1", description="Address to listen on. Use 0.0.0.0 so that validators can connect, or :: to add IPv6."
    )
    port: int = Field(8091, ge=1, le=65535, description="Port to listen on.")
    external_ip: str | None = Field(None, description="Address to publish on the chain.")
    external_port: int | None = Field(
        None, ge=1, le=65535, description="Port to publish on the chain. By default --port."
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="Port on loopback for /metrics. 0 disables it.")

    app: str = Field("roadwork", description="Name of the Ray Serve application to use.")
    wait_s: float = Field(0.0, ge=0, description="Time to wait for the application at the start, in seconds.")
    server: str | None = Field(
        None, description="URL of a server to use over HTTP instead, e.g. http://127.0.0.1:8000."
    )

    wallet: str = Field("default/default", description="Names of the wallet and hotkey: WALLET/HOTKEY.")
    wallet_path: Path = Field(Path("~/.bittensor/wallets"), description="Folder of the wallets.")
    network: str = Field("finney", description="Network: finney, test, local, or the ws:// or wss:// URL of a node.")
    netuid: int | None = Field(None, ge=0, description="Number of the subnet. By default 72, on the test net 323.")
    offline: bool = Field(False, description="Run without the chain. Only hotkeys of --allow may call.")
    refresh_s: float = Field(300.0, ge=10, description="Time between readings of the metagraph, in seconds.")

    allow: Hotkeys = Field(default_factory=list, description="Hotkeys that may always call, separated by commas.")
    deny: Hotkeys = Field(default_factory=list, description="Hotkeys that may never call, separated by commas.")
    force_validator_permit: bool = Field(True, description="Require a validator permit from other hotkeys.")
    min_stake: float = Field(0.0, ge=0, description="Stake that other hotkeys need, in alpha.")
    per_minute: float = Field(120.0, ge=1, description="Largest number of calls per minute from one hotkey.")
    max_concurrent: int = Field(4, ge=1, description="Largest number of concurrent calls from one hotkey.")
    workers: int = Field(
        16, ge=1, description="Largest number of concurrent calls in all. Calls with more stake run first."
    )
    queue: int = Field(64, ge=0, description="Largest number of queued calls.")
    max_body_mib: float = Field(16.0, gt=0, le=256, description="Largest call in MiB.")
    margin_s: float = Field(
        0.5, ge=0, le=8, description="Part of the validator's timeout reserved for the network, in seconds."
    )
    max_clock_ahead_s: float = Field(
        60.0,
        ge=0,
        le=3600,
        description="How far a validator's clock may be ahead of this one, in seconds. Nonces are kept as long.",
    )
    state: Path = Field(
        default_factory=_miner_folder,
        description="Folder for nonces, the last metagraph and the offline key. By default miner/ in the state folder.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources: flags, then the environment, then the file that either names."""
        return init_settings, env_settings, _File(settings_cls)

    @field_validator("host", "external_ip")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        """Accept an IPv6 address in brackets, as in URLs."""
        return None if value is None else without_brackets(value.strip())

    @field_validator("allow", "deny", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Split text at commas."""
        if isinstance(value, list):
            value = ",".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _validate(self) -> "MinerSettings":
        if self.offline and not self.allow:
            raise ValueError("--offline rejects every call without --allow HOTKEY")
        if self.wallet.count("/") != 1 or not all(self.wallet.split("/")):
            raise ValueError("--wallet must be WALLET/HOTKEY")
        for each in (*self.allow, *self.deny):
            if not is_hotkey(each):
                raise ValueError(f"{each} is not a hotkey; write its ss58 address, as shown by `btcli wallet list`")
        both = set(self.allow) & set(self.deny)
        if both:
            raise ValueError(f"{min(both)} is in --allow and in --deny")
        return self

    @property
    def subnet(self) -> int:
        """Number of the subnet.

        Raises:
            ConfigError: The network is a node's URL and --netuid is not set.
        """
        number = self.netuid if self.netuid is not None else NETUIDS.get(self.network)
        if number is None:
            raise ConfigError("--netuid is needed with the URL of a node")
        return number


class _File(YamlConfigSettingsSource):
    """The file that flags or the environment name, if any."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, yaml_file=None)

    def __call__(self) -> dict[str, Any]:
        named = self.current_state.get("config")
        if not named:
            return {}
        path = Path(str(named)).expanduser()
        try:
            content: object = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None
        if not isinstance(content, dict):
            raise ConfigError(f"{path} is not a mapping of settings to values")
        return content  # pyright: ignore[reportUnknownVariableType]


def load_settings(arguments: list[str]) -> MinerSettings:
    """Load the settings.

    Args:
        arguments: Flags of the command line.

    Raises:
        ConfigError: A setting is unknown or invalid.
        SystemExit: For --help and unknown flags.
    """
    unknown = [name for name in os.environ if name.startswith(PREFIX)]
    known = {f"{PREFIX}{name.upper()}" for name in MinerSettings.model_fields}
    for name in unknown:
        if name not in known:
            raise ConfigError(f"{name} is not a setting of the miner; `miner.py --help` lists them")
    try:
        source = CliSettingsSource[Any](MinerSettings, cli_parse_args=arguments)
        return MinerSettings(_cli_settings_source=source)  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}") from None
