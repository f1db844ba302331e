//! Nothing but the benchmarks beside this file, each of which says in its head how to run it.
