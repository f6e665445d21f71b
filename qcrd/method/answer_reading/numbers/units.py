"""What may stand behind a number: a magnitude, which is part of its value, and words for what is
counted, which are not.

Words that make it another value, a bound, a second value or no value are none of these.
"""

from __future__ import annotations

import re
import unicodedata

from qcrd.method.answer_reading.numbers import spelled

MAGNITUDES: dict[str, int] = {
    **dict.fromkeys("hundred hundreds hundert".split(), 100),
    **dict.fromkeys("thousand thousands tausend mille mila duizend tusen tysiąc".split(), 10**3),
    **dict.fromkeys("тысяча тысячи тысяч тыс тыс. тис тис. ribu nghìn".split(), 10**3),
    **dict.fromkeys(
        "million millions millionen mio mio. mln mln. mn millón millones".split(), 10**6
    ),
    **dict.fromkeys("milhão milhões milione milioni miljoen miljoner milyon".split(), 10**6),
    **dict.fromkeys("миллион миллиона миллионов млн млн. мільйон triệu".split(), 10**6),
    **dict.fromkeys("milliarde milliarden milliard milliards mrd mrd. miliardo".split(), 10**9),
    **dict.fromkeys("miliardi miljard milyar миллиард миллиарда миллиардов млрд".split(), 10**9),
    **dict.fromkeys("млрд. tỷ".split(), 10**9),
    **{"dozen": 12, "dozens": 12, "lakh": 10**5, "lakhs": 10**5, "crore": 10**7, "crores": 10**7},
    **{"百": 100, "千": 10**3, "万": 10**4, "萬": 10**4, "億": 10**8, "亿": 10**8, "兆": 10**12},
    **{"百万": 10**6, "千万": 10**7, "百萬": 10**6, "千萬": 10**7, "十万": 10**5, "十亿": 10**9},
    **{"천": 10**3, "만": 10**4, "억": 10**8, "백만": 10**6, "천만": 10**7, "십만": 10**5},
    **{"हज़ार": 10**3, "हजार": 10**3, "लाख": 10**5, "करोड़": 10**7, "ألف": 10**3, "مليون": 10**6},
}
LONG_SCALE: dict[str, int] = {"billion": 10**9, "bn": 10**9, "trillion": 10**12, "tn": 10**12}
"""English ones: elsewhere a billion has twelve zeros, and is spelt differently."""
ATTACHED: dict[str, int] = {"k": 10**3, "K": 10**3}
WITH_CURRENCY: dict[str, int] = {
    **{"k": 10**3, "K": 10**3, "M": 10**6, "m": 10**6, "mn": 10**6, "MM": 10**6},
    **{"B": 10**9, "bn": 10**9, "b": 10**9, "T": 10**12, "tn": 10**12},
}
"""`$5m` is five million dollars; without a currency it may be metres."""

# A word that looks like a magnitude of a language that is not in the table.
LIKE_MAGNITUDE = re.compile(
    r"(?:mill?[iíîyja](?!met|lit|gram|sec|amp|volt|watt|bar)\w*"
    r"|(?:bi|tri|quadri)l[lh]?[iíîyjoóõã]\w*|milh\w*|tausend\w*|hundert\w*|tis[ií]c\w*|tys\w*"
    r"|tuhat\w*|tusen\w*|мил\w*|млн|млр\w*|тыс\w*|тис\w*|bin|yüz|mil|juta|cien|cento|ezer)$",
    re.IGNORECASE,
)
CJK_NUMERAL = re.compile("[〇零一二三四五六七八九十百千万萬亿億兆两兩半数數几幾십백천만억조]")

BLOCKED = frozenset(
    # a second value, a range, a relation
    "or and to by from between through thru until till plus minus times than over under versus vs "
    "but not no nor neither either except without unless if otherwise alternatively x "
    "oder und bis ou et u y e o à a ni и или до і або ve veya và atau dan og eller och en tot "
    "até hasta fino sau lub albo i oraz czy až nebo "
    # doubt and bounds
    "maybe perhaps possibly probably likely about around approximately approx roughly nearly "
    "almost least most up plusminus some so less fewer wrong incorrect false impossible unknown "
    "never cannot can't isn't aren't doesn't don't couldn't won't n't possible depending depends "
    # an operation
    "off max min maximum minimum ca circa etwa environ "
    "squared cubed factorial root sqrt power powers modulo mod choose log ln sin cos tan "
    "remainder pi infinity infinite infinitely divided multiplied added "
    "ths tenths gross score grand past "
    # times of day, dates, places in a row
    "am pm a.m p.m o'clock oclock noon midnight uhr january february march april may june july "
    "august september october november december jan feb mar apr jun jul aug sep sept oct nov dec "
    "bc ad bce ce th st nd rd is are was were be been will would could should might "
    "wait actually sorry".split()
)
MAX_WORDS = 10
SINGLE_LETTERS = frozenset("mgslLhNJWVACFΩ")
"""Letters that are units; others are unknowns."""
FORMULA = re.compile(r"[A-DF-WYZ][A-Za-z]?(?:\d{0,2}[A-Z][a-z]?)*\d{0,2}$")
"""`H2O`, `CO2`: letters with digits that are no second number."""
UNIT_POWER = re.compile(r"(?<=[A-Za-zµμ])(?:\^[-\u2212]?[1-4]|[23])(?![\d.])")
WORD = re.compile(r"[^\W\d_](?:[^\W\d_]|[\u0300-\u036f\u0900-\u0dff]|['.-](?=[^\W\d_]))*")
ALLOWED_MARKS = frozenset(" .'/-·°%$€£¥₹₩₽¢²³")
# `5左右` is about 5, `5以上` at least.
CJK_BOUND = re.compile(
    "左右|以上|以下|以内|余|多|超|约|約|上下|程度|ほど|くらい|ぐらい|未満|이상|이하|정도|미만|초과|약"
)
MONTH_OR_CLOCK = re.compile("[点點時时시月日年号號分秒]")
PERCENT = re.compile(r"\s*(?:%|per ?cent\b|percent\b|prozent\b)", re.IGNORECASE)


def read_magnitude(tail: str, *, currency: bool) -> tuple[int, str]:
    """The factor that the tail begins with, 1 for none, and the rest."""
    factor = 1
    for _ in range(2):  # `2 hundred thousand`
        spaced = tail[:1].isspace()
        word, rest = _split_word(tail.lstrip())
        if (own := _get_factor(word, spaced=spaced, currency=currency)) is None:
            break
        factor, tail = factor * own, rest
    return factor, tail


def _split_word(text: str) -> tuple[str, str]:
    found = re.match(r"[^\W\d_](?:[^\W\d_]|[\u0300-\u036f\u0900-\u0dff])*", text)
    if found is None:
        return "", text
    if text[found.end() : found.end() + 1] == "." and f"{found[0]}.".casefold() in MAGNITUDES:
        return found[0], text[found.end() + 1 :]
    if unicodedata.name(found[0][0], "").startswith(("CJK", "HANGUL")):
        for length in (2, 1):  # `3万人`: no space parts the word from what is counted
            if len(found[0]) >= length and found[0][:length] in MAGNITUDES:
                return found[0][:length], text[length:]
    return found[0], text[found.end() :]


def _get_factor(word: str, *, spaced: bool, currency: bool) -> int | None:
    if currency and word in WITH_CURRENCY and not spaced:
        return WITH_CURRENCY[word]
    if not spaced and word in ATTACHED:
        return ATTACHED[word]
    return MAGNITUDES.get(word.casefold(), LONG_SCALE.get(word.casefold()))


def is_unit(tail: str, *, formula: bool = False) -> bool:
    """Whether the tail only says what is counted. In a `formula`, single letters are unknowns."""
    if re.match(r"[A-Z]\d", tail):
        return False  # `5C2`
    tail = PERCENT.sub(" ", tail, count=1).strip()
    if not tail:
        return True
    if not tail[0].isalpha() and tail[0] not in "°%$€£¥₹₩₽¢/":
        return False
    rest = UNIT_POWER.sub("", tail)
    words = rest.split()
    if len(words) > MAX_WORDS:
        return False
    plain = " ".join(w for w in words if not (any(map(str.isdigit, w)) and FORMULA.match(w)))
    if plain == "times":
        return True
    plain = re.sub(r"(?<=[a-z] )an?(?= [a-z])", "", plain)  # `7 days a week`
    return (
        all(_is_allowed(character) for character in plain)
        and CJK_NUMERAL.search(plain) is None
        and CJK_BOUND.search(plain) is None
        and MONTH_OR_CLOCK.match(plain) is None
        and spelled.ANY.search(_without_rates(plain)) is None
        and all(_is_unit_word(word, formula=formula) for word in WORD.findall(plain))
    )


def _without_rates(text: str) -> str:
    """`per second` names no order."""
    return re.sub(r"\bper\s+second\b|\b(?<!a )seconds?\b", " ", text)


def _is_allowed(character: str) -> bool:
    kind = unicodedata.category(character)
    if (kind == "Lm" and character not in "ー々") or character in "ªº":
        return False  # the raised letters of `5ᵗʰ`
    return kind[0] in "LM" or kind == "Sc" or character in ALLOWED_MARKS


def _is_unit_word(word: str, *, formula: bool) -> bool:
    folded = word.casefold()
    if len(word) == 1 and word.isascii() and word.isalpha():
        return word in SINGLE_LETTERS and not formula
    if folded in ("π", "∞") or LIKE_MAGNITUDE.match(folded) or folded in MAGNITUDES:
        return False
    return folded not in BLOCKED
