"""What regressions see of a question: a description, its words, or a backbone's frozen states.

A view turns what it read of the training questions into a kernel: how like one of them a question is.
Each is standardised on the training questions, and is stored as plain arrays and JSON.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from scipy import sparse

from data.errors import ConfigError
from data.question import Question
from predictor.learned.regression import Kernels
from predictor.learned.settings import Kind, PredictorSettings

Array = NDArray[np.float64]
Stored = tuple[dict[str, Any], dict[str, NDArray[Any]]]
FARTHEST = 4.0
TERMS = r"\\?[^\W\d_]+|\d|[^\w\s]"
"""Words and TeX commands, single digits, single signs."""
COMPONENTS = 256
_MOST_TERMS = 20_000


def read_text(question: Question) -> str:
    """All turns of a question, white space normalised."""
    return "\n".join(" ".join(m.content.split()) for m in question.messages)


def describe(questions: Sequence[Question]) -> Array:
    """(questions, 9) what can be counted without a model, on a logarithmic scale.

    Characters, words, numbers, digits, the longest number, signs of operations, capital letters, TeX
    commands, sentences. For arithmetic, numbers and digits are its terms and their size.
    """
    rows = []
    for text in map(read_text, questions):
        numbers = re.findall(r"\d+", text)
        lengths = [len(number) for number in numbers]
        found = (r"[-+*/^=<>×÷]", r"[^\W\d_a-z]", r"\\[a-zA-Z]+", r"[.?!](?=\s|$)")
        counts = [len(re.findall(pattern, text)) for pattern in found]
        words = len(re.findall(r"[^\W\d_]+", text))
        rows.append([len(text), words, len(numbers), sum(lengths), max(lengths, default=0), *counts])
    return np.log1p(np.array(rows, dtype=float))


class Dense:
    """A kernel on feature vectors: exp(-distance / median distance) along their main axes."""

    def __init__(self, source: str, width: float, arrays: dict[str, NDArray[Any]]) -> None:
        self.source = source
        """``description`` or ``states``."""
        self.width = width
        """The median distance."""
        self.arrays = arrays
        """``centre`` and ``scale`` (size,), ``axes`` (size, components), ``points`` (n, components)."""

    @classmethod
    def fit(cls, source: str, features: Array) -> Self:
        """Standardise training features (n, size), and keep their main axes."""
        from sklearn.decomposition import PCA

        # Rounded as they are stored, so that what is fitted is what is loaded.
        centre, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-3)
        arrays = {"centre": centre.astype(np.float32), "scale": scale.astype(np.float32)}
        view = cls(source, 1.0, arrays)
        standard = view._standardise(features)
        count = min(COMPONENTS, *features.shape)
        axes = PCA(count, svd_solver="randomized", random_state=0).fit(standard).components_.T
        view.arrays["axes"] = axes.astype(np.float16)
        view.arrays["points"] = (standard @ view.axes).astype(np.float16)
        sample = view.points[np.linspace(0, len(features) - 1, min(len(features), 1000)).astype(int)]
        view.width = max(float(np.median(_distances(sample, sample))), 1e-6)
        return view

    @cached_property
    def axes(self) -> Array:
        """(size, components) main axes."""
        return self.arrays["axes"].astype(float)

    @cached_property
    def points(self) -> Array:
        """(n, components) the training questions."""
        return self.arrays["points"].astype(float)

    @property
    def size(self) -> int:
        """Training questions."""
        return len(self.arrays["points"])

    def kernel(self, features: Array) -> Kernels:
        """Of questions with the training questions, from features (questions, size)."""
        asked = self._standardise(features) @ self.axes
        return Kernels(self._kernel(asked, self.points), np.ones(len(asked)))

    def own(self) -> Array:
        """(n, n) kernel of the training questions among themselves."""
        return self._kernel(self.points, self.points)

    def _kernel(self, left: Array, right: Array) -> Array:
        return np.asarray(np.exp(-_distances(left, right) / self.width))

    def _standardise(self, features: Array) -> Array:
        """In standard deviations over the root of the size; beyond `FARTHEST` nothing was learnt."""
        away = np.clip((features - self.arrays["centre"]) / self.arrays["scale"], -FARTHEST, FARTHEST)
        scaled: Array = away / features.shape[1] ** 0.5
        return scaled

    def store(self) -> Stored:
        """JSON and arrays, from which the constructor makes it again."""
        return {"source": self.source, "width": self.width}, self.arrays


class Words:
    """A linear kernel on TF-IDF of terms and pairs of them; terms that training had not count nothing."""

    source = "words"

    def __init__(self, vocabulary: list[str], arrays: dict[str, NDArray[Any]]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.arrays = arrays
        self.vectorizer = TfidfVectorizer(
            token_pattern=TERMS, ngram_range=(1, 2), sublinear_tf=True, vocabulary=vocabulary
        )
        self.vectorizer.idf_ = arrays["idf"].astype(float)

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Self:
        """Learn terms and their weights from the training questions."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        found = TfidfVectorizer(
            token_pattern=TERMS,
            ngram_range=(1, 2),
            sublinear_tf=True,
            min_df=min(2, len(texts)),
            max_features=_MOST_TERMS,
        )
        try:
            table = found.fit_transform(texts).tocsr()
        except ValueError:  # no two of them share a term
            table = found.set_params(min_df=1).fit_transform(texts).tocsr()
        arrays = {"idf": found.idf_, "data": table.data, "indices": table.indices, "indptr": table.indptr}
        return cls(list(found.get_feature_names_out()), arrays)

    @cached_property
    def table(self) -> Any:
        """(n, terms) sparse TF-IDF of the training questions."""
        parts = tuple(self.arrays[name] for name in ("data", "indices", "indptr"))
        return sparse.csr_matrix(parts, shape=(len(parts[2]) - 1, len(self.vectorizer.vocabulary)))

    @property
    def size(self) -> int:
        """Training questions."""
        return len(self.arrays["indptr"]) - 1

    def kernel(self, texts: Sequence[str]) -> Kernels:
        """Of questions with the training questions, from texts."""
        asked = self.vectorizer.transform(texts)
        return Kernels(
            (asked @ self.table.T).toarray(), np.asarray(asked.multiply(asked).sum(axis=1)).ravel()
        )

    def own(self) -> Array:
        """(n, n) kernel of the training questions among themselves."""
        found: Array = (self.table @ self.table.T).toarray()
        return found

    def store(self) -> Stored:
        """JSON and arrays, from which the constructor makes it again."""
        return {"source": self.source, "vocabulary": list(self.vectorizer.vocabulary)}, self.arrays


View = Dense | Words


def load_view(document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> View:
    """A view from what its ``store`` gave."""
    if document["source"] == "words":
        return Words(document["vocabulary"], arrays)
    return Dense(document["source"], document["width"], arrays)


def _distances(left: Array, right: Array) -> Array:
    """(a, b) distances between rows."""
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * left @ right.T
    return np.sqrt(np.maximum(squares, 0.0))


def require_read(count: int, kind: Kind, settings: PredictorSettings) -> None:
    """Raise ConfigError where of all questions of a fold none can be read."""
    if not count:
        raise ConfigError(
            f"predictor {kind}: all questions are too long to be read at max_length {settings.max_length}; "
            "raise it, or take a kind that reads no states"
        )


def encode(tokenizer: Any, question: Question, max_length: int) -> list[int] | None:
    """Token ids of all turns, white space normalised; of a long question its beginning and its end.

    In the backbone's own chat template where it has one, up to where it would answer: a model that was
    tuned on chats has learnt to weigh a question there. None for more than 40 characters a token of
    ``max_length``: of that, both ends tell too little.
    """
    text = read_text(question)
    if len(text) > 40 * max_length:
        return None
    if tokenizer.chat_template:
        turns = [{"role": m.role, "content": " ".join(m.content.split())} for m in question.messages]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError:  # it knows no system's turn, or wants the turns in another order
            one = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    end = max_length // 2
    return ids if len(ids) <= max_length else [*ids[: max_length - end], *ids[-end:]]
