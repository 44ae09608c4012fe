"""What was drawn for a view, in words: from the parameters of its transforms to pairs of name and value."""

from collections.abc import Mapping

from mezzotint.augment.strategies import describe
from mezzotint.augment.transform import Params
from mezzotint.report.plots import number

_WORDS = {
    "randomized_quantization": "quantized",
    "color_jitter": "jitter",
    "grayscale": "grey",
    "gaussian_blur": "blur",
}

_FEW = 4
"""Up to so many values of a parameter are told, such as the box of a crop; of more than that, their number."""

Pairs = list[tuple[str, str]]


def in_words(drawn: Mapping[str, Params], row: int, share: float | None = None) -> tuple[Pairs, str]:
    """What was drawn for one view of one sample: everything, and in a few words.

    Args:
        drawn: parameters of the view by step, as `ViewGenerator.draw` gives them.
        row: the sample's place in the batch.
        share: of the image that the crop shows; `None` where views are not crops.

    Returns:
        Pairs of name and value, in which a transform's name stands alone before its own; and the few words.
    """
    pairs: Pairs = []
    words: list[str] = []
    if share is not None:
        area = f"{100 * share:.0f} %"
        pairs, words = [("crop", area)], [f"crop {area}"]
    for step in drawn:
        if step == "crop":
            continue
        chosen_policy = _choice(drawn[step], row)
        if chosen_policy:
            words.append(chosen_policy)
            pairs.append((chosen_policy, ""))
        for name, params in _by_transform(step.rpartition(".")[2], drawn[step], row):
            if "op" in params:
                operations = [(op, size.replace("-", "−")) for op, size in describe(params, row)]
                words += [f"{op} {size}".strip() for op, size in operations]
                pairs += [("operations", ""), *operations] if operations else []
                continue
            chosen = params.get("chosen", params.get("applied"))
            if chosen is None or bool(chosen[row]):
                words.append(_WORDS.get(name, name.replace("_", " ")))
                pairs += [(words[-1], ""), *_details(params, row)]
    return pairs, ", ".join(words)


def _choice(params: Params, row: int) -> str:
    """The kind of the policy that a sample drew, where a step is a choice of policies that have parameters."""
    if "policy" not in params:
        return ""
    place = f"{int(params['policy'][row])}."
    return next((key.split(".")[1].replace("_", " ") for key in params if key.startswith(place)), "")


def _by_transform(step: str, params: Params, row: int) -> list[tuple[str, Params]]:
    """Each transform with its parameters: a policy's stand under `place.kind.name`, any other's under their name.

    Of a choice of policies only those of the policy that the sample drew.
    """
    dropped = []
    for key, drawn in params.items():
        prefix, _, name = key.rpartition(".")
        if name == "policy":
            inside = f"{prefix}." if prefix else ""
            places = {other.removeprefix(inside).partition(".")[0] for other in params if other.startswith(inside)}
            dropped += [f"{inside}{place}." for place in places if place != str(int(drawn[row]))]
    grouped: dict[str, Params] = {}
    for key, value in params.items():
        prefix, _, name = key.rpartition(".")
        if name != "policy" and not any(key.startswith(place) for place in dropped):
            grouped.setdefault(prefix, {})[name] = value
    if not params:
        return [(step, {})]
    return [(prefix.rpartition(".")[2] or step, own) for prefix, own in grouped.items()]


def _details(params: Params, row: int) -> Pairs:
    """The numbers of one sample; of long ones only how many there are."""
    order = params.get("order")
    names = [name for name in params if name not in ("chosen", "applied", "order")]
    of_names = order is not None and order[row].numel() == len(names)  # of the other parameters, by their place
    pairs = []
    for name in names if of_names or order is None else [*names, "order"]:
        value, words = params[name][row], name.replace("_", " ")
        if value.numel() <= _FEW:
            pairs.append((words, " ".join(number(one) for one in value.flatten().tolist())))
        else:
            pairs.append((f"{words} a channel" if value.ndim > 1 else words, str(value.shape[-1])))
    if order is not None and of_names:
        pairs.append(("order", " ".join(names[i][:3] for i in order[row].tolist())))
    return pairs
