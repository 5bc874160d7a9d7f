"""Names of methods and functions that change an object, reset it, hand out its items, or read a clock."""

from __future__ import annotations

from qcity_nb.cells.names import words

__all__ = [
    "CLOCKS",
    "CONVERSIONS",
    "FIRST_ARGUMENT",
    "ITEM_VIEWS",
    "MUTATORS",
    "OVERWRITERS",
    "PASSES_ITEMS",
    "RESETS",
    "READERS",
    "RETURNS_CONTENT",
]

MUTATORS = words(
    "append appendleft extend extendleft insert pop popleft popitem remove discard add update setdefault sort reverse "
    "rotate subtract intersection_update difference_update symmetric_difference_update move_to_end push store put "
    "step partial_fit learn_one learn_many update_parameters load_state_dict set_state "
    "itemset resize __setitem__ __iadd__ shuffle"
)
"""Methods that change their object."""
FIRST_ARGUMENT = words(
    "heappush heappop heapreplace heappushpop heapify insort insort_left insort_right shuffle copyto putmask place "
    "fill_diagonal setattr next put_along_axis vector_to_parameters"
)
"""Functions that change their first argument."""
RETURNS_CONTENT = words("pop popleft popitem setdefault heappop heapreplace heappushpop next")
"""Those of them whose result is a part of the object: they read it too."""
OVERWRITERS = words("fill fill_ zero_ copy_ normal_ uniform_")
"""Methods that set all of their object's content."""
RESETS = words("reset clear reset_states manual_seed seed load_state_dict reset_parameters")
"""Methods after which an object is as at the beginning of each iteration, if each iteration calls them."""
ITEM_VIEWS = words("items values keys parameters named_parameters children modules buffers named_modules")
PASSES_ITEMS = words("zip enumerate reversed list sorted tuple iter tqdm")
CLOCKS = words(
    "time time_ns perf_counter perf_counter_ns monotonic monotonic_ns process_time process_time_ns thread_time "
    "default_timer now utcnow today elapsed_time"
)
CONVERSIONS = words(
    "to cuda cpu float double half long int detach contiguous numpy astype requires_grad_ eval train convert str list "
    "tuple array asarray as_tensor ascontiguousarray compile"
)
"""Methods, and functions of one argument, that give the same again if their result is converted once more."""
READERS = words(
    "print display len str repr sum min max sorted list dict tuple set float int bool format isinstance type zip "
    "enumerate range any all round abs map filter log info debug warning join write writerow dump dumps set_postfix "
    "log_metrics"
)
"""Functions and methods that change none of their arguments."""
