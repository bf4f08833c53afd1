//! What the steady state takes from the heap.
