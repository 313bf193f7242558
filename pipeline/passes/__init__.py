"""One pass: discover, plan, dispatch, settle; and the upkeep of its table and its log."""
