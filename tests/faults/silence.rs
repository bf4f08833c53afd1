//! A peer that is there and says nothing, or is not heard: pgsluice notices by itself, and opens its connection again.
