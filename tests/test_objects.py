"""What is followed of Python objects, and what is left alone; and whoever relies on it."""

import collections
import dataclasses
import functools
import logging
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losspath.objects
from losspath import LosspathWarning, Objective, Recorder, Trajectory
from losspath.evaluation.checking.caches import _held_by
from losspath.evaluation.isolation.attributes import AttributeSnapshot, put_back, remembered
from losspath.evaluation.isolation.reached import objects_reached
from losspath.evaluation.isolation.replica import copy_model
from losspath.objects import Slots, leaves_in, walk

THING = torch.ones(2)
X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


class Plain:
    def __init__(self, value):
        self.value = value


@dataclasses.dataclass(slots=True)
class Slotted:
    value: object


class Both(Slotted):
    """Has slots, and attributes beside them."""


class Own(dict):
    """A container with attributes."""


class Called:
    def __init__(self, value):
        self.value = value

    def __call__(self):
        return GLOBAL


class Inherits(Called):
    pass


class Unwilling:
    """Neither can be looked into nor be asked for its class."""

    def __getattribute__(self, name):
        raise RuntimeError(name)


GLOBAL = Plain(THING)


def with_attribute(container):
    container.value = THING
    return container


def both():
    made = Both(1)
    made.other = THING
    return made


HOLDERS = {
    "list": lambda: [1, THING],
    "tuple": lambda: (THING,),
    "set": lambda: {THING},
    "frozen set": lambda: frozenset({THING}),
    "deque": lambda: collections.deque([THING]),
    "dict": lambda: {"a": THING},
    "ordered dict": lambda: collections.OrderedDict(a=THING),
    "named tuple": lambda: collections.namedtuple("Pair", "a b")(1, THING),
    "object": lambda: Plain(THING),
    "dataclass": lambda: dataclasses.make_dataclass("Data", ["a"])(THING),
    "slots": lambda: Slotted(THING),
    "slots and attributes": both,
    "attributes of a dict": lambda: with_attribute(Own(a=1)),
    "namespace": lambda: types.SimpleNamespace(a=THING),
    "user's dict": lambda: collections.UserDict(a=THING),
    "nested": lambda: Plain([{"a": (THING,)}]),
    "behind what cannot be looked into": lambda: [Unwilling(), Slotted(Unwilling()), THING],
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_whatever_holds_a_tensor_is_followed(kind):
    assert [each is THING for each in leaves_in([HOLDERS[kind]()])] == [True]


def closing(value):
    return lambda: value


def with_default(value=THING):
    return value


def by_name(*, value=THING):
    return value


def naming():
    return [GLOBAL for _ in range(1)]


def attributed():
    pass


attributed.value = THING

FUNCTIONS = {
    "closure": lambda: closing([THING]),
    "default": lambda: with_default,
    "keyword": lambda: by_name,
    "global": lambda: naming,
    "attribute": lambda: attributed,
    "method": lambda: Called(THING).__call__,
    "method of a list": lambda: [THING].append,
    "partial": lambda: functools.partial(max, THING),
    "partial with keywords": lambda: functools.partial(max, key=closing(THING)),
    "partial of one": lambda: functools.partial(functools.partial(closing(THING))),
    "cached": lambda: functools.lru_cache(closing(THING)),
    "wrapped": lambda: functools.wraps(closing(THING))(lambda: None),
    "object": lambda: Called(THING),
    "global of its call": lambda: Called(None),
    "global of an inherited call": lambda: Inherits(None),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functions_are_followed_where_asked_for(kind):
    made = FUNCTIONS[kind]()
    assert any(held.value is THING for held in walk([made], 6, functions=True))
    is_object = kind == "object"
    assert any(held.value is THING for held in walk([made], 6)) == is_object


LEFT = {
    "class": lambda: type("Of", (), {"a": THING}),
    "Python module": lambda: torch.testing,
    "torch's own": lambda: torch.optim.SGD([THING.clone().requires_grad_()], 0.1),
    "logger": lambda: with_attribute(logging.getLogger("losspath.tests")),
    "function": lambda: closing(THING),
    "text": lambda: "text",
    "what cannot be looked into": Unwilling,
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_never_entered(kind):
    assert leaves_in([LEFT[kind]()]) == []


def test_neural_modules_are_told_of_and_not_entered():
    model = nn.Linear(2, 2)
    model.held = [THING]
    assert leaves_in([[model]]) == [model]
    assert THING in set(leaves_in([vars(model)]))


def test_circles_end_and_everything_is_told_of_once():
    one, other = Plain(None), Plain([THING, THING])
    one.value, other.back = [other, other], one
    found = [id(held.value) for held in walk([one, one])]
    assert len(found) == len(set(found)) == 5


def test_paths_and_tables_say_where_something_is():
    thing = Plain([{"a": Slotted(THING)}])
    places = {held.path: held for held in walk([thing])}
    assert list(places) == [
        (),
        ("value",),
        ("value", 0),
        ("value", 0, "a"),
        ("value", 0, "a", "value"),
    ]
    assert places["value", 0].is_container
    table = places["value", 0, "a"].table
    table["value"] = 1
    assert thing.value[0]["a"].value == 1
    assert places["value", 0, "a", "value"].table is None


def test_what_is_far_or_long_is_told_of_and_not_followed():
    deep = [[[[[THING]]]]]
    assert leaves_in([deep]) == []
    assert leaves_in([deep], 5) == [THING]
    long = [THING] * (losspath.objects.LONG + 1)
    (held,) = walk([long])
    assert held.table is long
    assert held.items == []
    assert leaves_in([long[1:]]) == [THING]


def test_the_nearest_way_counts():
    inner = [[THING]]
    assert leaves_in([[[[inner]]], inner]) == [THING]


def test_a_value_that_must_not_be_entered_is_passed_over():
    found = walk([{"a": [THING], "b": [X]}], enters=lambda path, value: path[0] != "a")
    assert [held.value for held in found if held.table is None] == [X]


def test_slots_are_a_table():
    thing = Both(1)
    table = Slots(thing)
    assert dict(table) == {"value": 1}
    del table["value"]
    assert not hasattr(thing, "value")
    assert len(table) == 0
    with pytest.raises(KeyError):
        table["value"]
    table.update(value=2)
    assert thing.value == 2
    assert not Slots(Plain(1)).are_there


# -- whoever relies on it -------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def test_slots_and_attributes_of_containers_are_put_back():
    model = network()
    model.held, model.table = Slotted(1), Own(a=1)
    model.table.more = 1
    attributes = remembered(model)
    model.held.value = 2
    model.table.more, model.table["a"] = 2, 2
    put_back(attributes)
    assert (model.held.value, model.table.more, model.table["a"]) == (1, 1, 1)


def test_what_is_not_set_in_a_slot_is_not_set_afterwards():
    held = Slotted(1)
    del held.value
    kept = AttributeSnapshot([], [held])
    held.value = 2
    kept.put_back()
    assert not hasattr(held, "value")


def test_loggers_are_left_alone():
    model, logger = network(), logging.getLogger("losspath.tests.alone")
    model.logger = logger
    attributes = remembered(model)
    logger.setLevel(logging.DEBUG)
    put_back(attributes)
    assert logger.level == logging.DEBUG


def test_a_view_that_an_object_holds_is_one_of_the_copys_parameters():
    model = network()
    model.held = Plain(model[0].weight.detach()[0])
    made = copy_model(model)
    assert made.held.value.untyped_storage().data_ptr() == (
        made[0].weight.untyped_storage().data_ptr()
    )


@pytest.mark.parametrize("hold", [Plain, Slotted, lambda p: {"a": {p}}, lambda p: (Plain([p]),)])
def test_trained_parameters_in_objects_are_told_of(hold):
    model = network()
    model.held = hold(nn.Parameter(torch.ones(2)))
    with pytest.warns(LosspathWarning, match="held holds a parameter that the model does not"):
        Objective(model, X, Y, F.cross_entropy)


def test_an_object_that_refers_back_to_the_model_is_no_matter():
    model = network()
    model.held = Plain([Plain(model), model[0].weight])
    Objective(model, X, Y, F.cross_entropy)  # warnings are errors


@pytest.mark.parametrize("store", [collections.deque, lambda: [0] * 2000, set, lambda: Slotted(0)])
def test_what_a_model_and_a_loss_share_is_not_copied(store):
    model, shared = network(), store()
    model.store = [shared]
    loss = functools.partial(lambda held, o, t: F.cross_entropy(o, t) + 0 * id(held), shared)
    assert any(each is shared for each in objects_reached([loss]))
    with Objective(model, X, Y, loss).evaluating(np.zeros(23)) as made:
        assert made.store[0] is shared


def test_tensors_that_hooks_hold_are_found():
    model = network()
    hook = Called(torch.ones(3))
    model[0].register_forward_hook(hook)
    (place,) = _held_by(model[0]).values()
    assert place == (vars(hook), "value")
    assert _held_by(model[2]) == {}


class Annealed(nn.Module):
    """A model that is set by an object with slots, and by objects in a tuple."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.options, self.schedules = Slotted(1.0), (Plain(1.0), Plain(2.0))

    def forward(self, x):
        return self.layer(x) * self.options.value * self.schedules[1].value


def test_numbers_in_slots_and_in_objects_of_a_tuple_are_told(tmp_path):
    model = Annealed()
    with Recorder(tmp_path / "run", model) as recorder:
        recorder.record(0.0)
        model.options.value, model.schedules[1].value = 0.5, 3.0
        recorder.record(0.0)
    settings = Trajectory(tmp_path / "run").settings
    assert sorted(settings) == ["options.value", "schedules.1.value"]
    assert settings["options.value"][1].tolist() == [1.0, 0.5]
    assert settings["schedules.1.value"][1].tolist() == [2.0, 3.0]
