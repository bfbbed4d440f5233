"""The registered model, from code: MLflow loads this file, no pickle is involved."""

from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel

from data.question import Question
from predictor.learned.store import load_predictor


class PriorModel(PythonModel):
    """Questions in; mean and standard deviation of the scores, and the prior as JSON, out."""

    def load_context(self, context: Any) -> None:
        self.predictor = load_predictor(context.artifacts["predictor"])

    def predict(self, context: Any, model_input: list[str], params: Any = None) -> pd.DataFrame:
        priors = self.predictor.predict([Question.ask(text) for text in model_input])
        rows = [(*prior.moments(), prior.model_dump_json()) for prior in priors]
        return pd.DataFrame(rows, columns=["mean", "std", "prior"])


mlflow.models.set_model(PriorModel())
