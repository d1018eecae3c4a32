"""Adds `configs/` to the package: in a wheel it is `mixer_jax/experiments/configs/`."""

from setuptools import find_packages, setup

setup(
  packages=[*find_packages(include=['mixer_jax*']), 'mixer_jax.experiments.configs'],
  package_dir={'mixer_jax.experiments.configs': 'configs'},
)
