"""What pyproject.toml cannot say: a folder from beside the packages that is installed into one."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["mailsrv*", "replay*"]), "replay.collection"],
    package_dir={"replay.collection": "captures"},
)
