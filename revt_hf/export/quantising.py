"""8-bit graphs: onnxruntime's static quantisation, calibrated on images."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.models.onnx_file import require

# Layers with weights; attention's products of activations, sums and norms stay in float32.
_LAYERS = ["Conv", "Gemm", "MatMul"]


def quantise(
    graph: Path, output: Path, feeds: Sequence[dict[str, NDArray[Any]]], label: str
) -> None:
    """Write a graph with 8-bit weights and activations (QDQ), whose ranges are those of feeds.

    Weights have a scale for each channel and seven bits, with which processors without VNNI sum
    products exactly, too.
    """
    require("onnx", "onnxruntime")
    from onnxruntime.quantization import (  # type: ignore[import-untyped]
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Batches(CalibrationDataReader):
        """One feed after another, as onnxruntime asks for them."""

        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._feeds, None)

    logging.disable(logging.WARNING)  # It recommends what the exporter has done already.
    try:
        quantize_static(
            str(graph),
            str(output),
            Batches(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_LAYERS,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True},
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{label}: onnxruntime cannot quantise it: {reason}") from error
    finally:
        logging.disable(logging.NOTSET)
