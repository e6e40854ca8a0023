"""Tokenizers with the mistakes of others."""

from custom_components.tokenizer.chat import ChatTokenizer


class PaddingHidesTheEnd(ChatTokenizer):
    """Pads with the end of the turn and leaves all padding out, as collators do that go by its id."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pad_id = self.end_of_turn_id

    def encode_example(self, messages, finished=True):
        ids, prompt_length = super().encode_example(messages, finished)
        while ids and ids[-1] == self.pad_id:
            ids = ids[:-1]
        return ids, prompt_length
