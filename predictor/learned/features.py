"""What is seen of a question: its words, a description of its text, or a backbone's frozen states.

Features of training questions give a kernel: how like each of them a question is, from 0 to 1. Each is
standardised on the training questions, and is stored as plain arrays and JSON.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from scipy import sparse

from data.arrays import Array
from data.question import Question

Arrays = dict[str, NDArray[Any]]
FARTHEST = 4.0
"""Standard deviations beyond which nothing was learnt."""
TERMS = r"\\?[^\W\d_]+|\d|[^\w\s]"
"""Words and TeX commands, single digits, single signs."""
_COMPONENTS = 256
_MOST_TERMS = 20_000
_TFIDF = {"token_pattern": TERMS, "ngram_range": (1, 2), "sublinear_tf": True}
_COUNTED = (r"[-+*/^=<>×÷]", r"[^\W\d_a-z]", r"\\[a-zA-Z]+", r"[.?!](?=\s|$)")


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
        lengths = [len(number) for number in re.findall(r"\d+", text)]
        counts = [len(re.findall(pattern, text)) for pattern in (r"[^\W\d_]+", *_COUNTED)]
        rows.append([len(text), counts[0], len(lengths), sum(lengths), max(lengths, default=0), *counts[1:]])
    return np.log1p(np.array(rows, dtype=float))


class DistanceFeatures:
    """Vectors, of states or of a description: exp(-distance / median distance) along their main axes."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        """``centre`` and ``scale`` (size,), ``axes`` (size, components), ``points`` (n, components), and
        ``width`` (1,), the median distance."""

    @classmethod
    def fit(cls, vectors: Array) -> Self:
        """Standardise the training questions' (n, size), and keep their main axes."""
        from sklearn.decomposition import PCA

        # Rounded as they are stored, so that what is fitted is what is loaded.
        centre, scale = vectors.mean(axis=0), np.maximum(vectors.std(axis=0), 1e-3)
        found = cls({"centre": centre.astype(np.float32), "scale": scale.astype(np.float32)})
        standard = found._standardise(vectors)
        pca = PCA(min(_COMPONENTS, *vectors.shape), svd_solver="randomized", random_state=0).fit(standard)
        found.arrays["axes"] = pca.components_.T.astype(np.float16)
        found.arrays["points"] = (standard @ found._axes).astype(np.float16)
        sample = found._points[np.linspace(0, len(vectors) - 1, min(len(vectors), 1000)).astype(int)]
        found.arrays["width"] = np.maximum(np.median(_distances(sample, sample), keepdims=True), 1e-6)[0]
        return found

    def kernel(self, vectors: Array) -> Array:
        """(questions, n) of vectors (questions, size)."""
        return self._kernel(self._standardise(vectors) @ self._axes)

    def own(self) -> Array:
        """(n, n) of the training questions among themselves."""
        return self._kernel(self._points)

    def _kernel(self, points: Array) -> Array:
        return np.asarray(np.exp(-_distances(points, self._points) / float(self.arrays["width"][0])))

    @cached_property
    def _axes(self) -> Array:
        return self.arrays["axes"].astype(float)

    @cached_property
    def _points(self) -> Array:
        return self.arrays["points"].astype(float)

    def _standardise(self, vectors: Array) -> Array:
        """In standard deviations, over the root of the size."""
        away = (vectors - self.arrays["centre"]) / self.arrays["scale"]
        return np.asarray(np.clip(away, -FARTHEST, FARTHEST) / vectors.shape[1] ** 0.5)


class WordFeatures:
    """TF-IDF of terms and of pairs of them, by their cosine; terms that training had not count nothing."""

    def __init__(self, arrays: Arrays) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.arrays = arrays
        """``vocabulary``, a term a line, as bytes; ``idf``; ``data``, ``indices``, ``indptr`` of the training
        questions' rows."""
        vocabulary = arrays["vocabulary"].tobytes().decode().split("\n")
        self.vectorizer = TfidfVectorizer(**_TFIDF, vocabulary=vocabulary)
        self.vectorizer.idf_ = arrays["idf"].astype(float)
        data, indices, indptr = (arrays[name] for name in ("data", "indices", "indptr"))
        self.table = sparse.csr_matrix((data, indices, indptr), (len(indptr) - 1, len(vocabulary)))

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Self:
        """Learn terms and their weights from the training questions."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        found = TfidfVectorizer(**_TFIDF, min_df=min(2, len(texts)), max_features=_MOST_TERMS)
        try:
            table = found.fit_transform(texts).tocsr()
        except ValueError:  # no two of them share a term
            table = found.set_params(min_df=1).fit_transform(texts).tocsr()
        vocabulary = np.frombuffer("\n".join(found.get_feature_names_out()).encode(), np.uint8)
        rows = {"data": table.data, "indices": table.indices, "indptr": table.indptr}
        return cls({"vocabulary": vocabulary, "idf": found.idf_, **rows})

    def kernel(self, texts: Sequence[str]) -> Array:
        """(questions, n) of texts."""
        return np.asarray((self.vectorizer.transform(texts) @ self.table.T).toarray())

    def own(self) -> Array:
        """(n, n) of the training questions among themselves."""
        return np.asarray((self.table @ self.table.T).toarray())


Features = DistanceFeatures | WordFeatures
KERNELS: dict[str, Any] = {
    "words": WordFeatures,
    "description": DistanceFeatures,
    "states": DistanceFeatures,
}
"""Class of each source's features."""


def see(
    source: str, questions: Sequence[Question], states: NDArray[np.float32] | None, rows: NDArray[np.int64]
) -> Any:
    """What the features of a source, one of `KERNELS`, are made of; ``rows`` of states are the questions'."""
    if source == "words":
        return [read_text(question) for question in questions]
    if source == "description":
        return describe(questions)
    assert states is not None
    return states[rows].astype(float)


def _distances(left: Array, right: Array) -> Array:
    """(a, b) distances between rows."""
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * left @ right.T
    return np.sqrt(np.maximum(squares, 0.0))


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
