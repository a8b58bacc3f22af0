"""Floor 5: the configuration. One TOML file, overridden by the environment, checked whole before anything starts."""

from broker.config.load import check_config, load_config
from broker.config.model import DOORS, Config
from broker.config.problem import ConfigError, Problem

__all__ = ["DOORS", "Config", "ConfigError", "Problem", "check_config", "load_config"]
