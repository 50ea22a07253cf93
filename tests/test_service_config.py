from __future__ import annotations

import tomllib

import pytest
from pydantic import ValidationError

from service.config import RouteConfig, RouteNameError, routes_from_config
from service.routes import Route


def test_standard_routes_are_the_two_by_two_of_retrieval_and_adapter() -> None:
    routes = routes_from_config({})
    assert {name: (route.retrieve, route.adapter) for name, route in routes.items()} == {
        "base": (False, None),
        "rag": (True, None),
        "tuned": (False, "mixed"),
        "hybrid": (True, "mixed"),
    }


def test_prompt_follows_the_adapter_unless_it_is_given() -> None:
    routes = routes_from_config({"rag": RouteConfig(adapter="reader"), "base": RouteConfig(prompt="brief")})
    assert {name: route.prompt for name, route in routes.items()} == {
        "base": "brief",
        "rag": "trained",
        "tuned": "trained",
        "hybrid": "trained",
    }
    assert routes_from_config({})["rag"].prompt == "completion"


def test_user_tables_override_only_the_fields_they_give() -> None:
    routes = routes_from_config({"hybrid": RouteConfig(k=10)})
    assert routes["hybrid"] == Route("hybrid", retrieve=True, adapter="mixed", k=10, prompt="trained")


def test_user_routes_come_after_the_standard_ones() -> None:
    routes = routes_from_config({"wide": RouteConfig(retrieve=True, k=20)})
    assert list(routes) == ["base", "rag", "tuned", "hybrid", "wide"]


@pytest.mark.parametrize("table", [{"k": 0}, {"prompt": "shout"}, {"retreive": True}, {"examples": 9}])
def test_nonsense_in_a_route_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RouteConfig.model_validate(table)


def test_name_with_dots_and_no_quotes_is_told_of_them() -> None:
    tables = tomllib.loads("[routes.v1.2]\nretrieve = true\n[routes.where.where]\nlanguage = 'en'")["routes"]
    with pytest.raises(ValidationError, match=r'quote it: \[routes\."NAME\.2"\]'):
        RouteConfig.model_validate(tables["v1"])
    assert RouteConfig.model_validate(tables["where"]).where == {"language": "en"}


@pytest.mark.parametrize(
    "name", ["", ".wide", "-wide", "wide k", "experiment:wide", "a/b", "w" * 65, "wide\n"]
)
def test_name_that_no_route_may_have_is_refused(name: str) -> None:
    with pytest.raises(RouteNameError, match="use 1 to 64 letters"):
        routes_from_config({name: RouteConfig()})


def test_names_that_routes_may_have() -> None:
    names = ["w" * 64, "RAG", "rag_k10", "v1.2"]
    assert set(names) < set(routes_from_config(dict.fromkeys(names, RouteConfig())))
