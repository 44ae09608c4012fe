"""No telemetry: optional packages that phone home by default are kept from it, before they load."""

import os
import sys


def switch_off() -> None:
    """Switch off the telemetry of onnxruntime, OpenVINO, NNCF and the Hugging Face hub.

    onnxruntime 1.31 writes a device number below HOME when it is imported, and looks up a host of
    its vendor. OpenVINO's converter and NNCF send an event for each conversion, through a package
    that both do without when it cannot be imported.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # A process that imported it before has decided for itself.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
