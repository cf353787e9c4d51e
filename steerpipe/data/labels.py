"""Labels as they are typed and as files hold them: text, whole numbers, fractions, true and false."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import SteerError, unknown

TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""Words that YAML 1.1 and files read as true or false, in any case of letters."""


def label_key(text: str) -> tuple[str, object]:
    """Return what a label stands for: labels of one key are two spellings of the same one, as 1, 1.0 and 01."""
    if text.lower() in TRUTH:
        return "truth", TRUTH[text.lower()]
    for number in (int, float):  # int first: long ones keep every digit
        try:
            value = number(text)
        except ValueError:
            continue
        return "number", "nan" if value != value else value
    return "text", text


def find_label(label: str, there: Iterable[str], *, what: str, also: Iterable[str] = ()) -> str:
    """Return the label of a dataset that is meant: the one spelled alike, else the one that stands for the same.

    The command line reads 1e3 as 1000.0 and True as a truth value, and a column of whole numbers with a gap is one of floats.

    Parameters
    ----------
    label : as typed
    there : the labels that there are
    what : how messages call it
    also : further names that messages offer

    Raises
    ------
    SteerError
        No such label, or several that it could be.
    """
    labels = list(dict.fromkeys(there))
    if label in labels:
        return label
    key = label_key(label)
    same = [one for one in labels if label_key(one) == key]
    if not same:
        raise unknown(what, label, [*also, *sorted(labels)])
    if len(same) > 1:
        some = ", ".join(same[:4])
        raise SteerError(f"the {what} '{label}' could be any of {some}; quote the one that is meant: \"'{same[0]}'\".")
    return same[0]
