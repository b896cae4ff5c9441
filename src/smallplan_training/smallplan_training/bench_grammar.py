"""What the grammar costs of a decision, on scene graphs of 10, 100 and 1,000 objects.

It costs its making (every command that is open is spelled), and in llama.cpp what checks the model's choice of
tokens and chooses others. The graphs are those of `synthetic_graphs`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from smallplan_planner.generation import Generator
from smallplan_planner.grammar import build_grammar
from smallplan_planner.priors import load_priors
from smallplan_planner.search import SearchConfig, SearchEpisode
from smallplan_training.bench_searches import DecisionTimer, summarise
from smallplan_training.synthetic_graphs import synthetic_graph

ROOMS = {10: 3, 100: 12, 1000: 40}
"""Rooms of a graph, by its number of objects."""
_TARGETS = 4  # of each graph


@dataclass(frozen=True)
class GrammarFigures:
    """Decisions on graphs of one size. `share`: of a decision's wall time, from 0 to 1."""

    objects: int
    share: float
    decision_ms_p50: float
    grammar_ms: float  # mean
    prompt_tokens: float  # median


def measure_grammar(generator: Generator, objects: int, seed: int = 0, graphs: int = 5) -> GrammarFigures:
    """Decide on `graphs` graphs with so many objects (one of `ROOMS`), with several targets each."""
    priors, timer = load_priors(), DecisionTimer(generator)
    targets = sorted(priors.objects)
    decisions, spent = [], 0.0
    for index in range(graphs):
        graph = synthetic_graph(ROOMS[objects], objects, seed + index, priors)
        for step in range(_TARGETS):
            target = targets[(index * _TARGETS + step) * len(targets) // (graphs * _TARGETS)]
            search = SearchEpisode(target, SearchConfig(), priors)
            search.observe(graph)
            if search.result is not None:
                continue
            situation = search.situation()
            start = time.perf_counter()
            grammar = build_grammar(situation.options, situation.names, target_listed=bool(situation.matches))
            assert grammar.longest  # what a prompt's budget and a deadline ask of it
            making = time.perf_counter() - start
            decided = timer.decide(search, graph)
            assert decided is not None, "there was something to decide"
            decisions.append(decided[0])
            spent += making + decided[0].generation.grammar_time
    figures = summarise(decisions)
    return GrammarFigures(
        objects=objects,
        share=round(spent / sum(decision.seconds for decision in decisions), 4),
        decision_ms_p50=figures.decision_ms_p50,
        grammar_ms=round(1000 * spent / len(decisions), 2),
        prompt_tokens=figures.prompt_tokens,
    )
