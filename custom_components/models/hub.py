"""Models named by a folder or by their id on the Hugging Face hub."""

from pathlib import Path

from custom_components.config import UserError

FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "LICENSE*", "NOTICE*")
"""What a model folder consists of: no pickles, no code."""


def local_folder(path: str | Path, key: str, revision: str | None = None) -> Path:
    """The folder of a model: `path` itself, or the hub's model of that name, downloaded once.

    Args:
        path: a folder, or a hub id like microsoft/Phi-4-mini-instruct.
        key: config key that named it, for the message.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: when there is no such folder and the hub has no such model or is out of reach.
    """
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path), revision=revision, allow_patterns=FILES))
    except HFValidationError as e:
        raise UserError(
            f"{key}: {path} is neither a folder nor a hub id (has the stage that makes it finished?)"
        ) from e
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as e:
        raise UserError(
            f"{key}: {path} is not a folder here and could not be downloaded from the hub "
            f"({str(e).strip().splitlines()[0]}); give a local folder instead"
        ) from e
