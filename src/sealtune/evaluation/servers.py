"""What answers a judge's questions: a server behind HTTP, or a model in this process."""

from __future__ import annotations

from sealtune.core.config import JudgeConfig
from sealtune.core.errors import UserError
from sealtune.evaluation.ask import Server
from sealtune.evaluation.judges import load_judge


def require_model(spec: JudgeConfig) -> None:
    """Raise UserError if a judge is unknown, or asks a model and none is named."""
    if load_judge(spec.name).asks_model and spec.model is None:
        raise UserError(
            f"evaluate.judges: {spec.name} asks a model; set base_url and model of a server, or model alone (a folder "
            f"or hub id): {{name: {spec.name}, base_url: http://127.0.0.1:8000/v1, model: NAME}}"
        )


def server_for(spec: JudgeConfig) -> Server:
    """What answers this judge's questions. Raises UserError if it cannot be asked."""
    if spec.base_url is not None:
        from sealtune.evaluation.endpoint import Endpoint

        return Endpoint(spec)
    from sealtune.evaluation.local import LocalModel

    return LocalModel(spec)
