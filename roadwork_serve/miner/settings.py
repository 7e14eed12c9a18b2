"""Everything a miner is told: by flags, by ROADWORK_MINER_* in the environment, by a YAML file, in this order."""

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
from roadwork_serve.miner.hotkeys import is_hotkey

PREFIX = "ROADWORK_MINER_"
NETUIDS = {"finney": 72, "test": 323}
Hotkeys = Annotated[list[str], NoDecode]


class MinerSettings(BaseSettings):
    """A Subnet 72 miner: answers validators over the axon protocol by asking a running roadwork-serve."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        cli_prog_name="miner.py",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    config: Path | None = Field(None, description="YAML file with any of these settings, names with underscores.")
    check: bool = Field(False, description="Validate everything, say what was found, and exit.")

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 to be reached by validators.")
    port: int = Field(8091, ge=1, le=65535, description="Port to listen on.")
    external_ip: str | None = Field(None, description="Address to publish on the chain.")
    external_port: int | None = Field(None, ge=1, le=65535, description="Port to publish; by default the one above.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Port on loopback for /metrics; 0 is none.")

    app: str = Field("roadwork", description="Serve application to ask, by handle.")
    wait_s: float = Field(0.0, ge=0, description="Wait so long for it to be there at the start, seconds.")
    url: str | None = Field(None, description="Ask this server over HTTP instead, such as http://127.0.0.1:8000.")

    wallet: str = Field("default/default", description="Wallet and hotkey, WALLET/HOTKEY.")
    wallet_path: Path = Field(Path("~/.bittensor/wallets"), description="Folder of the wallets.")
    network: str = Field("finney", description="finney, test, local, or the address of a node, ws:// or wss://.")
    netuid: int | None = Field(None, ge=0, description="Subnet; by default 72, on the test net 323.")
    offline: bool = Field(False, description="No chain: only --allow may ask; with a key of its own, or --wallet's.")
    refresh_s: float = Field(300.0, ge=10, description="How often the metagraph is read, seconds.")

    allow: Hotkeys = Field(default_factory=list, description="Hotkeys that may always ask; commas between.")
    deny: Hotkeys = Field(default_factory=list, description="Hotkeys that may never ask; commas between.")
    force_validator_permit: bool = Field(True, description="Others need a validator permit.")
    min_stake: float = Field(0.0, ge=0, description="Others need this stake, in alpha.")
    per_minute: float = Field(120.0, ge=1, description="Calls of a hotkey a minute.")
    max_concurrent: int = Field(4, ge=1, description="Calls of a hotkey at once.")
    workers: int = Field(16, ge=1, description="Calls in work at once; those with the highest stake go first.")
    queue: int = Field(64, ge=0, description="Calls that may wait for that.")
    max_body_mib: float = Field(16.0, gt=0, le=256, description="Size of a call, MiB.")
    margin_s: float = Field(0.5, ge=0, le=8, description="Kept back of a validator's time for the way there and back.")
    state: Path = Field(Path("build/miner"), description="Folder for nonces, the last metagraph and an offline key.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file that either names."""
        return init_settings, env_settings, _File(settings_cls)

    @field_validator("allow", "deny", mode="before")
    @classmethod
    def _parted(cls, value: Any) -> Any:
        """Commas part what comes as text."""
        if isinstance(value, list):
            value = ",".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _sensible(self) -> "MinerSettings":
        if self.offline and not self.allow:
            raise ValueError("--offline lets nobody in without --allow HOTKEY")
        if self.wallet.count("/") != 1 or not all(self.wallet.split("/")):
            raise ValueError("--wallet is WALLET/HOTKEY")
        for each in (*self.allow, *self.deny):
            if not is_hotkey(each):
                raise ValueError(f"{each} is no hotkey; write its address, ss58, as `btcli wallet list` shows it")
        both = set(self.allow) & set(self.deny)
        if both:
            raise ValueError(f"{min(both)} is in --allow and in --deny")
        return self

    @property
    def subnet(self) -> int:
        """Its number. Raises ConfigError for a node that does not say which it is of."""
        number = self.netuid if self.netuid is not None else NETUIDS.get(self.network)
        if number is None:
            raise ConfigError("--netuid is needed with a node of one's own")
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
            told: object = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None
        if not isinstance(told, dict):
            raise ConfigError(f"{path} is no mapping of settings to values")
        return told  # pyright: ignore[reportUnknownVariableType]


def load_settings(arguments: list[str]) -> MinerSettings:
    """From flags and what else there is. Raises ConfigError in a line, and SystemExit for --help and unknown flags."""
    unknown = [name for name in os.environ if name.startswith(PREFIX)]
    known = {f"{PREFIX}{name.upper()}" for name in MinerSettings.model_fields}
    for name in unknown:
        if name not in known:
            raise ConfigError(f"{name} is no setting of the miner; `miner.py --help` lists them")
    try:
        source = CliSettingsSource[Any](MinerSettings, cli_parse_args=arguments)
        return MinerSettings(_cli_settings_source=source)  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in told["loc"])
        raise ConfigError(f"{where + ': ' if where else ''}{told['msg'].removeprefix('Value error, ')}") from None
