"""Serve the champion's bundle and, if asked to, the config's own models behind it."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from data.errors import BundleError, ConfigError
from flows.champion import manifest
from flows.config import Config
from flows.examine import read_certificate
from flows.plain_bundle import build_plain, contract_of, first_policy
from models.settings import HttpGeneratorSettings, HttpRewardSettings
from predictor.certificate import describe
from serving.auth import read_keys
from serving.bento import free_port
from serving.champion import Champion
from serving.settings import CHAMPION, KEYS, KEYS_FILE, MORE_BUNDLES, OVERRIDES, GatewaySettings

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve_bundle(
    config: Config,
    with_models: bool = False,
    host: str = "127.0.0.1",
    certificate: Path | None = None,
    open_to_all: bool = False,
    also: Sequence[Config] = (),
) -> None:
    """Serve until interrupted; does not return.

    Where nothing was shipped yet, the config's gateway is served without a predictor; see `build_plain`.

    Parameters
    ----------
    with_models : serve generator and reward model too, from a process that ends with this one.
    host : address to listen on.
    certificate : file that `certify` wrote: serve its policy without a predictor.
    open_to_all : serve without keys on an address that other machines reach.
    also : configs of the same state folder whose bundles are served too, each for its own model.

    Raises
    ------
    BundleError
        If the champion's bento is not on this machine.
    ConfigError, ContractError
        If there is neither a champion nor a gateway, the certificate is of another contract, or anybody could
        use the generator.
    """
    if host not in LOOPBACK and not open_to_all and not read_keys():
        raise ConfigError(
            f"{host} can be reached from other machines and no API keys are set, so anybody there could use "
            f"the generator: set {KEYS} or {KEYS_FILE}, or say --open"
        )
    if other := [str(one.home) for one in also if one.home.resolve() != config.home.resolve()]:
        raise ConfigError(f"--also: its home is {other[0]}, not {config.home}; bundles are kept in one")
    more = [_bento(one, None) for one in also]
    if more:
        import bentoml

        os.environ.pop(CHAMPION, None)  # the gateway follows the first config's alone
        os.environ[MORE_BUNDLES] = os.pathsep.join(bentoml.get(one).path_of("src/bundle") for one in more)
    tag = _bento(config, certificate)
    if with_models:
        os.environ[OVERRIDES] = str(_start_models(config))
    port = str(config.serve.port)
    print(f"{tag} on http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr, flush=True)
    os.execv(
        sys.executable,
        [sys.executable, "-m", "bentoml", "serve", tag, "--host", host, "--port", port],
    )


def _bento(config: Config, certificate: Path | None) -> str:
    if certificate is None:
        os.environ[CHAMPION] = config.champion_location  # the gateway follows it, from the first one on
        if (champion := manifest(config).champion) is not None:
            return champion_bento(champion)
    known = None if certificate is None else read_certificate(certificate)
    tag = build_plain(config, known)
    policy = first_policy(config, contract_of(config))
    says = known.statement if known else f"Nothing is certified yet: {describe(policy)} are drawn."
    print(says, file=sys.stderr, flush=True)
    return tag


def champion_bento(champion: Champion) -> str:
    """Tag of the champion's bento, which is on this machine; its folder where that is in another store.

    Raises
    ------
    BundleError
        If it is not.
    """
    import bentoml

    tag = champion.tag
    try:
        return str(bentoml.get(tag).tag)
    except bentoml.exceptions.BentoMLException as error:
        if (bento := Path(champion.bundle).parents[1]).joinpath("bento.yaml").is_file():
            return str(bento)  # a worker's, on a volume of its own
        raise BundleError(
            f"the champion's bundle {tag} is not on this machine ({error}): bundles are kept where they were "
            f"built. There run `bentoml export {tag} bundle.bento`, here `bentoml import bundle.bento` (both "
            f"with BENTOML_HOME as optscale has it, here {os.environ.get('BENTOML_HOME')}), or ship it anew "
            f"here: optscale ship --version {champion.version}"
        ) from error


def _start_models(config: Config) -> Path:
    """Start `serve_models` in a process of its own; the file with the gateway settings that fit it."""
    file, port = config.home.resolve() / "models.yaml", free_port()
    file.unlink(missing_ok=True)
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)  # held for as long as this process lives, whatever it becomes
    command = [sys.executable, "-m", "flows.serve", config.model_dump_json(), str(port), str(file)]
    started = subprocess.Popen(command, stdin=reading)
    while started.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=5)
            return file
        except httpx.HTTPError:
            time.sleep(0.5)
    raise ConfigError("the models could not be served; what is printed above says why")


def serve_models(config: Config, port: int, file: Path, host: str = "127.0.0.1") -> None:
    """Serve the config's local models; ``file`` gets gateway settings that fit them, for this machine.

    Raises
    ------
    ConfigError
        If the config's models are not of this process, or of a convention that vLLM serves.
    """
    import uvicorn

    from models.server import ModelServer

    generator, reward = config.generator, config.reward
    if generator.kind != "local" or not (
        reward is None or (reward.kind == "local" and reward.convention == "lines")
    ):
        raise ConfigError(
            "only models of this process can be served with the bundle, the reward model by the convention "
            "lines; name the servers of others under gateway"
        )
    server = ModelServer(generator, reward)
    identity, url, scoring = server.generator.identity, f"http://127.0.0.1:{port}/v1", None
    if reward is not None and server.reward is not None:
        tokenizer = file.with_suffix(".tokenizer")
        server.reward.tokenizer.save_pretrained(tokenizer)
        scoring = HttpRewardSettings(
            base_url=url,
            model=server.reward.identity["reward_model"],
            revision=server.reward.identity["reward_revision"],
            tokenizer=str(tokenizer),
            positions=server.reward.positions,
            **reward.model_dump(include={"convention", "span", "aggregation"}),
        )
    settings = GatewaySettings(
        generator=HttpGeneratorSettings(
            base_url=url,
            model=identity["generator"],
            revision=identity["generator_revision"],
            prompt_template=identity["prompt_template"],
            seeds="asked",  # without one, questions share batches
            sampling=generator.sampling,
            in_flight=generator.batch_size,
        ),
        reward=scoring,
    )
    file.write_text(settings.model_dump_json(indent=1))
    uvicorn.run(server.app, host=host, port=port, log_level="warning")


if __name__ == "__main__":
    from models.end_with_parent import end_with_parent

    end_with_parent()
    serve_models(Config.model_validate_json(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
