"""Floor 5: the configuration. One TOML file, overridden by the environment, checked whole before anything starts."""

from broker.config.load import check_config, load_config
from broker.config.model import Config
from broker.config.problem import ConfigError, Problem

__all__ = ["Config", "ConfigError", "Problem", "check_config", "load_config"]
