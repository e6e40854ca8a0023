"""Small chat templates that behave like those of model families, for the start of the response.

They are written for these tests and keep only what decides where the reasoning begins.
"""

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}%s{% endif %}"
)
# DeepSeek-R1 and its distillations: always opens the thought, and forgets earlier ones.
R1 = (
    "{{ '<|begin|>' }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'assistant' %}"
    "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|end|>' }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
# Qwen3: the model opens the thought itself; enable_thinking=false writes an empty one.
QWEN3 = CHATML.replace(
    "%s",
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
# Qwen3.5: the prompt opens the thought, or, in the small ones and on demand, writes an empty one.
QWEN35 = CHATML.replace(
    "%s",
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% else %}{{ '<think>\n' }}{% endif %}",
)
QWEN35_SMALL = CHATML.replace(
    "%s",
    "{% if enable_thinking is defined and enable_thinking is true %}"
    "{{ '<think>\n' }}{% else %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
# Nemotron 3: as Qwen3.5, with an empty thought without newlines.
NEMOTRON3 = (
    "{% set enable_thinking = enable_thinking if enable_thinking is defined else true %}"
    + CHATML.replace(
        "%s",
        "{% if enable_thinking %}{{ '<think>\n' }}{% else %}{{ '<think></think>' }}{% endif %}",
    )
)
# SmolLM3: a system turn is always there, and /no_think in it writes an empty thought.
SMOLLM3 = (
    "{% set given = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% set think = '/no_think' not in given and (enable_thinking is not defined or enable_thinking) %}"
    "{{ '<|im_start|>system\nmode: ' + ('/think' if think else '/no_think') }}"
    "{{ ' ' + given.replace('/no_think', '').strip() + '<|im_end|>\n' }}"
    "{% for m in messages if m.role != 'system' %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if not think %}{{ '<think>\n\n</think>\n' }}{% endif %}{% endif %}"
)
# Llama 3.2: knows no thought, trims what is said.
LLAMA32 = (
    "{{ '<|begin|>' }}{% for m in messages %}"
    "{{ '<|header|>' + m.role + '<|/header|>\n\n' + m.content | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}"
)
# Gemma 3: no thought, and no system turn of its own: it is put before the problem.
GEMMA3 = (
    "{{ '<|begin|>' }}{% set first = '' %}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<|turn|>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ (first if loop.first else '') + m.content | trim + '<|/turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>model\n' }}{% endif %}"
)
SPECIAL = [
    *("<|im_start|>", "<|im_end|>", "<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>"),
    *("<|header|>", "<|/header|>", "<|eot|>", "<|turn|>", "<|/turn|>"),
]
