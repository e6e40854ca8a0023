"""Train small language models to reason: the components that configs name.

Under torchrun this process sees its own GPU only, as GPU 0. vLLM takes the first GPU it sees, and
torchtune asks for a GPU when it is imported, so this must come before both.
"""

import os


def see_one_gpu() -> None:
    """Leave this rank its own GPU, as torchrun's `--virtual-local-rank` does.

    A second call, or one in a process that this one starts, changes nothing.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "LOCAL_RANK" not in os.environ:
        return
    rank = int(os.environ["LOCAL_RANK"])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(i) for i in range(rank + 1)]
    if len(devices) > rank:  # otherwise there are more ranks than GPUs, or one for each already
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[rank]
        os.environ["LOCAL_RANK"] = "0"


see_one_gpu()
