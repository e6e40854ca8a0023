"""Bring the LaTeX (or plain text) of an answer into one canonical spelling by string functions.

Nothing here knows mathematics beyond its notation: `clean` drops what only changes the look
(spacing, `\\left`, `\\dfrac`, `$`, `\\text`), and unifies what has two spellings. In its result
"°" is the degree sign, "%" percent, "¤" the dollar sign, and `\\text{...}` is plain words behind a
vertical tab (`TEXT_SPACE`), which is a space for every other purpose.
"""

from __future__ import annotations

import re
import unicodedata

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "﹣": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "÷": r"\div ", "∕": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "⟨": r"\langle ",
    "⟩": r"\rangle ", "ℝ": r"\mathbb{R}", "…": r"\ldots ", "′": "'", "’": "'", "∠": r"\angle ",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
    "ω": r"\omega ", "φ": r"\phi ", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "⅛": r"\frac{1}{8}",
    "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}",
    "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}",
    "⅞": r"\frac{7}{8}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "∨": r"\lor ", "∧": r"\land ", "\u03a9": r"\Omega ", "\u2126": r"\Omega ",
    "\u00b5": r"\mu ", "\u03bc": r"\mu ", "∣": "|", "∆": r"\Delta ", "σ": r"\sigma ", "∛": r"\sqrt[3]",
    "Å": " angstrom ", "\u212b": " angstrom ", "º": "°", "\u200b": "", "\ufeff": "", "\u2060": "",
    "∖": r"\setminus ", "。": ".", "、": ",",
}  # fmt: skip
_SUPERSCRIPT: dict[str, str] = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_SUBSCRIPT: dict[str, str] = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPT)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPT)}]+")

TEXT_SPACE = "\v"
"""Space that stands where `\\text{...}` began."""

_DIGITS_ONLY = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_NOT_LETTER = r"(?![a-zA-Z])"
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|up|sc|normal)?|mbox|hbox|math(?:rm|bf|it|sf|tt|cal|scr)|"
    r"boldsymbol|bm|emph|underline|ensuremath|boxed|fbox|operatorname\s*\*?)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
)
_UNIT_VECTOR = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|hat|widehat|vec)\s*\{\s*(?:\\hat\s*\{?)?\s*\\?([ijk])(?:math)?"
    r"\s*\}?\s*\}"
)
# What must be in a text before a rule's pattern is tried (any of the words; the patterns cost more),
# the pattern, and what replaces it.
_RULES = [
    (tuple(needs.split(" ")), re.compile(pattern), replacement)
    for needs, pattern, replacement in [
        ("$ dollar", r"(?<![a-zA-Z])US\s*\\?\$|\\\$|\\dollar" + _NOT_LETTER, "¤"),
        ("pounds sterling", r"\\(?:pounds|textsterling)" + _NOT_LETTER, "£"),
        ("euro", r"\\(?:text)?euro" + _NOT_LETTER, "€"),
        ("yen", r"\\(?:text)?yen" + _NOT_LETTER, "¥"),
        ("AA angstrom mathring", r"\\(?:AA|angstrom|mathring\s*\{?\s*A\s*\}?)" + _NOT_LETTER, " angstrom "),
        ("rupee Rs", r"\\rupee" + _NOT_LETTER + r"|(?<![a-zA-Z])Rs\b\.?(?=\s*\d)", "₹"),
        (r"\( \) \[ \] $", r"(?<!\\)\\[()\[\]]|(?<!\\)\$+", " "),  # math fences
        ("left right middle big Big", r"\\m?(?:left|right|middle|[bB]ig+[lrm]?)" + _NOT_LETTER + r"\s*\.?", ""),
        (r"\! negthin", r"(?<!\\)\\!\s*|\\negthinspace" + _NOT_LETTER + r"\s*", ""),
        ("~=", r"~=", r"\\approx "),
        (r"\ ~", r"(?<!\\)\\[,;:>]|(?<!\\)\\(?=\s)|~", " "),
        ("color", r"\\(?:text)?color(?:box)?\s*\{[^{}]*\}", ""),
        ("\\", r"\\(?:q?quad|enspace|thinspace|displaystyle|textstyle|scriptstyle|(?:no)?limits|rm|bf"
         r"|it|cal|sf|centering|noindent|par|strut|tiny|small|normalsize|large|Large|LARGE|huge"
         r"|Huge)" + _NOT_LETTER, " "),
        ("space label tag phantom", r"\\[hv]space\s*\*?\s*\{[^{}]*\}|\\(?:label|tag|phantom)\s*\{[^{}]*\}"
         r"|\\phantom\s*[-+]?", " "),
        ("{", r"(?<=\d)\s*\{\s*([,:])\s*\}\s*(?=\d)", r"\1"),
        ("dfrac tfrac cfrac", r"\\[dtc]frac" + _NOT_LETTER, r"\\frac"),
        ("dbinom tbinom", r"\\[dt]binom" + _NOT_LETTER, r"\\binom"),
        ("leq <=", r"\\(?:leqslant|leqq|leq)" + _NOT_LETTER + r"|<=", r"\\le "),
        ("geq >=", r"\\(?:geqslant|geqq|geq)" + _NOT_LETTER + r"|>=", r"\\ge "),
        (r"neq != \not", r"\\(?:neq|not\s*=)" + _NOT_LETTER + r"|!=|\\not\s*=", r"\\ne "),
        (r"\lt", r"\\lt" + _NOT_LETTER, "<"),
        (r"\gt", r"\\gt" + _NOT_LETTER, ">"),
        ("lbrace", r"\\lbrace" + _NOT_LETTER, r"\\{"),
        ("rbrace", r"\\rbrace" + _NOT_LETTER, r"\\}"),
        ("lbrack", r"\\lbrack" + _NOT_LETTER, "["),
        ("rbrack", r"\\rbrack" + _NOT_LETTER, "]"),
        ("lparen", r"\\lparen" + _NOT_LETTER, "("),
        ("rparen", r"\\rparen" + _NOT_LETTER, ")"),
        (r"\vee", r"\\vee" + _NOT_LETTER, r"\\lor "),
        (r"\wedge \&", r"\\(?:wedge|&)" + _NOT_LETTER, r"\\land "),
        ("U bigcup", r"(?<=[)\]])\s*U\s*(?=[(\[])|\\bigcup" + _NOT_LETTER, r" \\cup "),
        ("choose", r"\{\s*([^{}]+?)\s*\\choose\s+([^{}]+?)\s*\}", r"\\binom{\1}{\2}"),
        ("C", r"(?<![a-zA-Z\d}])(?:\{\s*\})?[_^]\s*\{?\s*(\d+)\s*\}?\s*C\s*_\s*\{?\s*(\d+)\s*\}?",
         r"\\binom{\1}{\2}"),
        ("C", r"(?<![a-zA-Z\d])C\s*_\s*\{?\s*(\d+)\s*\}?\s*\^\s*\{?\s*(\d+)\s*\}?",
         r"\\binom{\1}{\2}"),
        ("C", r"(?<!\w)(\d{1,3})\s?C\s?(\d{1,3})(?![\w{])", r"\\binom{\1}{\2}"),
        ("P", r"(?<![a-zA-Z\d}])(?:\{\s*\})?[_^]\s*\{?\s*(\d+)\s*\}?\s*P\s*_\s*\{?\s*(\d+)\s*\}?",
         r"\\frac{\1!}{(\1-\2)!}"),
        ("A", r"(?<![a-zA-Z\d])A\s*_\s*\{?\s*(\d+)\s*\}?\s*\^\s*\{?\s*(\d+)\s*\}?",
         r"\\frac{\1!}{(\1-\2)!}"),
        (r"\lg", r"\\lg" + _NOT_LETTER, r"\\log_{10} "),
        ("vert mid", r"\\(?:[lr]?vert|mid)" + _NOT_LETTER, "|"),
        ("varnothing", r"\\varnothing" + _NOT_LETTER, r"\\emptyset "),
        ("dots ...", r"\\(?:[cl]?dots[a-z]?)" + _NOT_LETTER + r"|\.\.\.+", r"\\ldots "),
        ("simeq thickapprox doteq cong", r"\\(?:simeq|thickapprox|doteq|cong)" + _NOT_LETTER, r"\\approx "),
        (r"\ast *", r"\\ast" + _NOT_LETTER + r"|\*", r"\\cdot "),
        ("mathbb", r"\\mathbb\s*\{?\s*([RZNQC])\s*\}?", r"\\mathbb{\1}"),
        (r"\R eals", r"\\(?:R|reals|Reals)" + _NOT_LETTER, r"\\mathbb{R}"),
        (r"\Z \integers", r"\\(?:Z|integers)" + _NOT_LETTER, r"\\mathbb{Z}"),
        (r"\N", r"\\N" + _NOT_LETTER, r"\\mathbb{N}"),
        ("backslash", r"\\backslash" + _NOT_LETTER, r"\\setminus "),
        (r"\degree ^", r"\\degrees?" + _NOT_LETTER + r"|\^\s*(?:\{\s*(?:\\circ|°|o)\s*\}|\\circ" + _NOT_LETTER
         + r"|°|(?<=\d\^)o" + _NOT_LETTER + ")", "°"),
        ("st nd rd th", r"(?<=\d)\s*(?:\^\s*\{\s*(?:st|nd|rd|th)\s*\}|\^?\s*(?:st|nd|rd|th)" + _NOT_LETTER
         + ")", " "),  # 3rd, 3^{th}
        (r"\log", r"\\log\s*_\s*(?:\{\s*e\s*\}|e(?![a-zA-Z]))", r"\\ln "),
        ("imath", r"\\imath" + _NOT_LETTER, "i"),
        ("is", r"(?<![a-zA-Z])([a-zA-Z])\s+is\s+(?=[-+\d])", r"\1 = "),
        ("equal", r"(?<![a-zA-Z])(?<!or )(?:is\s+)?equal(?:s|\s+to)(?![a-zA-Z])", "="),
        (r"\prime", r"\\prime" + _NOT_LETTER, "'"),
        ("'", r"\^\s*\{\s*('+)\s*\}|\^\s*('+)", r"\1\2"),
        (r"\% per pct", r"\\%|(?<![a-zA-Z])(?:per\s?cent(?:age)?|pct)(?![a-zA-Z])", "%"),
        ("", r"(?<![a-zA-Z\\])(sqrt|sin|cos|tan|cot|sec(?=\s*(?:[\\(^]|[a-z](?![a-zA-Z])))|csc|arcsin|arccos|arctan|sinh|cosh|tanh|exp|gcd"
         r"|lcm|log|ln|pi|theta|alpha"
         r"|beta|gamma|lambda|infty)(?![a-zA-Z])", r"\\\1 "),
        ("inf", r"(?<![a-zA-Z\\])(?:infinity|inf)(?![a-zA-Z])|\\inf(?:in|i)?ty(?![a-zA-Z])", r"\\infty "),
        ("\v", r"[ \f\n\r\t]*\v\s*", TEXT_SPACE),
        ("", r"[ \f\n\r\t]+", " "),
    ]
]  # fmt: skip


def fold_unicode(text: str) -> str:
    """Replace mathematical characters by LaTeX or ASCII; keep the letters of other scripts.

    A Cyrillic "а" or an Arabic-Indic digit is not the Latin letter or ASCII digit it resembles.
    """
    if text.isascii():
        return text
    text = _RAISED.sub(lambda m: "^{" + "".join(_SUPERSCRIPT[c] for c in m[0]) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + "".join(_SUBSCRIPT[c] for c in m[0]) + "}", text)
    folded = []
    for char in text:
        code = ord(char)
        if char in _UNICODE:
            folded.append(_UNICODE[char])
        elif 0xFF01 <= code <= 0xFF5E or 0x1D400 <= code <= 0x1D7FF:  # full width, math letters
            folded.append(unicodedata.normalize("NFKC", char))
        else:
            folded.append(" " if char.isspace() else char)
    return "".join(folded)


def clean(text: str) -> str:
    """Return the canonical spelling of an answer.

    >>> clean("\\\\left( 3, \\\\dfrac{\\\\pi}2 \\\\right)")
    '( 3, \\\\frac{\\\\pi}{2} )'
    """
    if _DIGITS_ONLY.fullmatch(text):
        return text
    text = "".join(c if c >= " " else " " for c in fold_unicode(text)).strip()
    if text.startswith("**") and text.endswith("**"):
        text = text[2:-2]
    text = text.replace("**", "^")
    if "\\begin" not in text:
        # An even run of backslashes begins an over-escaped command, an odd run is a line break and
        # a command.
        text = re.sub(r"(?<!\\)(?:\\\\)+(?=[a-zA-Z{}%$])", r"\\", text)
    text = _UNIT_VECTOR.sub(r"\\vec{\1}", text)
    for _ in range(4):  # \textbf{(\text{A})} and the like
        text, count = _TEXT.subn(_as_words, text)
        if not count:
            break
    for needs, pattern, replacement in _RULES:
        for need in needs:
            if need in text:
                text = pattern.sub(replacement, text)
                break
    text = _REVERSED.sub(_usual_interval, text) if "[" in text or "]" in text else text
    return brace_arguments(text).strip()


def _as_words(match: re.Match[str]) -> str:
    """Return the content of `\\text{...}` between spaces; those of \\mathbf, \\boxed are no text."""
    space = TEXT_SPACE if match[0].startswith(("\\te", "\\mb", "\\hb", "\\mathrm")) else " "
    return f"{space}{match[1]} "


_REVERSED = re.compile(
    r"\\sqrt\s*\[[^\]]*\]|(?P<low>[\[\]])(?P<ends>[^\[\](),;]+[,;][^\[\](),;]+)(?P<high>[\[\]])"
)


def _usual_interval(match: re.Match[str]) -> str:
    """Return `(0,1)` for the interval `]0,1[`; another match stays as it is."""
    if not match["low"] or match["low"] + match["high"] == "[]":
        return match[0]
    low = "(" if match["low"] == "]" else "["
    high = ")" if match["high"] == "[" else "]"
    return low + match["ends"] + high


def compact(text: str) -> str:
    """Drop spaces, and braces around one character, from a cleaned text: for `==` only."""
    text = text.replace(TEXT_SPACE, " ")
    text = re.sub(r"(\\[a-zA-Z]+) (?=[a-zA-Z])|(?<=\d) (?=\d)", r"\1\\,", text).replace(" ", "")
    return re.sub(r"([\^_])\{(\w)\}", r"\1\2", text)


def brace_arguments(text: str) -> str:
    """Put braces where LaTeX lets them be left out, and for the brackets of `^(..)` and `sqrt(..)`.

    `\\frac12` becomes `\\frac{1}{2}`. `\\sqrt13` and `x^10` become what a person means by them,
    `\\sqrt{13}` and `x^{10}`, not what TeX would set.
    """
    text = re.sub(r"\^\s*([-+]?\d+)", r"^{\1}", text)
    text = _brace_after(text, "\\frac", 2)
    text = _brace_after(text, "\\binom", 2)
    text = _brace_after(text, "\\sqrt", 1)
    return _brace_after(text, "^", 1, only_round=True)


def _brace_after(text: str, command: str, arguments: int, only_round: bool = False) -> str:
    """Put braces around the arguments of every `command` that lacks them.

    Args:
        text: Text to complete.
        command: Command, backslash included, or "^".
        arguments: Number of arguments of the command.
        only_round: Whether only arguments in round brackets get braces.
    """
    if command not in text:
        return text
    out: list[str] = []
    i = 0
    while (start := text.find(command, i)) >= 0:
        end = start + len(command)
        out.append(text[i:end])
        i = end
        if command != "^" and text[end : end + 1].isalpha():
            continue  # \fraction and \sqrtx are other commands
        for _ in range(arguments):
            j = i + (len(text) - i - len(text[i:].lstrip()))
            if text[j : j + 1] == "[" and command == "\\sqrt":  # the index of the root
                close = text.find("]", j)
                out.append(text[j : close + 1])
                j = i = close + 1 if close >= 0 else j
            char = text[j : j + 1]
            if not char or char == "}":
                break
            if char == "{":
                close = closing(text, j)
                if close < 0:
                    break
                inner = _brace_after(text[j + 1 : close], command, arguments, only_round)
                out.append("{" + inner + "}")
                i = close + 1
            elif char == "(" and command != "\\frac":
                close = closing(text, j, "(", ")")
                if close < 0:
                    break
                inner = _brace_after(text[j + 1 : close], command, arguments, only_round)
                out.append("{" + inner + "}")
                i = close + 1
            elif only_round:
                break
            else:
                pattern = r"\d+|\\[a-zA-Z]+|." if command == "\\sqrt" else r"\\[a-zA-Z]+|."
                token = next(re.finditer(pattern, text[j:], re.S))[0]
                out.append("{" + token + "}")
                i = j + len(token)
    out.append(text[i:])
    return "".join(out)


_BRACKET = {"{}": re.compile(r"\\.|[{}]", re.S), "()": re.compile(r"\\.|[()]", re.S)}


def closing(text: str, start: int, opener: str = "{", closer: str = "}") -> int:
    """Return the index of the bracket that closes the one at `start`; -1 when there is none.

    Escaped brackets (`\\{`) do not count.
    """
    depth = 0
    for match in _BRACKET[opener + closer].finditer(text, start):
        if match[0] == opener:
            depth += 1
        elif match[0] == closer:
            depth -= 1
            if depth == 0:
                return match.start()
    return -1


_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.S)
_OPENERS = {"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil", "\\begin"}
_CLOSERS = {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil", "\\end"}


def split_top(text: str, separators: frozenset[str] | set[str]) -> list[str]:
    """Split a cleaned text at the separators outside all brackets.

    Round and square brackets close each other, for `[0, 1)`.
    """
    return split_with(text, separators)[0]


def split_with(text: str, separators: frozenset[str] | set[str]) -> tuple[list[str], list[str]]:
    """Return the parts of `split_top`, and the separators between them."""
    parts: list[str] = []
    separators_found: list[str] = []
    depth = 0
    current: list[str] = []
    for token in _TOKEN.findall(text):
        if token in _OPENERS:
            depth += 1
        elif token in _CLOSERS:
            depth -= 1
        if depth == 0 and token in separators:
            parts.append("".join(current).strip())
            separators_found.append(token)
            current = []
        else:
            current.append(token)
    parts.append("".join(current).strip())
    return parts, separators_found
