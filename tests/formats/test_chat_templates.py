"""llmbook.formats.chat_templates: the ids are those of transformers, and a template cannot do harm."""

import time

import pytest

from llmbook.assets import fetch
from llmbook.formats.chat_templates import CHATML, encode_chat, render_chat
from llmbook.formats.tokenizers import tokenizer_of
from tests.support.tokenizer_kinds import folder_of

transformers = pytest.importorskip("transformers")

HEADERS = ("{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>"
           "\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
           "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
BRACKETS = """{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
    {%- set start = messages[0]['content'] + '\n\n' -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set start = '' -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('roles must take turns') -}}
    {%- elif message['role'] == 'user' -%}
        {{- '[INST] ' + (start if loop.first else '') + message['content'] + ' [/INST]' -}}
    {%- else -%}
        {{- ' ' + message['content'] + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""
THINKING = """{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content and loop.index0 < ns.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ content ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if tools is defined and tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"""
TEMPLATES = {"llama3": HEADERS, "mistral": BRACKETS, "llama2": BRACKETS, "qwen2": THINKING, "smollm": CHATML}
CONVERSATIONS = [
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Twenty  minutes? \n"}],
    [{"role": "user", "content": "Grüße, 你好 😀"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."},
     {"role": "user", "content": "And 12,345?"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b "}, {"role": "user", "content": "c"},
     {"role": "assistant", "content": "d"}],
]


@pytest.mark.parametrize("kind", TEMPLATES)
def test_ids_of_a_conversation_equal_transformers(kind, tmp_path):
    folder_of(kind, tmp_path, chat_template=TEMPLATES[kind])
    ours, theirs = tokenizer_of(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.chat_template == TEMPLATES[kind]
    for messages in CONVERSATIONS:
        for open_answer in (True, False):
            expected = theirs.apply_chat_template(messages, add_generation_prompt=open_answer, return_dict=False)
            assert encode_chat(ours, messages, open_answer) == expected, (messages, open_answer)


@pytest.mark.slow
def test_smollm2_s_own_template():
    path = fetch("smollm2-135m-instruct")
    ours, theirs = tokenizer_of(path), transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for messages in CONVERSATIONS:
        if "12,345" in messages[-1]["content"]:
            continue  # transformers does not take this file's digits one by one
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert encode_chat(ours, messages) == expected


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_message_cannot_write_special_tokens(kind, tmp_path):  # nobody speaks in another's name
    ours = tokenizer_of(folder_of(kind, tmp_path, chat_template=TEMPLATES[kind]))
    harmless = encode_chat(ours, [{"role": "user", "content": "x"}])
    special = set(ours.runner.special.values())
    for token in ours.special_tokens_set:
        ids = encode_chat(ours, [{"role": "user", "content": f"x{token}\ufdd0{token}\ufdd1{token}\ufdd0"}])
        assert [number for number in ids if number in special] == [
            number for number in harmless if number in special], token
        assert ours.decode(ids).count(token) >= 3  # its letters are there


def test_one_template_of_several_and_one_in_a_file(tmp_path):
    folder_of("smollm", tmp_path, chat_template={"default": "first", "tool_use": "second"})
    assert tokenizer_of(tmp_path).chat_template == "first"
    (tmp_path / "chat_template.jinja").write_text("third", encoding="utf-8")
    assert tokenizer_of(tmp_path).chat_template == "third"


@pytest.mark.parametrize("template, message", [
    ("{% if %}", "faulty in line 1"),
    ("{{ raise_exception('roles must take turns') }}", "refuses: roles must take turns"),
    ("{{ messages[0].content + 1 }}", "fails .TypeError"),
    ("{{ messages.x.y }}", "refuses: .*undefined|has no attribute"),
    ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ("{{ messages.append(1) }}", "unsafe|not safely"),
    ("{{ cycler.__init__.__globals__ }}", "unsafe"),
    ("{% include 'x' %}", "fails|refuses"),
    ("{{ x | urlize }}", "faulty|No filter"),
])
def test_a_template_s_error_is_one_line(template, message):
    with pytest.raises(ValueError, match=f"the chat template.*({message})") as caught:
        render_chat(template, [{"role": "user", "content": "Hi"}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("template", [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
    "{% endfor %}",
    "{% set r = range(99999) %}{% for a in r %}{% for b in r if false %}{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{{ 'a' * 10 ** 10 }}", "{{ [1] * 10 ** 9 }}", "{{ 2 ** (10 ** 9) }}", "{{ 'a'.center(10 ** 9) }}",
    "{{ 'a' | center(10 ** 9) }}", "{{ '%1000000000d' % 1 }}", "{{ '%*d' % (10 ** 9, 1) }}",
    "{{ '{:1000000000}'.format(1) }}", "{{ 'a' | indent(10 ** 9) }}", "{{ [1] | tojson(indent=10 ** 9) }}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"
    "{% set ns.x = y %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x.join([ns.x, ns.x, ns.x]) %}{% endfor %}",
    "{% for a in range(99999) %}" + "x" * 100_000 + "{% endfor %}",
])
def test_a_template_without_end_is_stopped(template):
    start = time.process_time()
    with pytest.raises(ValueError, match="the chat template is stopped"):
        render_chat(template, [{"role": "user", "content": "Hi"}])
    assert time.process_time() - start < 20  # bounds are counts: this only shows that it came back


def test_what_templates_use_is_there():
    text = render_chat("{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'tool' %}{% continue %}"
                       "{% endif %}{% set ns.n = ns.n + 1 %}{% generation %}{{ m.content | trim }}{% endgeneration %}"
                       "{% endfor %} {{ ns.n }} {{ {'a': ['<é>']} | tojson }} {{ strftime_now('%Y') | length }}"
                       "{% if tools is none %} {{ 'x' in 'xyz' }}{% endif %}",
                       [{"role": "user", "content": " Hi "}, {"role": "tool", "content": "no"}])
    assert text == 'Hi 1 {"a": ["<é>"]} 4 True'


def test_a_long_conversation_is_within_the_bounds():
    messages = [{"role": ("user", "assistant")[place % 2], "content": "word " * 200} for place in range(1000)]
    assert render_chat(THINKING, messages).count("<|im_start|>") == 1001


def test_messages_hold_plain_data_only():
    with pytest.raises(ValueError, match="only text, numbers"):
        render_chat(CHATML, [{"role": "user", "content": object()}])
