"""Names that code written for nnsight imports, and that mean little here.

`Object` is for type hints. `NNsightDeprecationWarning` is never raised: nothing here is deprecated. `CONFIG`
takes the settings that such code makes at its top; of them `API.HOST` and `API.APIKEY` are read, for
`remote="ndif"`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch

__all__ = ["CONFIG", "NNsightDeprecationWarning", "Object"]

Object = torch.Tensor
"""What a value of a trace is: a plain tensor, where nnsight's hints say `Object`."""


class NNsightDeprecationWarning(FutureWarning):
    """Nothing raises it; it is here so that a warnings filter that names it still works."""


@dataclass
class _Api:
    HOST: str = os.environ.get("NDIF_HOST", "")
    APIKEY: str = field(default=os.environ.get("NDIF_API_KEY", ""), repr=False)
    COMPRESS: bool = True


@dataclass
class _App:
    DEBUG: bool = False
    REMOTE_LOGGING: bool = True


@dataclass
class _Config:
    API: _Api = field(default_factory=_Api)
    APP: _App = field(default_factory=_App)

    def set_default_api_key(self, key: str) -> None:
        """Keep a key for this process; it is not written anywhere."""
        self.API.APIKEY = key

    def set_default_app_debug(self, debug: bool = True) -> None:
        """Keep the switch for this process."""
        self.APP.DEBUG = debug


CONFIG = _Config()
