"""Config: every setting of the server, defined once, and read from flags, the environment and a TOML file.

A flag overrides RESIFT_SERVE_NAME in the environment, which overrides the key `name` of the file.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args, get_origin

import msgspec
from msgspec import inspect

from resift.documents import DocumentTemplate
from resift.errors import InputError
from resift.files.whole import read_toml
from resift.settings import GPU, LARGEST, PROVIDERS, Precision, Scale, Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping

PREFIX = "RESIFT_SERVE_"
FILE = "config"
"""the one setting that the file cannot have, as it names the file"""
Meta = msgspec.Meta
Count = Annotated[int, Meta(ge=1, le=1 << 40)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
Threads = Annotated[int, Meta(ge=1, le=LARGEST["threads"])]
Name = Annotated[str, Meta(max_length=200, title="text of at most 200 characters")]
Length = Annotated[int, Meta(ge=1, le=LARGEST["max_length"])]
CacheBytes = Annotated[int, Meta(ge=0, le=LARGEST["document_cache"])]
Windows = Annotated[int, Meta(ge=1, le=LARGEST["windows"])]
BatchTokens = Annotated[int, Meta(ge=1, le=LARGEST["token_budget"])]
PLACES = (*PROVIDERS, "cuda:N")
Place = Annotated[str, Meta(pattern=rf"^({'|'.join(PROVIDERS)}|{GPU.pattern})\Z", title=" or ".join(PLACES))]
LogLevel = Literal["debug", "info", "warning", "error"]
Alias = Annotated[str, Meta(pattern="^[^=]+=.", title="NAME=MODEL")]
SECRET = r"^([!-~]([ -~]*[!-~])?)?\Z"
Key = Annotated[str, Meta(pattern=SECRET, title="printable ASCII without outer spaces")]
Prefix = Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*\Z", title="a path such as /ranker, without a slash at its end")]
WORDS = {
    inspect.IntType: "a whole number from {0.ge} to {0.le}",
    inspect.FloatType: "a number above {0.gt:g}, up to {0.le:g}",
    inspect.BoolType: "true or false",
}
"""What values of a type are."""
Origin = Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)\Z", title="* or an origin such as https://example.org")]
CORS = "origin whose pages may use the server, or * for any; several may be given"
Network = Annotated[str, Meta(pattern=r"^[0-9a-fA-F:.]+(/[0-9]+)?\Z", title="an address or a network such as 10.0.0.0/8")]
PROXY = "address or network of proxies whose X-Forwarded-For is believed; several may be given"
HELD = "bytes of bodies and answers in progress, beyond which 429; a quarter of them for one client"
STORE = "a store that `resift prepare` fills with what is computed of documents; unset: none"
CACHE = "bytes of memory for what is computed of documents, for each model; 0 for none; unset: 64 MiB"
SHARED = "one document cache for the holders of all keys: faster, but times tell a holder which documents others sent"
MODEL = "a model to serve: a folder, a hub id or an embedded model's name; several may be given"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to serve. Each description is the flag's help."""

    model: Annotated[list[str], Meta(description=MODEL)] = []
    alias: Annotated[list[Alias], Meta(description="NAME=MODEL: serve a model under another name, too")] = []
    name: Annotated[Name, Meta(description="name of the first model for clients; unset: its id, such as org/name")] = ""
    strict_model: Annotated[bool, Meta(description="refuse any name but the model's own, even if only one is served")] = False
    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 for any free one")] = 8787
    uds: Annotated[str, Meta(description="path of a Unix socket to listen on, in place of host and port")] = ""
    root_path: Annotated[Prefix, Meta(description="path at which a proxy offers the server, such as /ranker")] = ""
    api_key: Annotated[Key, Meta(description="require `Authorization: Bearer KEY`; better given in the environment")] = ""
    api_key_file: Annotated[str, Meta(description="TOML file of several keys with limits, read again when it changes")] = ""
    no_auth: Annotated[bool, Meta(description="serve other machines without a key")] = False
    open_metrics: Annotated[bool, Meta(description="serve /metrics without a key")] = False
    cors_origin: Annotated[list[Origin], Meta(description=CORS)] = []
    scores: Annotated[Scale | None, Meta(description="scale of scores: sigmoid, or logit as with raw_scores; unset: sigmoid")] = (
        None
    )
    document_template: Annotated[str, Meta(description="what is read of documents that are objects; unset: {text}")] = ""
    settings: Annotated[str, Meta(description="the engine's settings from a TOML file, such as `resift tune` writes")] = ""
    provider: Annotated[Place | None, Meta(description="where to run: cpu, cuda, cuda:1 or another; unset: the best available")] = (
        None
    )
    precision: Annotated[Precision | None, Meta(description="int8, float16 or float32; unset: the fastest available")] = None
    threads: Annotated[Threads | None, Meta(description="batches at once, one thread each; unset: the physical cores")] = None
    max_length: Annotated[Length | None, Meta(description="most tokens of a pair; unset: the model's limit")] = None
    windows: Annotated[Windows | None, Meta(description="most windows that a document too long is read in; unset: 1")] = None
    max_batch_tokens: Annotated[BatchTokens | None, Meta(description="most tokens of a batch; unset: what runs fastest")] = None
    store: Annotated[str, Meta(description=STORE)] = ""
    document_cache: Annotated[CacheBytes | None, Meta(description=CACHE)] = None
    shared_document_cache: Annotated[bool, Meta(description=SHARED)] = False
    max_concurrent_requests: Annotated[Count, Meta(description="requests whose body has arrived, beyond which 429")] = 512
    max_client_batch_size: Annotated[Count, Meta(description="documents of a request")] = 1000
    max_body_bytes: Annotated[Count, Meta(description="bytes of a request's body")] = 1 << 21
    max_held_bytes: Annotated[Count, Meta(description=HELD)] = 1 << 27
    max_connections: Annotated[Count, Meta(description="open connections, or fewer if fewer files may be open")] = 2048
    max_peer_connections: Annotated[Count, Meta(description="open connections from one address")] = 1024
    trusted_proxy: Annotated[list[Network], Meta(description=PROXY)] = []
    max_request_characters: Annotated[Count, Meta(description="characters of a request's query and documents")] = 1 << 23
    max_request_tokens: Annotated[Count, Meta(description="tokens of a request's pairs, once cut")] = 1 << 20
    max_waiting_characters: Annotated[Count, Meta(description="characters waiting for tokenization, beyond which 429")] = 1 << 24
    max_waiting_tokens: Annotated[Count, Meta(description="tokens waiting to run, beyond which 429")] = 1 << 21
    max_waiting_seconds: Annotated[
        Seconds, Meta(description="predicted wait of a request, or as long as it runs itself if that is more; beyond, 429")
    ] = 1.0
    request_seconds: Annotated[Seconds, Meta(description="time from a request's body to its answer")] = 30.0
    header_seconds: Annotated[Seconds, Meta(description="time for the headers of a request to arrive")] = 10.0
    body_seconds: Annotated[Seconds, Meta(description="time for the body of a request to arrive")] = 30.0
    write_seconds: Annotated[Seconds, Meta(description="time for a client to take an answer")] = 30.0
    keep_alive_seconds: Annotated[int, Meta(ge=1, le=86400, description="time an idle connection is kept")] = 65
    shutdown_seconds: Annotated[Seconds, Meta(description="time accepted requests have to finish after SIGTERM")] = 30.0
    log_level: Annotated[LogLevel, Meta(description="debug, info, warning or error")] = "info"
    log_texts: Annotated[bool, Meta(description="write queries and documents into the log")] = False

    @classmethod
    def gather(cls, flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Self:
        """The settings from `flags` (the values of `add_flags`, or their texts, by name), the environment and the TOML file.

        Raises InputError that names the flag, variable, key or file.
        """
        values: dict[str, Any] = {}
        path = flags.get(FILE) or environment.get(PREFIX + FILE.upper())
        if path:
            values.update(_from_file(path))
        variables = {PREFIX + name.upper(): name for name in (*cls.__struct_fields__, FILE)}
        for variable, found in environment.items():
            if variable.startswith(PREFIX) and variable not in variables:
                raise InputError(f"{variable} is not a setting; expected one of {', '.join(sorted(variables))}")
            if variable in variables and variables[variable] != FILE:
                values[variables[variable]] = _convert_named(variables[variable], found, source=variable)
        for name, found in flags.items():
            if name != FILE:
                values[name] = _convert_named(name, found, source=flag(name))
        config = cls(**values)
        config.check()
        return config

    def check(self) -> None:
        """Raises InputError for settings that contradict each other, and for a template or a network that cannot be read."""
        if self.document_template:
            DocumentTemplate.parse(self.document_template)
        for proxy in self.trusted_proxy:
            _check_network(proxy)
        if self.api_key and self.api_key_file:
            raise InputError("--api-key and --api-key-file are both given; put all keys into the file")
        if not (self.is_keyed or self.no_auth or self.uds or _is_loopback(self.host)):
            raise InputError(
                f"--host {self.host} can be reached from other machines; set {PREFIX}API_KEY, "
                "or pass --no-auth to serve without a key"
            )

    @property
    def is_keyed(self) -> bool:
        """Whether requests need a key."""
        return bool(self.api_key or self.api_key_file)

    def engine(self) -> Settings:
        """The engine's settings: those of the settings file, overridden by those set here.

        Raises InputError if they cannot be used.
        """
        overrides = {
            "provider": self.provider,
            "precision": self.precision,
            "threads": self.threads,
            "max_length": self.max_length,
            "scores": self.scores,
            "document_template": self.document_template or None,
            "windows": self.windows,
            "token_budget": self.max_batch_tokens,
            "store": self.store or None,
            "document_cache": self.document_cache,
            "waiting_tokens": self.max_waiting_tokens,
            "waiting_seconds": self.max_waiting_seconds,
        }
        settings = Settings.read(self.settings) if self.settings else Settings()
        return replace(settings, **{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds a flag for each setting. A missing flag sets no attribute, so that the environment and the file are used."""
    import argparse

    command.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="a TOML file of these settings")
    for setting in msgspec.structs.fields(Config):
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help_text(setting)}
        if isinstance(setting.default, bool):
            options["action"] = "store_true" if setting.name.startswith("no_") else argparse.BooleanOptionalAction
        elif isinstance(setting.default_factory, type):
            options |= {"action": "append", "metavar": setting.name.upper(), "type": _flag_type(setting)}
        else:
            options |= {"metavar": "N" if isinstance(setting.default, int | float) else "VALUE", "type": _flag_type(setting)}
        command.add_argument(flag(setting.name), **options)


def _help_text(setting: msgspec.structs.FieldInfo) -> str:
    [meta] = [meta for meta in _metas(setting.type) if meta.description]
    hides_default = isinstance(setting.default, bool) or setting.default in (None, "", msgspec.NODEFAULT)
    return meta.description if hides_default else f"{meta.description} (default: {setting.default})"


def _metas(annotation: Any) -> Iterator[Any]:
    yield from getattr(annotation, "__metadata__", ())


def _flag_type(setting: msgspec.structs.FieldInfo) -> Callable[[str], Any]:
    """The argparse type of a flag; the flag of a list is repeated, and each has one item."""
    import argparse

    def convert(found: str) -> Any:
        try:
            return _convert(found, _item_type(setting) or setting.type, is_secret=setting.name == "api_key")
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _convert_named(name: str, value: Any, *, source: str, strict: bool = False) -> Any:
    """The value of the setting of that name. A list in a variable is separated by commas. Raises InputError with the `source`."""
    [setting] = [setting for setting in msgspec.structs.fields(Config) if setting.name == name]
    if isinstance(value, str) and _item_type(setting) and not strict:
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return _convert(value, setting.type, strict=strict, is_secret=name == "api_key")
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _convert(value: Any, kind: Any, *, strict: bool = False, is_secret: bool = False) -> Any:
    """The value as one of the type `kind`; text becomes numbers unless `strict`. Raises InputError that says what was expected."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        found = "" if is_secret else f"; found {value!r:.80}"
        raise InputError(f"expected {_words(msgspec.inspect.type_info(kind))}{found}") from error


def _item_type(setting: msgspec.structs.FieldInfo) -> Any:
    """The type of the items of a setting that is a list; None for any other."""
    [kind] = get_args(setting.type)[:1] or [setting.type]
    return get_args(kind)[0] if get_origin(kind) is list else None


def _words(kind: Any) -> str:
    """The values of a type."""
    if isinstance(kind, inspect.Metadata):
        return (kind.extra_json_schema or {}).get("title") or _words(kind.type)
    if isinstance(kind, inspect.UnionType):  # with None
        return _words(kind.types[0])
    if isinstance(kind, inspect.ListType):
        return f"a list of {_words(kind.item_type)}"
    if isinstance(kind, inspect.LiteralType):
        return " or ".join(map(str, kind.values))
    return WORDS.get(type(kind), "text").format(kind)


def _from_file(path: str) -> dict[str, Any]:
    content = read_toml(path)
    unknown = sorted(content.keys() - set(Config.__struct_fields__))
    if unknown:
        raise InputError(f"{path} has {unknown[0]!r}; expected only {', '.join(Config.__struct_fields__)}")
    return {name: _convert_named(name, value, source=f"{path}: {name}", strict=True) for name, value in content.items()}


def _check_network(network: str) -> None:
    import ipaddress

    try:
        ipaddress.ip_network(network)
    except ValueError as error:
        raise InputError(
            f"--trusted-proxy {network:.80}: {error!s:.200}; expected an address or a network such as 10.0.0.0/8"
        ) from error


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
