"""Make the mistakes that other tokenizers make."""

from custom_components.tokenizer.chat import ChatTokenizer


class PaddingHidesTheEnd(ChatTokenizer):
    """Pad with the end of the turn and mask padding by its id, as some collators do."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pad_id = self.end_of_turn_id

    def encode_example(self, messages, finished=True):
        ids, prompt_length = super().encode_example(messages, finished)
        while ids and ids[-1] == self.pad_id:
            ids = ids[:-1]
        return ids, prompt_length
