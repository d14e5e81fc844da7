"""int8: calibrated ranges, quantized products, and the search for those to leave in float32."""
