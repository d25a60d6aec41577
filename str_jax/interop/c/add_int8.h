/* y += m x, four columns at a time, where row i of m is scale * factors[i]
   times its numbers; x is rounded to int8, and the sums are whole numbers. */
static inline void fastgrnn_add(const int8_t *m, float scale,
                                const uint8_t *factors, int rows, int columns,
                                const float *x, int8_t *q, float *y) {
  scale *= fastgrnn_round(x, columns, q);
  for (int i = 0; i < rows; i++) {
    int32_t sum = 0;
    int j = 0;
    for (; j < columns - 3; j += 4, m += 4)
      sum += (int32_t)(m[0] * q[j]) + m[1] * q[j + 1] + m[2] * q[j + 2] +
             m[3] * q[j + 3]; /* the cast: four do not fit an int of 16 bits */
    for (; j < columns; j++) sum += *m++ * q[j];
    y[i] += scale * (float)factors[i] * (float)sum;
  }
}
