"""A package, so that `tests` is this one: gmqtt installs one of that name."""
