//! The checker: every access of every lane.
