"""From noise to codes: schedule, step budget, kernel, guidance, random source, and the loop that joins them."""
