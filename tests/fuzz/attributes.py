"""Mutations of JSON text in the terms of the attributes: values, tags and what is nearly one."""

from __future__ import annotations

import random

from tests.fuzz.target import Mutate

__all__ = ["FRAGMENTS", "changed_json"]

FRAGMENTS = (
    *("null", "true", "1", "-1", "1.0", "1e400", "1e308", "-0", "-0.0", "01", "NaN", "Infinity"),
    *("9007199254740992", "9007199254740993", "-9007199254740993", "9" * 5000, "1" * 400 + ".0"),
    *('""', '"a"', '"$int"', r'"\ud800"', r'"\u0000"', '"é"', "[]", "{}", "[[]]", '{"a":1,"a":2}'),
    *('{"$int":"9007199254740993"}', '{"$int":"1"}', '{"$int":"' + "9" * 1235 + '"}', '{"$int":1}'),
    *(
        '{"$float":"nan"}',
        '{"$float":"inf"}',
        '{"$float":"1"}',
        '{"$complex":[1.0,{"$float":"nan"}]}',
    ),
    *('{"$bytes":"YQ=="}', '{"$bytes":"YR=="}', '{"$bytes":"Y"}', '{"$bytearray":""}'),
    *('{"$tuple":[]}', '{"$tuple":[1,[2]]}', '{"$tuple":1}', '{"$other":1}', '{"$":1}'),
    *(
        '{"$dict":[]}',
        '{"$dict":[[1,2],[1.0,3]]}',
        '{"$dict":[[true,2],[1,3]]}',
        '{"$dict":[[[],1]]}',
    ),
    *('{"$dict":[[{"$tuple":[1]},2],[{"$tuple":[1.0]},2]]}', '{"$dict":[[{"$bytes":"YQ=="},1]]}'),
    *('{"$dict":[[{"$float":"nan"},1],[{"$float":"nan"},2]]}', '{"$dict":[["$a",1]]}'),
    *(
        '{"$scalar":["float32","AAAAAA=="]}',
        '{"$scalar":["bool","Ag=="]}',
        '{"$scalar":["bool","AQ=="]}',
    ),
    *('{"$scalar":["bfloat16","AAA="]}', '{"$scalar":["complex64","AAAAAAAAAAA="]}'),
    *(
        '{"$dict":[[{"$scalar":["int8","AQ=="]},1],[1,2]]}',
        '{"$scalar":["float64","AAAAAAAA+H8="]}',
    ),
    *('{"$tensor":"feature"}', '{"$ndarray":"feature"}', '{"$tensor":""}', '{"$tensor":1}'),
    *("[" * 70 + "]" * 70, '{"a":' * 70 + "1" + "}" * 70, " 1", "1 ", "//"),
    *('{"feature":1}', '{"model_specific_data":{}}', '{"model_specific_data":{"$dict":[]}}'),
)


def changed_json(text: str, chance: random.Random, mutate: Mutate) -> str:
    """Change a value of a JSON text, or some of its bytes."""
    how = chance.randrange(4)
    if how == 0:
        changed = mutate(text.encode(), len(text) + 64)
        return changed.decode("utf-8", "replace")
    fragment = chance.choice(FRAGMENTS)
    places = [at for at, letter in enumerate(text) if letter in ":,[" and at + 1 < len(text)]
    if not places or how == 1:
        return chance.choice((fragment, '{"model_specific_data":{"a":' + fragment + "}}"))
    at = chance.choice(places) + 1
    if how == 2:
        return text[:at] + fragment + "," + text[at:]
    end = min((text.find(stop, at) for stop in ",]}" if text.find(stop, at) >= 0), default=at)
    return text[:at] + fragment + text[end:]
