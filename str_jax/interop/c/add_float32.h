/* y += m x, four columns at a time. */
static inline void fastgrnn_add(const float *m, int rows, int columns,
                                const float *x, float *y) {
  for (int i = 0; i < rows; i++) {
    float sum = 0.0f;
    int j = 0;
    for (; j < columns - 3; j += 4, m += 4)
      sum += m[0] * x[j] + m[1] * x[j + 1] + m[2] * x[j + 2] + m[3] * x[j + 3];
    for (; j < columns; j++) sum += *m++ * x[j];
    y[i] += sum;
  }
}
