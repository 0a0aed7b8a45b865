"""``sealtune export --to hf --push``: the rows kept and the tuned model, with their cards, to the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.core.errors import RunError, UserError
from sealtune.core.sanitize import excerpt
from sealtune.data.reasons import plural
from sealtune.models.adapter_folder import is_adapter
from sealtune.models.load import public_name
from sealtune.pipeline.exporter import MARKER
from sealtune.report.markdown import results_section
from sealtune.tuning.saved_model import stands_on

if TYPE_CHECKING:
    from sealtune.pipeline.run import Run

CARD = "README.md"
UNITS = ("B", "kB", "MB", "GB", "TB")


class Upload(NamedTuple):
    """What goes into one repository: its kind (``dataset`` or ``model``), and content or place of each file."""

    repo: str
    kind: str
    files: dict[str, bytes | Path]

    def lines(self) -> Iterator[str]:
        """A line about the repository, and one about each file, with their sizes."""
        total = sum(map(_size, self.files.values()))
        yield f"{self.kind} {self.repo}: {plural(len(self.files), 'file')}, {_bytes(total)}"
        for name, content in self.files.items():
            yield f"  {name}  {_bytes(_size(content))}"


def plan(run: Run, rows: Path, repo: str) -> list[Upload]:
    """What would be uploaded: the rows, and the tuned model if the run has tuned. Nothing is contacted.

    Args:
        run: The run.
        rows: The folder of its export to ``hf``.
        repo: The repository on the hub; a dataset and a model may have the same name.

    Raises:
        UserError: The name is none of a repository, or a file of the run was changed.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--push: {excerpt(error, 200)}") from None
    found = sorted(path for path in rows.rglob("*") if path.is_file() and path.name != MARKER)
    uploads = [Upload(repo, "dataset", {path.relative_to(rows).as_posix(): path for path in found})]
    return uploads + ([Upload(repo, "model", _model_files(run))] if "tune" in run.folder.manifest().stages else [])


def notes(run: Run) -> Iterator[str]:
    """Lines that say what the uploads lack."""
    if "tune" not in run.folder.manifest().stages:
        yield "the run has not tuned: there are only rows to upload"
    elif (base := _local_base(run)) and is_adapter(run.folder.path("tune")):
        yield f"the tuned model stands on {base}, a folder of this machine: who downloads it needs that model, too"


def push(uploads: Sequence[Upload]) -> list[str]:
    """Upload, creating private repositories where there are none. Returns the addresses.

    Raises:
        UserError: The hub does not accept the token.
        RunError: The upload failed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api, addresses = HfApi(), []
    for repo, kind, files in uploads:
        try:
            url = api.create_repo(repo, repo_type=kind, private=True, exist_ok=True)
            operations = [CommitOperationAdd(name, content) for name, content in files.items()]
            message = f"Upload by sealtune: {plural(len(files), 'file')}"
            api.create_commit(url.repo_id, operations, commit_message=message, repo_type=kind)
        except LocalTokenNotFoundError:
            raise UserError("--push: no token of the hub; run `hf auth login`, or set HF_TOKEN") from None
        except HfHubHTTPError as error:
            raise _refused(repo, error) from None
        except (OSError, ValueError, RuntimeError) as error:  # no network, a refused card, or the storage backend
            raise RunError(f"{repo}: the upload failed: {excerpt(error, 300)}") from None
        addresses.append(str(url))
    return addresses


def _refused(repo: str, error: Any) -> Exception:
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return UserError(f"{repo}: the hub refuses the token ({status}); use one that may write there (HF_TOKEN)")
    return RunError(f"{repo}: the upload failed: {excerpt(error, 300)}")


def _model_files(run: Run) -> dict[str, bytes | Path]:
    """The tuned model and its tokenizer, without logs; the card says what was measured."""
    names = [name for name in run.folder.outputs_of("tune") if not name.endswith(".jsonl")]
    files: dict[str, bytes | Path] = {name.removeprefix("tune/"): run.folder.path(name) for name in names}
    return files | {CARD: _model_card(run).encode()}


def _model_card(run: Run) -> str:
    text = run.folder.path(f"tune/{CARD}").read_text(encoding="utf-8")
    if base := _local_base(run):  # no name for readers elsewhere, and the hub would refuse it
        text = text.replace(f"base_model: {base}\n", "").replace(base, Path(base).name)
    reported = "report" in run.folder.manifest().stages
    return text + (results_section(run.folder.read_json("results.json")) if reported else "")


def _local_base(run: Run) -> str | None:
    """The folder of the model that was tuned; None if it is a model of the hub."""
    base = public_name(stands_on(run.config))
    return base if Path(base).exists() else None


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _bytes(count: float) -> str:
    """A size as people read it."""
    for unit in UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {UNITS[-1]}"
