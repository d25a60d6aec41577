/* q = x / scale in whole numbers of -127 to 127; returns the scale. */
static inline float fastgrnn_round(const float *x, int size, int8_t *q) {
  float largest = 0.0f;
  for (int i = 0; i < size; i++) {
    const float magnitude = fabsf(x[i]);
    if (magnitude > largest) largest = magnitude;
  }
  const float inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
  for (int i = 0; i < size; i++) {
    const float value = x[i] * inverse;
    q[i] = (int8_t)(value < 0.0f ? value - 0.5f : value + 0.5f);
  }
  return largest / 127.0f;
}
