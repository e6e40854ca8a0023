"""Find models by folder or by hub id, and upload them to the Hugging Face hub."""

from pathlib import Path

from custom_components.config import UserError
from custom_components.io import CARD

FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "LICENSE*", "NOTICE*", CARD)
"""Files of a model folder: no pickles and no code."""


def local_folder(path: str | Path, key: str, revision: str | None = None) -> Path:
    """Return the folder of a model: `path` itself, or the hub's model, downloaded once.

    Args:
        path: folder, or hub id like microsoft/Phi-4-mini-instruct.
        key: config key that names the model, for the message.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: if there is no such folder, and the hub has no such model or cannot be reached.
    """
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path), revision=revision, allow_patterns=list(FILES)))
    except HFValidationError as e:
        raise UserError(
            f"{key}: {path} is neither a folder nor a hub id (has the stage that makes it finished?)"
        ) from e
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as e:
        raise UserError(
            f"{key}: {path} is not a folder here and could not be downloaded from the hub "
            f"({str(e).strip().splitlines()[0]}); give a local folder instead"
        ) from e


def check_token(key: str) -> None:
    """Check that there is a Hugging Face token, before any work is done for an upload.

    Args:
        key: config key that asks for the upload, for the message.

    Raises:
        UserError: if there is no token.
    """
    from huggingface_hub import get_token

    if not get_token():
        raise UserError(f"{key}: no Hugging Face token; run `hf auth login` or set HF_TOKEN")


def upload_model(folder: str | Path, repo: str, key: str, private: bool = True) -> str:
    """Upload a finished model folder to the hub. Files that are already there are not sent again.

    Args:
        folder: folder of the model.
        repo: `user/name` of the repository, which is created if it does not exist.
        key: config key that names the repository, for the message.
        private: whether a new repository is private.

    Returns:
        Address of the repository.

    Raises:
        UserError: if there is no token, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    check_token(key)
    api = HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message="reasontune")
    except (HfHubHTTPError, HFValidationError, OSError) as e:
        raise UserError(f"{key}: {repo}: {str(e).strip().splitlines()[0]}") from e
    return str(url)
